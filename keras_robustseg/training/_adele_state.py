"""What ADELE remembers besides its masks: training curves, and the classes of every image."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import Adele
from keras_robustseg.labels._memorization import memorization_begins
from keras_robustseg.labels._store import _from_all_replicas, _scatter_add

EPOCHS = 1000
"""Epochs of a training curve that are remembered; a class that did not bend by then never does."""


class AdeleState(keras.layers.Layer):
    """Counts of an epoch, training curves of all epochs, and since when each class is corrected.

    Args:
        label_model: the configuration.
        num_images: number of training images.
        num_classes: C.
        name: layer name.
    """

    def __init__(
        self, label_model: Adele, num_images: int, num_classes: int, *, name: str = "adele"
    ) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.label_model, self.num_classes = label_model, num_classes
        self.counts = self._number("counts", (2, num_classes))
        self.curves = self._number("curves", (EPOCHS, num_classes))
        self.epochs = self._number("epochs", ())
        self.since = self._number("since", (num_classes,))
        self.present = self._number("present", (num_images, num_classes))
        self.built = True

    def _number(self, name: str, shape: tuple[int, ...]) -> Any:
        # Counts are a mean over replicas, which leaves their quotient as it is.
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def count(self, predicted: Any, yhat: Any, weight: Any, finite: Any) -> None:
        """Add intersection and union of predicted and given classes of a batch."""
        counted = ops.cast(weight > 0, "float32")[..., None]
        drawn = ops.one_hot(ops.argmax(yhat, axis=-1), self.num_classes, dtype="float32")
        found = ops.one_hot(predicted, self.num_classes, dtype="float32")
        axes = tuple(range(len(yhat.shape) - 1))
        both = ops.sum(counted * drawn * found, axis=axes)
        either = ops.sum(counted * ops.maximum(drawn, found), axis=axes)
        new = ops.where(finite, ops.stack([both, either]), 0.0)
        self.counts.assign(ops.convert_to_tensor(self.counts) + new)

    def see_classes(self, ids: Any, yhat: Any, weight: Any, finite: Any) -> Any:
        """Return which classes (B, C) the masks of these images have, in any part seen so far."""
        if not self.label_model.class_constraint:
            return None
        there = ops.where((weight > 0)[..., None], yhat, 0.0) > 0
        there = ops.cast(ops.any(there, axis=tuple(range(1, len(yhat.shape) - 1))), "float32")
        old = ops.take(ops.convert_to_tensor(self.present), ids, axis=0)
        # An image that a batch has twice adds twice: what counts is that the sum is not 0.
        change = ops.where(ops.logical_and(finite, old == 0), there, 0.0)
        index, rows = _from_all_replicas(ids[:, None], change)
        _scatter_add(self.present, index, rows)
        return ops.logical_or(old > 0, there > 0)

    def begun(self) -> Any:
        """Return 1 for the classes (C,) that are being corrected."""
        return ops.cast(ops.convert_to_tensor(self.since) > 0, "float32")

    def active(self) -> Any:
        """Whether corrections may change now, ()."""
        begun = ops.convert_to_tensor(self.since)
        if self.label_model.repeat:
            return ops.any(begun > 0)
        return ops.any(ops.logical_and(begun > 0, begun == ops.convert_to_tensor(self.epochs)))

    def end_epoch(self) -> bool:
        """Append to the curves; return whether a class has begun to be corrected."""
        both, either = ops.convert_to_numpy(self.counts)
        self.counts.assign(ops.zeros_like(self.counts))
        done = int(ops.convert_to_numpy(self.epochs))
        if done >= EPOCHS:
            return False
        curves, since = (np.array(ops.convert_to_numpy(v)) for v in (self.curves, self.since))
        curves[done] = both / np.maximum(either, 1.0)
        due = [
            c for c in range(1, self.num_classes) if not since[c] and self._bent(curves, done, c)
        ]
        since[due] = done + 1
        self.curves.assign(curves)
        self.since.assign(since)
        self.epochs.assign(done + 1)
        return bool(due)

    def _bent(self, curves: np.ndarray, done: int, number: int) -> bool:
        return memorization_begins(curves[: done + 1, number], self.label_model.slope_drop)
