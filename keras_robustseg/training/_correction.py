"""When and where labels may move: what a training learns about its masks without clean ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import (
    Pencil,
    class_masses,
    image_agreement,
    image_weights,
    reference_agreement,
    unseen_classes,
)
from keras_robustseg.labels._pencil import EARLIEST_CORRECTION
from keras_robustseg.labels._store import _from_all_replicas, _scatter_add
from keras_robustseg.losses import replica_count
from keras_robustseg.training._objective import Clock

_FAST, _SLOW, _MASS = 1 / 50, 1 / 10, 1 / 20
_FLATTENED = 0.05
_LEARNED = 0.1
_SLOWED = 0.4
_MEMORY = 0.8


class Permission(NamedTuple):
    """What a batch may do.

    Attributes:
        started: whether correction has begun for the class of a pixel, 0 or 1, () or (B, *S).
        allowed: whether the label of a pixel may differ more from the given one, 0 or 1, () or
            (B, *S).
        weight: of each image, (B,), or None.
    """

    started: Any
    allowed: Any
    weight: Any


class Correction(keras.layers.Layer):
    """Decides, class by class and image by image, whether labels are corrected.

    - `warmup="auto"`: with d_k the soft Dice of predictions and given masks, r_k is how far its
      fast moving average (a fiftieth of the training) lies above its slow one (a tenth), a
      measure of the slope. Correction begins when the sum of r_k over the foreground has fallen to
      four tenths of the highest it ever had, after a tenth of the training: the bend of the
      curve, after which it climbs by what is memorised. (Liu et al., CVPR 2022, look for the same
      bend by fitting an exponential.) It begins for all classes that are learned by then, at
      once: were one alone to begin, its pixels could go to the others and none come back. d_k
      of a learned class is a tenth of the way from what a blind guess of the right volume has,
      the share of the class, to 1. A class that is learned later begins when r_k is below 5 %
      of d_k; one that is not learned keeps its labels.
    - `presence`: pixels given as class k keep their label in images in which the network does
      not see the class (`unseen_classes`).
    - `image_weights`: images count by the moving agreement of prediction and given mask
      (`image_weights`), in the correction phase.
    - `mass_floor`: when the corrected labels of a class keep less than this share of its given
      mass, its labels return to the given ones for good, and `fallen` names it.

    Everything is a weight of the trainer, is saved with it, and costs C numbers and one per image.

    Args:
        pencil: the label model with these settings.
        num_images: number of training images; None if they have no ids.
        num_classes: C.
        clock: the trainer's counters.
        name: layer name.
    """

    def __init__(
        self,
        pencil: Pencil,
        num_images: int | None,
        num_classes: int,
        clock: Clock,
        *,
        name: str = "correction",
    ) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.pencil, self.num_classes, self.clock = pencil, num_classes, clock
        self.weighs = bool(pencil.image_weights) and num_images is not None
        self.horizon = self._number("horizon", ())
        self.curves = self._number("curves", (2, 4, num_classes))
        self.steepest = self._number("steepest", ())
        self.open = self._number("open", (num_classes,))
        self.masses = self._number("masses", (2, num_classes))
        self.lost = self._number("lost", (num_classes,))
        if self.weighs:
            self.agreement = self._number("agreement", (num_images, 1), -1.0)
        self.built = True

    def _number(self, name: str, shape: tuple[int | None, ...], start: float = 0.0) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(start),
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    @property
    def automatic(self) -> bool:
        """Whether the end of the warm-up is found from the curves."""
        return self.pencil.warmup == "auto"

    def permit(self, x: Any, log_p: Any, yhat: Any, weight: Any) -> Permission:
        """Return what the batch may do, from what earlier batches have shown."""
        started = allowed = self._started_at(yhat)
        if self.pencil.presence and len(yhat.shape) > 2:
            masses = class_masses(ops.stop_gradient(ops.exp(log_p)), yhat, weight)
            seen = 1.0 - ops.cast(unseen_classes(*masses, self.pencil.presence), "float32")
            allowed = allowed * ops.sum(yhat * _spread(seen, yhat), axis=-1)
        return Permission(started, allowed, self._weights(x, yhat))

    def alive(self, yhat: Any) -> Any:
        """Return 0 where the labels of a pixel's class have returned to the given ones, else 1."""
        return 1.0 - self._of_class(ops.convert_to_tensor(self.lost), yhat)

    def _of_class(self, values: Any, yhat: Any) -> Any:
        """values[class of a pixel]; of two classes, the foreground speaks for both."""
        return values[1] if self.num_classes == 2 else ops.sum(yhat * values, axis=-1)

    def _started_at(self, yhat: Any) -> Any:
        if self.automatic:
            return self._of_class(ops.convert_to_tensor(self.open), yhat)
        return 1.0 - ops.cast(self.clock.warming(), "float32")

    def _weights(self, x: Any, yhat: Any) -> Any:
        if not self.weighs or len(yhat.shape) < 3:
            return None
        table = ops.convert_to_tensor(self.agreement)[:, 0]
        own = ops.take(table, x["sample_id"])
        relative = image_weights(own, reference_agreement(table), self.pencil.image_weights)
        return ops.where(self.clock.warming(), 1.0, relative)

    def observe(self, x: Any, batch: Any, log_p: Any, finite: Any) -> None:
        """Learn from a batch whose step was finite.

        Args:
            x: inputs with "sample_id".
            batch: the batch with yhat, log_q and weight.
            log_p: (B, *S, C) of the main output.
            finite: bool ().
        """
        p, counted = ops.stop_gradient(ops.exp(log_p)), ops.cast(batch.weight > 0, "float32")
        predicted, given = class_masses(p, batch.yhat, counted)
        if self.automatic:
            both = 2.0 * class_masses(p * batch.yhat, batch.yhat, counted)[0]
            everything = ops.broadcast_to(ops.sum(given, axis=-1, keepdims=True), ops.shape(given))
            sums = [both, predicted + given, given, everything]
            self._follow_curves(ops.sum(ops.stack(sums), axis=1), finite)
        if self.pencil.mass_floor:
            kept, _ = class_masses(ops.exp(batch.log_q), batch.yhat, counted)
            self._follow_masses(ops.sum(kept, axis=0), ops.sum(given, axis=0), finite)
        if self.weighs and len(p.shape) > 2:
            unseen = ops.any(unseen_classes(predicted, given, self.pencil.presence), axis=-1)
            agreement = ops.where(unseen, 1.0, image_agreement(p, batch.yhat, counted))
            self._remember(x["sample_id"], agreement, finite)

    def _follow_curves(self, sums: Any, finite: Any) -> None:
        """Update the moving averages of 2 <p, yhat>, |p| + |yhat|, |yhat| and the pixels, (4, C).

        Opens the learned classes once the curves have bent.
        """
        old, horizon = ops.convert_to_tensor(self.curves), ops.convert_to_tensor(self.horizon)
        rates = 1.0 / ops.maximum(ops.convert_to_tensor([_FAST, _SLOW], "float32") * horizon, 1.0)
        new = old + rates[:, None, None] * (replica_count() * sums[None] - old)
        # Decided by the averages before this batch, which are the same on every replica.
        ready = ops.cast(self._bent(old, finite), "float32")
        opened = ops.maximum(ops.convert_to_tensor(self.open), ready)
        opened = ops.concatenate([ops.max(opened[1:], keepdims=True), opened[1:]])
        self.curves.assign(ops.where(finite, new, old))
        self.open.assign(ops.where(finite, opened, self.open))
        began = ops.max(opened) > 0
        end = ops.convert_to_tensor(self.clock.warmup_end)
        first = ops.minimum(end, ops.convert_to_tensor(self.clock.step))
        self.clock.warmup_end.assign(ops.where(began & finite, first, end))

    def _bent(self, curves: Any, finite: Any) -> Any:
        """Return which classes (C,) may be corrected from now on."""
        dice = curves[:, 0] / ops.maximum(curves[:, 1], 1e-37)
        chance = curves[1, 2] / ops.maximum(curves[1, 3], 1e-37)
        rise, steepest = dice[0] - dice[1], ops.convert_to_tensor(self.steepest)
        pace = ops.sum(rise[1:])
        began = ops.any(ops.convert_to_tensor(self.open) > 0)
        flat = ops.where(began, rise < _FLATTENED * dice[0], pace < _SLOWED * steepest)
        learned = dice[1] > chance + _LEARNED * (1.0 - chance)
        past = ops.cast(self.clock.step, "float32") > EARLIEST_CORRECTION * self.horizon
        highest = ops.maximum(steepest, pace)
        self.steepest.assign(ops.where(finite, highest, steepest))
        return flat & learned & past

    def _follow_masses(self, kept: Any, given: Any, finite: Any) -> None:
        old = ops.convert_to_tensor(self.masses)
        rate = 1.0 / ops.maximum(_MASS * ops.convert_to_tensor(self.horizon), 1.0)
        new = old + rate * (replica_count() * ops.stack([kept, given]) - old)
        fell = ops.cast(old[0] < self.pencil.mass_floor * old[1], "float32")
        self.masses.assign(ops.where(finite, new, old))
        self.lost.assign(ops.maximum(self.lost, ops.where(finite, fell, 0.0)))

    def _remember(self, ids: Any, agreement: Any, finite: Any) -> None:
        old = ops.take(ops.convert_to_tensor(self.agreement)[:, 0], ids)
        new = ops.where(old < 0, agreement, _MEMORY * old + (1.0 - _MEMORY) * agreement)
        change = ops.where(finite, new - old, 0.0)
        index, rows = _from_all_replicas(ids[:, None], change[:, None])
        _scatter_add(self.agreement, index, rows)

    def plan(self, total_steps: int) -> None:
        """Say how long the training is."""
        self.horizon.assign(float(total_steps))

    @property
    def fallen(self) -> list[int]:
        """Classes whose correction was given up, because it removed too much of them."""
        return np.flatnonzero(ops.convert_to_numpy(self.lost) > 0).tolist()


def _spread(values: Any, yhat: Any) -> Any:
    """(B, C) to the shape (B, 1, ..., 1, C)."""
    shape = (-1, *[1] * (len(yhat.shape) - 2), values.shape[-1])
    return ops.reshape(values, shape)
