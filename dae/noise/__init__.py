"""Noise: its kinds, their strengths, how it is drawn, and how strong it is in an image."""
