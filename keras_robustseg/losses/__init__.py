"""Keras losses for segmentation under label uncertainty."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.losses._base import SegmentationLoss, replica_count
from keras_robustseg.losses._cross_entropy import CrossEntropy, cross_entropy
from keras_robustseg.losses._cross_entropy_dice import CrossEntropyDice
from keras_robustseg.losses._jensen_shannon import (
    GeneralizedJensenShannon,
    generalized_jensen_shannon,
)
from keras_robustseg.losses._soft_dice import SoftDice, soft_dice, soft_dice_per_image

__all__ = [
    "CrossEntropy",
    "CrossEntropyDice",
    "GeneralizedJensenShannon",
    "SegmentationLoss",
    "SoftDice",
    "cross_entropy",
    "generalized_jensen_shannon",
    "replica_count",
    "soft_dice",
    "soft_dice_per_image",
]

_register(__name__)
