"""Segmentation metrics with a stated empty-mask rule."""
