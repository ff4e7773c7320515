"""The objective of a training with a label model, and the step of its label rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_robustseg.labels import (
    LabelStore,
    Pencil,
    full_logits,
    label_distribution,
    log_probabilities,
    make_label_store,
)
from keras_robustseg.training._correction import Correction, Permission
from keras_robustseg.training._objective import (
    Clock,
    Objective,
    Setting,
    of_all,
    output_shares,
    pixel_rows,
    read_batch,
    region_loss,
)
from keras_robustseg.training._teacher import Teacher


@dataclass(frozen=True)
class Batch:
    """What a loss needs of a batch.

    Attributes:
        yhat: (B, *S, C) given mask.
        log_q: (B, *S, C) label distribution.
        weight: (B, *S) of the pixels, 0 at void ones.
        rows: where the store keeps the pixels, None without a store.
        permission: what the batch may do; None outside of training.
        ids: the inputs, for what is remembered of each image.
    """

    yhat: Any
    log_q: Any
    weight: Any
    rows: tuple[Any, Any] | None
    permission: Permission | None
    ids: Any


class LabelObjective(Objective):
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
        images = None if store is None else len(store.shapes)
        self.correction = Correction(pencil, images, num_classes, clock)
        kept = (store, teacher, self.correction)
        self.layers = [layer for layer in kept if layer is not None]
        self.has_belief, self.counts_changes = store is not None, True
        self._warned: set[int] = set()

    @classmethod
    def make(cls, pencil: Pencil, setting: Setting) -> LabelObjective:
        """Return the objective with the store or the teacher that `pencil` asks for.

        Raises:
            ValueError: it keeps rows, and the shapes of the images are not known.
        """
        store = teacher = None
        if pencil.keeps_rows:
            shapes = setting.shapes(f"store={pencil.store!r} keeps a row per pixel")
            store = make_label_store(pencil, shapes, setting.num_classes, setting.label_directory)
        if pencil.store == "teacher":
            teacher = Teacher(setting.network, pencil.teacher_decay)
        settings = (setting.num_classes, setting.region_weight, setting.clock)
        return cls(pencil, store, *settings, teacher)

    def believed(self, x: Any, given: Any) -> Any:
        """Return the label distribution that the rows of a batch hold."""
        if self.store is None:
            return given
        return ops.exp(self._stored(self.store, pixel_rows(x, self.store), given))

    def read_ahead(self, x: Any) -> None:
        """Start to read the label rows of a batch, before the network has seen it."""
        if self.store is not None:
            self.store.read_ahead(pixel_rows(x, self.store)[0])

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Batch, Any]:
        """Return the loss, the batch as it was read, and log p of the main output."""
        yhat, weight, log_ps = read_batch(y, outputs, sample_weight, self.num_classes)
        seen = ops.not_equal(weight, 0)
        rows = pixel_rows(x, self.store) if training and self.store is not None else None
        permission = self.correction.permit(x, log_ps[0], yhat, weight) if training else None
        log_q = self._given(yhat)
        if permission is not None:
            log_q = self._log_labels(rows, yhat, self._believed(x, log_ps[0], seen), permission)
            weight = (
                weight
                if permission.weight is None
                else weight * over_pixels(permission.weight, weight)
            )
        batch = Batch(yhat, ops.stop_gradient(log_q), weight, rows, permission, x)
        loss = 0.0
        for share, log_p in zip(output_shares(len(log_ps)), log_ps, strict=True):
            loss = loss + share * self._value(log_p, batch)
        return loss, batch, log_ps[0]

    def _given(self, yhat: Any) -> Any:
        return log_probabilities(self.pencil.start(yhat))

    def _believed(self, x: Any, log_p: Any, seen: Any) -> Any:
        """log p that labels without rows follow: the teacher's where there is one."""
        if self.teacher is None:
            return log_p
        return log_probabilities(self.teacher.predict(x), where=seen)

    def _log_labels(self, rows: Any, yhat: Any, believed: Any, permission: Permission) -> Any:
        """log q (B, *S, C): the given mask plus the rows, or the optimum where it is allowed."""
        if rows is not None and self.store is not None:
            return self._stored(self.store, rows, yhat)
        optimum = self.pencil.optimum(believed, yhat, flip_margin=self.margin)
        allowed = self._standing(permission.allowed[..., None], yhat)
        return ops.where(allowed > 0, optimum, self._given(yhat))

    def _stored(self, store: LabelStore, rows: Any, yhat: Any) -> Any:
        offsets = self._standing(full_logits(store.read(*rows)), yhat)
        return log_probabilities(self.pencil.start(yhat) + offsets)

    def _standing(self, values: Any, yhat: Any) -> Any:
        """Values, or 0 where the labels of a class have returned to the given ones."""
        if not self.pencil.mass_floor:
            return values
        return values * self.correction.alive(yhat)[..., None]

    def _value(self, log_p: Any, batch: Batch) -> Any:
        pixel = self._class_terms(log_p, batch)
        total = ops.maximum(of_all(ops.sum(batch.weight)), 1e-37)
        loss = ops.sum(batch.weight[..., None] * pixel) / total
        label = ops.exp(batch.log_q)
        return loss + region_loss(log_p, label, batch.weight, self.region_weight)

    def _class_terms(self, log_p: Any, batch: Batch) -> Any:
        """What each class adds to the pixel loss, (B, *S, C): all phases have one form,

            a D(p, q) + b p log p + c K(q, yhat) - d yhat log p

        with divergence D and compatibility K of the label model, and numbers a to d that change
        with the phase, so that one sum is enough.
        """
        if batch.permission is None:
            return -batch.yhat * log_p
        a, b, c, d = self._coefficients(batch.permission.started)
        own = a * self.pencil.divergence_terms(log_p, batch.log_q) + b * ops.exp(log_p) * log_p
        given = self.pencil.compatibility_terms(batch.log_q, batch.yhat)
        return own + c * given - d * batch.yhat * log_p

    def _coefficients(self, started: Any) -> tuple[Any, Any, Any, Any]:
        """(a, b, c, d): cross-entropy in the warm-up, then L, then the divergence/C alone."""
        started = started[..., None]
        moving = started * (1.0 - ops.cast(self.clock.frozen(), "float32"))
        share, of_each = started / self.num_classes, moving / self.num_classes
        return share, -of_each * self.pencil.entropy, of_each * self.margin, 1.0 - started

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
        self.correction.observe(batch.ids, batch, log_p, finite)
        if self.store is None or batch.rows is None or batch.permission is None:
            return
        moving = ops.logical_and(finite, ops.logical_not(self.clock.frozen()))
        active = ops.logical_and(batch.permission.allowed > 0, moving)
        active = ops.logical_and(active, batch.weight > 0)[..., None]
        log_p = ops.stop_gradient(log_p)
        step = self.pencil.row_step(log_p, batch.log_q, batch.yhat, flip_margin=self.margin)
        step = ops.where(active, self.pencil.label_rate * step, 0.0)
        index, weight = batch.rows
        self.store.add(index, step, weight)

    def corrected(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return the label distribution (*S, C) of a training image in its original frame."""
        if self.store is None:
            return super().corrected(sample, mask)
        delta = ops.convert_to_tensor(self.store.sample(sample))
        mask = ops.convert_to_tensor(mask)[None]
        yhat, _ = label_distribution(mask, self.num_classes, rank=len(delta.shape) + 1)
        logits = self.pencil.start(yhat[0]) + self._standing(full_logits(delta), yhat[0])
        return ops.convert_to_numpy(ops.softmax(logits, axis=-1))

    def plan(self, total_steps: int) -> None:
        """Hear how long the training is."""
        self.correction.plan(total_steps)

    @property
    def given_up(self) -> list[int]:
        """Classes whose labels are back at the given ones for good."""
        return self.correction.fallen

    def end_epoch(self) -> None:
        """Warn once of each class whose correction was given up."""
        fallen = [k for k in self.given_up if k not in self._warned]
        self._warned.update(fallen)
        for k in fallen:
            warnings.warn(
                f"The corrected labels of class {k} kept less than {self.pencil.mass_floor:g} of "
                "its given mass, so they are back at the given masks. Look at the predictions of "
                "this class: a longer warm-up or a larger flip_margin may help; "
                "Pencil(mass_floor=0) lets the correction go on.",
                stacklevel=2,
            )


def over_pixels(values: Any, like: Any) -> Any:
    """(B,) to (B, 1, ..., 1), to be multiplied with (B, *S)."""
    return ops.reshape(values, (-1, *[1] * (len(like.shape) - 1)))
