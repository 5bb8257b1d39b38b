"""Whether the champion still does as well as when it was scored."""
