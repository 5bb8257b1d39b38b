"""Prefect flows: their tasks in reading order."""
