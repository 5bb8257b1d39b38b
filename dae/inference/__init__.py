"""Stored models applied to image files and to arrays of any size."""
