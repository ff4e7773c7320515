"""The objective of a training with a label model, and the step of its label rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_robustseg.labels import (
    LabelStore,
    Pencil,
    base_weights,
    full_logits,
    label_distribution,
    log_probabilities,
)
from keras_robustseg.losses import replica_count, soft_dice
from keras_robustseg.training._teacher import Teacher


def output_shares(count: int) -> list[float]:
    """Return the weights 1, 1/2, 1/4 ... of deeply supervised outputs, summing to 1."""
    raw = [0.5**k for k in range(count)]
    return [value / sum(raw) for value in raw]


@dataclass(frozen=True)
class Clock:
    """Counters of the trainer, int32 variables: where in its phases a training is."""

    step: Any
    warmup_end: Any
    finetune_start: Any

    def warming(self) -> Any:
        """Whether the masks are still taken as given."""
        return ops.less(self.step, self.warmup_end)

    def frozen(self) -> Any:
        """Whether the labels are fixed by now."""
        return ops.logical_not(ops.less(self.step, self.finetune_start))


@dataclass(frozen=True)
class Batch:
    """What a loss needs of a batch.

    Attributes:
        yhat: (B, *S, C) given mask.
        log_q: (B, *S, C) label distribution.
        weight: (B, *S) of the pixels, 0 at void ones.
        rows: where the store keeps the pixels, None without a store.
        moving: bool, broadcastable to (B, *S): whether labels move in this step.
    """

    yhat: Any
    log_q: Any
    weight: Any
    rows: tuple[Any, Any] | None
    moving: Any


class LabelObjective:
    """L(p, q, yhat) + gamma region(p, q) on a batch, and the step of the rows that q comes from.

    Args:
        pencil: the label model.
        store: its rows, or None where it keeps none.
        num_classes: C.
        region_weight: gamma; a batch of single labels, (B, C), has no region.
        clock: the trainer's counters.
        teacher: the moving average of the network, for `store="teacher"`.
    """

    def __init__(
        self,
        pencil: Pencil,
        store: LabelStore | None,
        num_classes: int,
        region_weight: float,
        clock: Clock,
        teacher: Teacher | None = None,
    ) -> None:
        self.pencil, self.store, self.num_classes = pencil, store, num_classes
        self.region_weight, self.clock, self.teacher = region_weight, clock, teacher
        self.margin = pencil.margin(num_classes)

    def read_ahead(self, x: Any) -> None:
        """Start to read the label rows of a batch, before the network has seen it."""
        if self.store is not None:
            self.store.read_ahead(self._rows(x)[0])

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Batch, Any]:
        """Return the loss, the batch as it was read, and log p of the main output."""
        yhat, valid = label_distribution(y, self.num_classes, rank=len(outputs[0].shape))
        weight = base_weights(valid, sample_weight)
        seen = ops.not_equal(weight, 0)
        yhat = ops.where(seen[..., None], yhat, 0.0)
        log_ps = [log_probabilities(output, where=seen) for output in outputs]
        rows = self._rows(x) if training and self.store is not None else None
        believed = self._believed(x, log_ps[0], seen) if training else None
        log_q = ops.stop_gradient(self._log_labels(rows, yhat, believed))
        still = ops.logical_or(self.clock.warming(), self.clock.frozen())
        batch = Batch(yhat, log_q, weight, rows, ops.logical_not(still))
        loss = 0.0
        for share, log_p in zip(output_shares(len(log_ps)), log_ps, strict=True):
            loss = loss + share * self._value(log_p, batch, training)
        return loss / replica_count(), batch, log_ps[0]

    def _rows(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, dict) or "sample_id" not in x:
            raise ValueError(
                "This label model keeps a row per pixel and has to know which image it sees. "
                'Expected inputs {"image": ..., "sample_id": ...}. Received: an image alone.'
            )
        if "pixel_index" in x:
            return x["pixel_index"], x.get("pixel_weight")
        assert self.store is not None
        return self.store.index(x["sample_id"]), None

    def _believed(self, x: Any, log_p: Any, seen: Any) -> Any:
        """log p that labels without rows follow: the teacher's where there is one."""
        if self.teacher is None:
            return log_p
        return log_probabilities(self.teacher.predict(x), where=seen)

    def _log_labels(self, rows: Any, yhat: Any, believed: Any) -> Any:
        """log q (B, *S, C): as given, plus the rows, or the optimum once the warm-up is over."""
        start = self.pencil.start(yhat)
        if rows is not None and self.store is not None:
            return log_probabilities(start + full_logits(self.store.read(*rows)))
        log_q = log_probabilities(start)
        if believed is None or self.store is not None:
            return log_q
        optimum = self.pencil.optimum(believed, yhat, flip_margin=self.margin)
        return ops.where(self.clock.warming(), log_q, optimum)

    def _value(self, log_p: Any, batch: Batch, training: bool) -> Any:
        pixel = self._class_terms(log_p, batch, training)
        total = ops.maximum(ops.sum(batch.weight), 1e-37)
        loss = ops.sum(batch.weight[..., None] * pixel) / total
        if not self.region_weight or len(log_p.shape) == 2:
            return loss
        region = soft_dice(ops.exp(log_p), ops.exp(batch.log_q), batch.weight)
        return loss + self.region_weight * region

    def _class_terms(self, log_p: Any, batch: Batch, training: bool) -> Any:
        """What each class adds to the pixel loss, (B, *S, C): all phases have one form,

            a D(p, q) + b p log p + c K(q, yhat) - d yhat log p

        with divergence D and compatibility K of the label model, and numbers a to d that change
        with the phase, so that one sum is enough.
        """
        if not training:
            return -batch.yhat * log_p
        a, b, c, d = self._coefficients()
        own = a * self.pencil.divergence_terms(log_p, batch.log_q) + b * ops.exp(log_p) * log_p
        given = self.pencil.compatibility_terms(batch.log_q, batch.yhat)
        return own + c * given - d * batch.yhat * log_p

    def _coefficients(self) -> tuple[Any, Any, Any, Any]:
        """(a, b, c, d): cross-entropy in the warm-up, then L, then the divergence/C alone."""
        warm = ops.cast(self.clock.warming(), "float32")
        moving = (1.0 - warm) * (1.0 - ops.cast(self.clock.frozen(), "float32"))
        share, of_each = (1.0 - warm) / self.num_classes, moving / self.num_classes
        return share, -of_each * self.pencil.entropy, of_each * self.margin, warm

    def changed(self, batch: Batch) -> tuple[Any, Any]:
        """Return where the label's class is not the given one (B, *S), and which pixels count."""
        log_q, yhat = batch.log_q, batch.yhat
        if self.num_classes == 2:  # a product of margins costs a tenth of two argmax
            moved = (log_q[..., 1] - log_q[..., 0]) * (yhat[..., 1] - yhat[..., 0]) < 0
        else:
            moved = ops.argmax(log_q, axis=-1) != ops.argmax(yhat, axis=-1)
        return ops.cast(moved, "float32"), ops.cast(batch.weight > 0, "float32")

    def move_labels(self, batch: Batch, log_p: Any, finite: Any) -> None:
        """Take one gradient step on the rows of the batch, in the correction phase.

        Args:
            batch: as `loss` returned it.
            log_p: (B, *S, C) of the main output.
            finite: bool (), whether loss and gradients are; if not, the rows stay.
        """
        if self.store is None or batch.rows is None:
            return
        active = ops.logical_and(batch.moving, finite)
        active = ops.logical_and(active, batch.weight > 0)[..., None]
        log_p = ops.stop_gradient(log_p)
        step = self.pencil.row_step(log_p, batch.log_q, batch.yhat, flip_margin=self.margin)
        step = ops.where(active, self.pencil.label_rate * step, 0.0)
        index, weight = batch.rows
        self.store.add(index, step, weight)
