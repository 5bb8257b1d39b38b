"""A stored model as a service over HTTP."""
