"""Keras losses for segmentation under label uncertainty."""
