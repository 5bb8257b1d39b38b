"""Prefect tasks, one per file: a few lines over the library each. They exchange small records, so no inputs are cached."""
