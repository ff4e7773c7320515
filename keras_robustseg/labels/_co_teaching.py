"""Co-teaching (Han et al., NeurIPS 2018), with a selection of pixels that spares rare classes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

_INFINITY_BITS = 0x7F800000


def forget_rate_at(step: Any, ramp_end: Any, forget_rate: float) -> Any:
    """Return R(t) = forget_rate min(t / ramp_end, 1), the share of pixels left out at step t."""
    step, end = ops.cast(step, "float32"), ops.cast(ramp_end, "float32")
    return forget_rate * ops.where(step < end, step / ops.maximum(end, 1.0), 1.0)


def small_loss_selection(
    losses: Any,
    classes: Any,
    counted: Any,
    *,
    num_classes: int,
    forget_rate: Any,
    scope: str = "batch",
) -> Any:
    """Return the pixels with the smallest losses of every class, float (B, *S) of 0 and 1.

    Of the n_c pixels that count and are given as class c, the floor(forget_rate n_c) with the
    largest losses are left out: a rare class, whose losses are large because it is rare, keeps
    the same share as a common one. Of equal losses the first ones are kept, so that the number
    is exact. Nothing is sorted: floats that are not negative are ordered as the integers with
    the same bits, and 31 halvings of these end at the very loss (class counts up to 2^24).

    Args:
        losses: (B, *S), not negative; no gradient flows through the selection.
        classes: int (B, *S) given class; anything where `counted` is 0.
        counted: (B, *S), 0 at void pixels, which are never selected.
        num_classes: C.
        forget_rate: share that is left out, in [0, 1).
        scope: "batch" compares the pixels of a class over all images, so that a bad image may
            lose more than a good one; "image" takes the share of every image.

    Example:
        `small_loss_selection(losses, mask, mask >= 0, num_classes=2, forget_rate=0.2)`
    """
    shape = ops.shape(losses)
    groups = (shape[0], -1) if scope == "image" else (1, -1)
    counted = ops.reshape(
        ops.cast(ops.not_equal(ops.cast(counted, "float32"), 0), "float32"), groups
    )
    ids = ops.clip(ops.reshape(ops.cast(classes, "int32"), groups), 0, num_classes - 1)
    values = ops.reshape(ops.abs(ops.cast(ops.stop_gradient(losses), "float32")), groups)
    # Keras reads the length of the last axis as a number, so this axis must be a known one.
    bits = ops.view(ops.where(counted > 0, values, 0.0)[..., None], "int32")[..., 0]
    members = ops.one_hot(ids, num_classes, dtype="float32") * counted[..., None]
    total = ops.sum(members, axis=1)
    keep = total - ops.floor(ops.cast(forget_rate, "float32") * total)
    edge = _of_pixel(_smallest_that_hold(bits, ids, members, keep), ids)
    below = counted * ops.cast(bits < edge, "float32")
    ties = members * ops.cast(bits == edge, "float32")[..., None]
    left = keep - _count(below, members)
    rank = ops.sum(ops.cumsum(ties, axis=1) * members, axis=-1)
    tied = ops.sum(ties, axis=-1) * ops.cast(rank <= _of_pixel(left, ids), "float32")
    return ops.reshape(below + tied, shape)


def _of_pixel(of_class: Any, ids: Any) -> Any:
    """(G, C) to (G, n): what is true of the class of every pixel."""
    return ops.take_along_axis(of_class, ids, axis=1)


def _count(chosen: Any, members: Any) -> Any:
    """How many pixels of every class are chosen, (G, C)."""
    return ops.squeeze(ops.matmul(chosen[:, None, :], members), axis=1)


def _smallest_that_hold(bits: Any, ids: Any, members: Any, keep: Any) -> Any:
    """Least integer v (G, C) such that `keep` pixels of the class have bits up to v."""

    def halve(low: Any, high: Any) -> tuple[Any, Any]:
        middle = low + (high - low) // 2
        inside = ops.cast(bits <= _of_pixel(middle, ids), "float32")
        enough = _count(inside, members) >= keep
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    low = ops.zeros_like(keep, dtype="int32")
    state = (low, low + _INFINITY_BITS)
    _, edge = ops.while_loop(
        lambda low, high: ops.any(low < high), halve, state, maximum_iterations=31
    )
    return edge


@keras.saving.register_keras_serializable(package="keras_robustseg")
class CoTeaching:
    """Co-teaching: two networks, each of which learns from the pixels that the other finds easy.

        L = mean over S_2 of CE(y, p_1)  +  mean over S_1 of CE(y, p_2)

    Han et al., "Co-teaching: robust training of deep neural networks with extremely noisy labels"
    (NeurIPS 2018). Networks fit the right labels first, so the pixels with small losses are
    mostly right; two networks with different initial weights err differently, so neither
    confirms its own errors. S_j are the pixels with the smallest losses of network j, of every
    given class the share 1 - R(t); R rises from 0 to `forget_rate`. The published rule takes the
    smallest losses of all pixels alike, which in segmentation drops rare classes first.

    The second network is built from the first one's configuration with other seeds (so one that
    was loaded with trained weights gets an untrained partner). Both are trained by one optimizer,
    saved and resumed; one is served, or their mean.

    Args:
        forget_rate: in [0, 1), the share of pixels left out in the end: about the share of wrong
            pixels.
        warmup: share of all training steps over which R rises.
        scope: "batch" or "image": among which pixels losses are compared, see
            `small_loss_selection`.
        served: "first", the given network alone; "mean", the mean of the two probabilities, at
            twice the cost of a prediction.

    Raises:
        ValueError: a value out of its range.

    Example:
        ```python
        model = RobustSegmenter(network, CoTeaching(forget_rate=0.2))
        model.compile(keras.optimizers.Adam(2e-3), metrics=[Dice(2)])
        model.fit(images, masks, epochs=40)
        ```
    """

    default_region_weight = 0.0
    keeps_rows = False

    def __init__(
        self,
        *,
        forget_rate: float = 0.2,
        warmup: float = 0.25,
        scope: str = "batch",
        served: str = "first",
    ) -> None:
        self.forget_rate, self.warmup = float(forget_rate), float(warmup)
        self.scope, self.served = scope, served
        if not 0.0 <= self.forget_rate < 1.0:
            raise ValueError(f"`forget_rate` must be in [0, 1). Received: {forget_rate}")
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"`warmup` must be in [0, 1]. Received: {warmup}")
        if scope not in ("batch", "image"):
            raise ValueError(f'`scope` must be "batch" or "image". Received: {scope!r}')
        if served not in ("first", "mean"):
            raise ValueError(f'`served` must be "first" or "mean". Received: {served!r}')

    def select(self, losses: Any, yhat: Any, weight: Any, forget_rate: Any) -> Any:
        """Return the pixels (B, *S) of small loss; arguments as in `small_loss_selection`.

        Args:
            losses: (B, *S).
            yhat: (B, *S, C) given mask; the class of a soft one is its most probable.
            weight: (B, *S), 0 at void pixels.
            forget_rate: R(t).
        """
        return small_loss_selection(
            losses,
            ops.argmax(yhat, axis=-1),
            weight,
            num_classes=yhat.shape[-1],
            forget_rate=forget_rate,
            scope=self.scope,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("forget_rate", "warmup", "scope", "served")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CoTeaching:
        """Rebuild from `get_config`."""
        return cls(**config)
