"""The networks, and how a trained one is applied to images."""
