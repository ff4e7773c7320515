"""Where confusion matrices come from: one table for all pixels, or a small network per pixel."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels._confusion_terms import (
    ReaderVotes,
    low_rank_likelihood,
    low_rank_matrices,
    matrix_likelihood,
)

_DILATIONS = (1, 2, 4)


class GlobalMatrices(keras.layers.Layer):
    """T_r = softmax of the rows of a table (R, C, C); T_r[k, k] starts at `trust`."""

    def __init__(self, num_annotators: int, num_classes: int, trust: float) -> None:
        super().__init__(name="matrices", dtype="float32")
        rest = (1.0 - trust) / (num_classes - 1)
        start = np.log(np.where(np.eye(num_classes, dtype=bool), trust, rest))
        self.logits = self.add_weight(
            name="logits",
            shape=(num_annotators, num_classes, num_classes),
            initializer=lambda shape, dtype=None: ops.cast(np.broadcast_to(start, shape), dtype),
            autocast=False,
        )
        self.built = True

    def matrices(self, image: Any = None, log_p: Any = None) -> Any:
        """Return T (R, C, C)."""
        return ops.softmax(self.logits, axis=-1)

    def likelihood(self, votes: ReaderVotes, image: Any, log_p: Any) -> tuple[Any, Any]:
        """Return log T_r[k, y_r] (B, *S, R, C) and tr T_r (R,)."""
        log_matrices = ops.log_softmax(self.logits, axis=-1)
        trace = ops.sum(ops.exp(ops.diagonal(log_matrices, axis1=1, axis2=2)), axis=-1)
        return matrix_likelihood(log_matrices, votes), trace


class PixelMatrices(keras.layers.Layer):
    """Low-rank matrices of each pixel, from the image and the prediction by three convolutions.

    The prediction tells where the outline is, which an error of the outline depends on; it is
    taken as it is (no gradient), so any network will do. The last convolution starts at zero:
    every T_r[k, k] is `trust`, for all pixels.
    """

    def __init__(
        self, num_annotators: int, num_classes: int, trust: float, rank: int, width: int
    ) -> None:
        super().__init__(name="matrices", dtype="float32")
        self.num_annotators, self.num_classes = num_annotators, num_classes
        self.trust, self.rank, self.width = trust, rank, width

    def build(self, image_shape: Any) -> None:
        """Create the convolutions for images (B, *S, channels)."""
        kinds = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
        conv, classes = kinds[len(image_shape)], self.num_classes
        shape = (*image_shape[:-1], image_shape[-1] + classes)
        self.hidden = [
            conv(
                self.width,
                3,
                padding="same",
                dilation_rate=rate,
                activation="relu",
                dtype="float32",
                name=f"hidden_{rate}",
            )
            for rate in _DILATIONS
        ]
        channels = self.num_annotators * (1 + self.rank) * classes
        self.last = conv(channels, 1, kernel_initializer="zeros", dtype="float32", name="last")
        for layer in (*self.hidden, self.last):
            layer.build(shape)
            shape = (*shape[:-1], layer.filters)
        self.assignment = self.add_weight(
            name="assignment",
            shape=(self.num_annotators, classes, self.rank),
            initializer=_each_class_its_profile,
            autocast=False,
        )
        self.built = True

    def _parts(self, image: Any, log_p: Any) -> tuple[Any, Any, Any]:
        """Gates (B, *S, R, C), profiles (B, *S, R, L, C), assignment (R, C, L)."""
        values = [_standardized(ops.cast(image, "float32")), ops.exp(ops.stop_gradient(log_p))]
        values = ops.concatenate(values, axis=-1)
        for layer in (*self.hidden, self.last):
            values = layer(values)
        shape = (self.num_annotators, 1 + self.rank, self.num_classes)
        space = tuple(ops.shape(values)[:-1])
        values = ops.reshape(values, (*space, *shape))
        # With uniform profiles T[k, k] = 1 - g + g/C.
        error = (1.0 - self.trust) * self.num_classes / (self.num_classes - 1)
        gates = ops.sigmoid(values[..., 0, :] + math.log(error / (1.0 - error)))
        return gates, _softmax(values[..., 1:, :]), _softmax(self.assignment)

    def matrices(self, image: Any, log_p: Any) -> Any:
        """Return T (B, *S, R, C, C)."""
        return low_rank_matrices(*self._parts(image, log_p))

    def likelihood(self, votes: ReaderVotes, image: Any, log_p: Any) -> tuple[Any, Any]:
        """Return log T_r[k, y_r] (B, *S, R, C) and tr T_r (B, *S, R)."""
        return low_rank_likelihood(*self._parts(image, log_p), votes)


def _softmax(values: Any) -> Any:
    # TensorFlow's own takes five axes at most on a CPU, and Keras' warns of an axis of size 1.
    return ops.exp(values - ops.logsumexp(values, axis=-1, keepdims=True))


def _each_class_its_profile(shape: Any, dtype: Any = None) -> Any:
    """Profiles that start equal would stay equal: class k leans towards profile k mod L."""
    _, classes, rank = shape
    leaning = np.eye(rank)[np.arange(classes) % rank]
    return ops.cast(np.broadcast_to(leaning, shape), dtype)


def _standardized(image: Any) -> Any:
    """Every image and channel with mean 0 and deviation 1: heads do not know its units."""
    axes = tuple(range(1, len(image.shape) - 1))
    mean = ops.mean(image, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(image - mean), axis=axes, keepdims=True)
    return (image - mean) * ops.rsqrt(variance + 1e-6)
