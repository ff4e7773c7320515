"""Keras layers for segmentation networks."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.layers._equilibrium import MonotoneEquilibrium
from keras_robustseg.layers._stochastic import LowRankNormalHead, MeanLogits, sample_masks
from keras_robustseg.layers._tv_segmentation import TVSegmentation
from keras_robustseg.layers._unrolled import UnrolledProximalNetwork

__all__ = [
    "LowRankNormalHead",
    "MeanLogits",
    "MonotoneEquilibrium",
    "TVSegmentation",
    "UnrolledProximalNetwork",
    "sample_masks",
]

_register(__name__)
