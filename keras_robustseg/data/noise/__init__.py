"""Annotation noise: what people and tools do wrong when they draw masks, seeded per sample.

Every function returns a callable `noise(mask, seed=...) -> mask` on class indices `(H, W)` or
`(D, H, W)`, in NumPy and SciPy; void (negative) pixels are left alone.
"""

from keras_robustseg.data.noise._config import KINDS, from_config
from keras_robustseg.data.noise._fields import FIELDS, STRENGTH, Field
from keras_robustseg.data.noise._markov import markov
from keras_robustseg.data.noise._measure import measure
from keras_robustseg.data.noise._mixture import Mixture, describe, mixture
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.data.noise._objects import class_flip, extra, missing
from keras_robustseg.data.noise._pixels import pixel_flip
from keras_robustseg.data.noise._polygon import polygon
from keras_robustseg.data.noise._reader import LIDC_READERS, ReaderParameters, reader
from keras_robustseg.data.noise._regions import dilate, erode
from keras_robustseg.data.noise._target import to_target_dice
from keras_robustseg.data.noise._warp import elastic, shift

__all__ = [
    "FIELDS",
    "KINDS",
    "LIDC_READERS",
    "STRENGTH",
    "Field",
    "Mixture",
    "Noise",
    "ReaderParameters",
    "class_flip",
    "describe",
    "dilate",
    "elastic",
    "erode",
    "extra",
    "from_config",
    "markov",
    "measure",
    "missing",
    "mixture",
    "pixel_flip",
    "polygon",
    "reader",
    "shift",
    "to_target_dice",
]
