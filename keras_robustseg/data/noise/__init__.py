"""Annotation noise, seeded per sample."""
