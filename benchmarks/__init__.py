"""Measurements, each as a ratio of two things run side by side on one machine: ``make bench``."""
