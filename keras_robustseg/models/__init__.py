"""Segmentation networks, and prediction on large images."""
