"""Cleaning up, closing runs that were killed, and training a run again."""
