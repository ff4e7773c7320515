"""Keras layers for segmentation networks."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.layers._stochastic import LowRankNormalHead, MeanLogits, sample_masks

__all__ = ["LowRankNormalHead", "MeanLogits", "sample_masks"]

_register(__name__)
