"""ADELE in training: predictions at several scales, and the step of the corrected masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_robustseg.labels import (
    Adele,
    LabelStore,
    full_logits,
    initial_logits,
    label_distribution,
    log_probabilities,
)
from keras_robustseg.labels._adele import (
    SURE,
    confident_pixels,
    corrected_classes,
    log_mean,
    resize_linear,
    scale_divergence,
)
from keras_robustseg.training._adele_state import AdeleState
from keras_robustseg.training._objective import (
    Given,
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
    ids: Any
    offsets: Any
    q: Any
    log_m: Any


class AdeleObjective(Objective):
    """Cross-entropy with the masks as corrected, + consistency of the scales.

    Args:
        label_model: the configuration.
        setting: of the training.

    Raises:
        ValueError: the shapes of the training images are not known.
    """

    has_belief = counts_changes = True
    phases = ("early learning", "correction", "correction")

    def __init__(self, label_model: Adele, setting: Setting) -> None:
        self.label_model, self.setting = label_model, setting
        self.num_classes = setting.num_classes
        self.store: LabelStore = row_store(label_model, setting, self.num_classes)
        self.state = AdeleState(label_model, len(self.store.shapes), self.num_classes)
        self.layers = [self.store, self.state]

    def read_ahead(self, x: Any) -> None:
        """Start to read the corrections of a batch."""
        self.store.read_ahead(pixel_rows(x, self.store)[0])

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Any, Any]:
        """Return the loss, the batch, and log p of the main output."""
        given = read_batch(y, outputs, sample_weight, self.num_classes)
        if not training:
            return self._masks_term(given, given.yhat), None, given.log_ps[0]
        rows = pixel_rows(x, self.store)
        offsets = self.store.read(*rows)
        q = ops.stop_gradient(corrected_labels(given.yhat, offsets))
        scaled = [
            log_p for s in self.label_model.scales if s != 1 for log_p in self._at(s, x, given)
        ]
        log_m = log_mean([given.log_ps[0], *scaled])
        loss = self._masks_term(given, q)
        for log_p in scaled:
            loss = loss + pixel_mean(-ops.sum(q * log_p, axis=-1), given.weight)
        loss = loss / float(1 + len(scaled)) + self._scales_term(
            [given.log_ps[0], *scaled], log_m, given
        )
        loss = loss + region_loss(given.log_ps[0], q, given.weight, self.setting.region_weight)
        batch = _Batch(
            given.yhat, given.weight, rows, x["sample_id"], offsets, q, ops.stop_gradient(log_m)
        )
        return loss, batch, given.log_ps[0]

    def _masks_term(self, given: Given, q: Any) -> Any:
        loss = 0.0
        for share, log_p in zip(output_shares(len(given.log_ps)), given.log_ps, strict=True):
            loss = loss + share * pixel_mean(-ops.sum(q * log_p, axis=-1), given.weight)
        return loss

    def _scales_term(self, log_ps: list[Any], log_m: Any, given: Given) -> Any:
        sure = confident_pixels(ops.exp(ops.stop_gradient(log_m)), self.label_model.gate)
        divergence = ops.where(sure, scale_divergence(log_ps, log_m), 0.0)
        return self.label_model.consistency * pixel_mean(divergence, given.weight)

    def _at(self, scale: float, x: Any, given: Given) -> Any:
        """log p (B, *S, C) for the image resized by `scale`, in a list."""
        image = x["image"]
        sizes = tuple(image.shape[1:-1])
        if None in sizes:
            raise ValueError(
                "ADELE resizes the images of a batch, so their size must be known. Expected "
                f"static spatial axes. Received: shape={tuple(image.shape)}"
            )
        resized = resize_linear(image, [max(1, round(scale * size)) for size in sizes])
        outputs = self.setting.network(resized, training=True)
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        logits = resize_linear(ops.cast(logits, "float32"), sizes)
        return [log_probabilities(logits, where=ops.not_equal(given.weight, 0))]

    def move_labels(self, batch: _Batch, log_p: Any, finite: Any) -> None:
        """Count agreement with the given masks, and correct the pixels of classes that are due."""
        predicted = ops.argmax(ops.stop_gradient(log_p), axis=-1)
        self.state.count(predicted, batch.yhat, batch.weight, finite)
        present = self.state.see_classes(batch.ids, batch.yhat, batch.weight, finite)
        correct, classes = corrected_classes(
            ops.exp(batch.log_m),
            ops.argmax(batch.yhat, axis=-1),
            self.state.begun(),
            present,
            confidence=self.label_model.confidence,
        )
        new = (ops.one_hot(classes, self.num_classes, dtype="float32") - 1.0) * SURE
        new = relative_to_first(new - initial_logits(batch.yhat, SURE))
        step = ops.where(correct[..., None], new, 0.0) - batch.offsets
        active = ops.logical_and(self.state.active(), ops.logical_and(finite, batch.weight > 0))
        index, weight = batch.rows
        self.store.add(index, ops.where(active[..., None], step, 0.0), weight)

    def changed(self, batch: _Batch) -> tuple[Any, Any]:
        """Return where the corrected class is not the given one."""
        moved = ops.argmax(batch.q, axis=-1) != ops.argmax(batch.yhat, axis=-1)
        return ops.cast(moved, "float32"), ops.cast(batch.weight > 0, "float32")

    def plan(self, total_steps: int) -> None:
        """Until a class is corrected, the training is in its first phase."""
        if not np.any(ops.convert_to_numpy(self.state.begun())):
            self.setting.clock.warmup_end.assign(total_steps)

    def end_epoch(self) -> None:
        """Look at the training curves; begin to correct the classes that are about to bend."""
        first = not np.any(ops.convert_to_numpy(self.state.begun()))
        if self.state.end_epoch() and first:
            self.setting.clock.warmup_end.assign(self.setting.clock.step)

    def corrected(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return the corrected mask (*S, C) of a training image."""
        offsets = ops.convert_to_tensor(self.store.sample(sample))
        mask = ops.convert_to_tensor(mask)[None]
        yhat, _ = label_distribution(mask, self.num_classes, rank=len(offsets.shape) + 1)
        return ops.convert_to_numpy(corrected_labels(yhat[0], offsets))


def corrected_labels(yhat: Any, offsets: Any) -> Any:
    """Return q (..., C): the given mask where its offsets (..., C-1) are 0, else as corrected."""
    logits = initial_logits(yhat, SURE) + full_logits(offsets)
    untouched = ops.all(ops.equal(offsets, 0.0), axis=-1, keepdims=True)
    return ops.where(untouched, yhat, ops.softmax(logits, axis=-1))


def relative_to_first(logits: Any) -> Any:
    """Return logits (..., C) as C-1 offsets relative to class 0."""
    return logits[..., 1:] - logits[..., :1]
