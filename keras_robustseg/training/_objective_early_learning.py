"""Early-learning regularisation in training: the loss, and the step of the targets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_robustseg.labels import EarlyLearning, LabelStore, label_distribution
from keras_robustseg.labels._early_learning import next_target
from keras_robustseg.training._objective import (
    Objective,
    Setting,
    output_shares,
    pixel_mean,
    pixel_rows,
    read_batch,
    region_loss,
    row_store,
)


class _Batch(NamedTuple):
    yhat: Any
    weight: Any
    rows: Any
    target: Any
    step: Any


class EarlyLearningObjective(Objective):
    """CE + weight log(1 - <t, p>), with targets t in a table of C numbers per pixel.

    Args:
        label_model: the configuration.
        setting: of the training.
    """

    has_belief = counts_changes = True
    phases = ("warm-up", "early learning", "fine-tuning")

    def __init__(self, label_model: EarlyLearning, setting: Setting) -> None:
        self.label_model, self.num_classes = label_model, setting.num_classes
        self.region_weight = setting.region_weight
        # A store keeps a number less than it is told of classes; a target needs all of them,
        # because its sum 1 - beta^n says how often the pixel was seen.
        self.store: LabelStore = row_store(label_model, setting, self.num_classes + 1)
        self.layers = [self.store]

    def read_ahead(self, x: Any) -> None:
        """Start to read the targets of a batch."""
        self.store.read_ahead(pixel_rows(x, self.store)[0])

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Any, Any]:
        """Return the loss, the batch, and log p of the main output."""
        yhat, weight, log_ps = read_batch(y, outputs, sample_weight, self.num_classes)
        batch = self._with_targets(x, yhat, weight, log_ps[0]) if training else None
        loss = 0.0
        for share, log_p in zip(output_shares(len(log_ps)), log_ps, strict=True):
            if batch is None:
                pixel = -ops.sum(yhat * log_p, axis=-1)
            else:
                pixel = self.label_model.pixel_loss(log_p, batch.target, yhat)
            region = region_loss(log_p, yhat, weight, self.region_weight)
            loss = loss + share * (pixel_mean(pixel, weight) + region)
        return loss, batch, log_ps[0]

    def _with_targets(self, x: Any, yhat: Any, weight: Any, log_p: Any) -> _Batch:
        rows = pixel_rows(x, self.store)
        before = self.store.read(*rows)
        p = ops.exp(ops.stop_gradient(log_p))
        # Interpolated rows may leave the simplex by a rounding, or where an image ends.
        target = next_target(ops.clip(before, 0.0, 1.0), p, self.label_model.momentum)
        return _Batch(yhat, weight, rows, target, target - before)

    def move_labels(self, batch: _Batch, log_p: Any, finite: Any) -> None:
        """Move the targets of the pixels that count."""
        active = ops.logical_and(finite, batch.weight > 0)[..., None]
        step = ops.where(active, batch.step, 0.0)
        index, weight = batch.rows
        self.store.add(index, step, weight)

    def changed(self, batch: _Batch) -> tuple[Any, Any]:
        """Return where the target names another class than the mask."""
        moved = ops.argmax(batch.target, axis=-1) != ops.argmax(batch.yhat, axis=-1)
        return ops.cast(moved, "float32"), ops.cast(batch.weight > 0, "float32")

    def corrected(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return t/sum(t) (*S, C); the given mask at pixels that were never seen."""
        target = np.maximum(self.store.sample(sample), 0.0)
        mask = ops.convert_to_tensor(mask)[None]
        yhat, _ = label_distribution(mask, self.num_classes, rank=target.ndim + 1)
        total = target.sum(axis=-1, keepdims=True)
        share = target / np.maximum(total, 1e-37)
        return np.where(total > 0, share, ops.convert_to_numpy(yhat[0])).astype("float32")
