"""Data sources, checks, annotation noise and the input pipeline."""
