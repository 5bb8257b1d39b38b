"""Prefect tasks, one a file: a few lines over the library each. They exchange small records, so no inputs are cached."""
