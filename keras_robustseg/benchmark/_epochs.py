"""Dice of every epoch on validation and test images, cheaply: one compiled call per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_robustseg.metrics import MaskEvaluation, evaluate_masks

Predict = Callable[[Any, np.ndarray], npt.ArrayLike]
"""Class ids (B, *S) that a trainer gives images (B, *S, channels)."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images of a split, and the masks that predictions are compared with.

    Args:
        images: (*S, channels) each.
        given: class ids (*S) each, as they were drawn.
        truth: class ids (*S) each, as they should have been drawn.
    """

    images: Sequence[np.ndarray]
    given: Sequence[np.ndarray]
    truth: Sequence[np.ndarray]


def network_argmax(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the most probable class of every pixel, as the exported network would."""
    logits = model.served.predict_on_batch(images)
    logits = np.asarray(logits[0] if isinstance(logits, list | tuple) else logits)
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(int)
    return logits.argmax(axis=-1)


def predicted(model: Any, images: Sequence[np.ndarray], predict: Predict, size: int) -> list:
    """Return the class ids (*S) of each image; every call has the same number of images.

    Images of different size are predicted one by one.
    """
    size = size if len({image.shape for image in images}) == 1 else 1
    found: list[np.ndarray] = []
    for start in range(0, len(images), size):
        batch = list(images[start : start + size])
        # The last batch is filled up: another size would be compiled once more.
        filled = np.stack(batch + [batch[-1]] * (size - len(batch)))
        found.extend(np.asarray(predict(model, filled))[: len(batch)])
    return found


class EpochScores(keras.callbacks.Callback):
    """Predicts both splits at the end of an epoch and keeps the figures.

    Args:
        validation, test: the splits; validation may be None.
        num_classes: C.
        predict: how a trainer predicts.
        batch_size: images a call.
        every: epochs from one look to the next; the last epoch is always looked at.

    Attributes:
        epochs: the epochs that were looked at, from 1.
        given_validation: Dice on validation against the masks as given, an entry an epoch.
        true_validation: the same against the truth.
        test: evaluation on the test images, an entry an epoch.
    """

    def __init__(
        self,
        validation: Split | None,
        test: Split,
        num_classes: int,
        *,
        predict: Predict,
        batch_size: int,
        every: int = 1,
    ) -> None:
        super().__init__()
        self._validation, self._test, self._classes = validation, test, num_classes
        self._predict, self._batch_size, self._every = predict, batch_size, every
        self.epochs: list[int] = []
        self.given_validation: list[float] = []
        self.true_validation: list[float] = []
        self.test: list[MaskEvaluation] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look at the network."""
        done = epoch + 1
        if done % self._every and done != self.params["epochs"]:
            return
        self.epochs.append(done)
        if self._validation is not None:
            found = self._found(self._validation)
            given, true = self._validation.given, self._validation.truth
            self.given_validation.append(self._compare(found, given).mean("dice"))
            self.true_validation.append(self._compare(found, true).mean("dice"))
        self.test.append(self._compare(self._found(self._test), self._test.truth))

    def _found(self, split: Split) -> list[np.ndarray]:
        return predicted(self.model, split.images, self._predict, self._batch_size)

    def _compare(self, found: list[np.ndarray], masks: Sequence[np.ndarray]) -> MaskEvaluation:
        return evaluate_masks(found, masks, self._classes, surface=False)
