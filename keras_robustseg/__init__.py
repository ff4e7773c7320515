"""Train Keras segmentation networks on masks that are wrong in places."""

__version__ = "0.1.0"
