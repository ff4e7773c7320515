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
    initial_logits,
    label_distribution,
    log_probabilities,
    optimal_labels,
    row_step,
)
from keras_robustseg.losses import replica_count, soft_dice


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
    """What a loss needs of a batch: yhat, q (log), weights of pixels, rows of the store."""

    yhat: Any
    log_q: Any
    weight: Any
    rows: tuple[Any, Any] | None


class LabelObjective:
    """L(p, q, yhat) + gamma region(p, q) on a batch, and the step of the rows that q comes from.

    Args:
        pencil: the label model.
        store: its rows, or None for `store="none"`.
        num_classes: C.
        region_weight: gamma.
        clock: the trainer's counters.
    """

    def __init__(
        self,
        pencil: Pencil,
        store: LabelStore | None,
        num_classes: int,
        region_weight: float,
        clock: Clock,
    ) -> None:
        self.pencil, self.store, self.num_classes = pencil, store, num_classes
        self.region_weight, self.clock = region_weight, clock
        self.margin = pencil.margin(num_classes)

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
        log_q = ops.stop_gradient(self._log_labels(rows, yhat, log_ps[0], training))
        batch = Batch(yhat, log_q, weight, rows)
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

    def _log_labels(self, rows: Any, yhat: Any, log_p: Any, training: bool) -> Any:
        start = initial_logits(yhat, self.pencil.initial_logit)
        if training and self.store is not None:
            start = start + full_logits(self.store.read(*rows))
        log_q = log_probabilities(start)
        if not training or self.store is not None:
            return log_q
        optimum = optimal_labels(log_p, yhat, flip_margin=self.margin)
        return ops.where(self.clock.warming(), log_q, optimum)

    def _value(self, log_p: Any, batch: Batch, training: bool) -> Any:
        pixel = self._class_terms(log_p, batch, training)
        total = ops.maximum(ops.sum(batch.weight), 1e-37)
        loss = ops.sum(batch.weight[..., None] * pixel) / total
        if not self.region_weight:
            return loss
        region = soft_dice(ops.exp(log_p), ops.exp(batch.log_q), batch.weight)
        return loss + self.region_weight * region

    def _class_terms(self, log_p: Any, batch: Batch, training: bool) -> Any:
        """What each class adds to the pixel loss, (B, *S, C): all phases have one form,

            a p log p - b p log q - c yhat log q - d yhat log p

        with numbers a to d that change with the phase, so that one sum is enough.
        """
        if not training:
            return -batch.yhat * log_p
        a, b, c, d = self._coefficients()
        own = ops.exp(log_p) * (a * log_p - b * batch.log_q)
        return own - batch.yhat * (c * batch.log_q + d * log_p)

    def _coefficients(self) -> tuple[Any, Any, Any, Any]:
        """(a, b, c, d): cross-entropy in the warm-up, then L, then KL(p || q)/C alone."""
        warm = ops.cast(self.clock.warming(), "float32")
        moving = (1.0 - warm) * (1.0 - ops.cast(self.clock.frozen(), "float32"))
        share = (1.0 - warm) / self.num_classes
        entropy = moving * self.pencil.entropy / self.num_classes
        return share - entropy, share, moving * self.margin / self.num_classes, warm

    def changed(self, batch: Batch) -> tuple[Any, Any]:
        """Return where the label's class is not the given one (B, *S), and which pixels count."""
        log_q, yhat = batch.log_q, batch.yhat
        if self.num_classes == 2:  # a product of margins costs a tenth of two argmax
            moved = (log_q[..., 1] - log_q[..., 0]) * (yhat[..., 1] - yhat[..., 0]) < 0
        else:
            moved = ops.argmax(log_q, axis=-1) != ops.argmax(yhat, axis=-1)
        return ops.cast(moved, "float32"), ops.cast(batch.weight > 0, "float32")

    def move_labels(self, batch: Batch, log_p: Any, loss: Any) -> None:
        """Take one gradient step on the rows of the batch, in the correction phase."""
        if self.store is None or batch.rows is None:
            return
        still = ops.logical_or(self.clock.warming(), self.clock.frozen())
        active = ops.logical_and(ops.logical_not(still), ops.isfinite(loss))
        active = ops.logical_and(active, batch.weight > 0)[..., None]
        p = ops.stop_gradient(ops.exp(log_p))
        step = row_step(p, ops.exp(batch.log_q), batch.yhat, flip_margin=self.margin)
        step = ops.where(active, self.pencil.label_rate * step, 0.0)
        index, weight = batch.rows
        self.store.add(index, step, weight)
