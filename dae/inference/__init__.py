"""A stored model applied to image files and arrays of any size."""
