"""Sums and extremes over the losses: those of one device, or of all replicas together.

The kernels of this room see their losses only through a `Local` or `AcrossReplicas` object and its
`iterate`, so that one text serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

Step = Callable[..., tuple[Any, ...]]


class Local:
    """Reductions over the last axis, which they keep with size 1.

    Attributes:
        longest_search: bound on the steps to a root.

    Example:
        `Local().sum(keras.ops.ones((2, 5)))  # shape (2, 1)`
    """

    longest_search = 150

    def sum(self, x: Any) -> Any:
        """Return the sum."""
        return ops.sum(x, axis=-1, keepdims=True)

    def max(self, x: Any) -> Any:
        """Return the maximum."""
        return ops.max(x, axis=-1, keepdims=True)

    def min(self, x: Any) -> Any:
        """Return the minimum."""
        return ops.min(x, axis=-1, keepdims=True)

    def sums(self, xs: Sequence[Any]) -> list[Any]:
        """Return several sums, in one exchange where there is one."""
        return [self.sum(x) for x in xs]

    def iterate(
        self, step: Step, state: tuple[Any, ...], maximum: int, unfinished: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Return the state after `maximum` steps, or after fewer if no row is unfinished.

        Args:
            step: state -> state.
            state: tensors whose shapes do not change.
            maximum: bound on the number of steps.
            unfinished: state -> bool tensor, which rows need another step.
        """
        return tuple(
            ops.while_loop(
                lambda *now: ops.any(unfinished(*now)), step, state, maximum_iterations=maximum
            )
        )


class AcrossReplicas(Local):
    """The same over the last axis and over all replicas of a `tf.distribute` strategy.

    Each replica holds its part of the losses, of any size, and gets the result of the whole. All
    replicas must make the same calls, so loops run to their bound, unrolled: a replica cannot meet
    the others inside a `tf.while_loop`. Outside a replica context, and with one replica, it is
    `Local`.

    A value computed so is that of the whole, on each replica; its gradient is that of the losses of
    this replica. A trainer that adds up what the replicas return must add up the gradients and
    divide the value by their number.

    Example:
        `CVaR(0.1)(losses, reduce=AcrossReplicas())`
    """

    # Enough to halve the widest bracket to the precision of float32; most roots take 6 steps.
    longest_search = 24

    def sum(self, x: Any) -> Any:
        """Return the sum over all replicas."""
        return _all_sum(super().sum(x))

    def max(self, x: Any) -> Any:
        """Return the maximum over all replicas."""
        return ops.max(_gathered(super().max(x)), axis=0)

    def min(self, x: Any) -> Any:
        """Return the minimum over all replicas."""
        return ops.min(_gathered(super().min(x)), axis=0)

    def sums(self, xs: Sequence[Any]) -> list[Any]:
        """Return several sums by one exchange."""
        local = [Local.sum(self, x) for x in xs]
        return list(ops.unstack(_all_sum(ops.stack(local)), len(local)))

    def iterate(
        self, step: Step, state: tuple[Any, ...], maximum: int, unfinished: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Return the state after `maximum` steps."""
        if _replicas() is None:
            return super().iterate(step, state, maximum, unfinished)
        for _ in range(maximum):
            state = step(*state)
        return state


def gathered(
    kernel: Callable[[Any, Any], tuple[Any, Any]], losses: Any, weights: Any, reduce: Local
) -> tuple[Any, Any]:
    """Return (value, q) of a kernel that must see all losses at once.

    Under `AcrossReplicas` every replica gets the losses of all, and keeps its own part of q.

    Args:
        kernel: (losses, weights) -> (value, q) over the last axis.
        losses: (..., n), n of any size on each replica.
        weights: (..., n) or None.
        reduce: how the losses are spread.
    """
    context = _replicas() if isinstance(reduce, AcrossReplicas) else None
    if context is None:
        return kernel(losses, weights)
    axis, fixed = len(losses.shape) - 1, ops.stop_gradient(losses)
    weights = ops.ones_like(fixed) if weights is None else weights
    counts = context.all_gather(ops.reshape(ops.shape(losses)[-1], (1,)), axis=0)
    value, q = kernel(context.all_gather(fixed, axis), context.all_gather(weights, axis))
    begin = ops.sum(counts[: context.replica_id_in_sync_group])
    q = q[..., begin : begin + ops.shape(losses)[-1]]
    known = ops.where(ops.not_equal(weights, 0.0), losses, ops.zeros_like(losses))
    return value + ops.sum(q * (known - ops.stop_gradient(known)), axis=-1), q


def _replicas() -> Any:
    """The replica context, or None where there is nothing to exchange."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    alone = context is None or context.num_replicas_in_sync == 1
    return None if alone else context


def _all_sum(x: Any) -> Any:
    context = _replicas()
    return x if context is None else context.all_reduce("SUM", x)


def _gathered(x: Any) -> Any:
    """Stack what each replica has: a sum in which each fills its own row."""
    context = _replicas()
    if context is None:
        return ops.expand_dims(x, 0)
    rows = ops.arange(context.num_replicas_in_sync)
    mine = ops.equal(rows, ops.cast(context.replica_id_in_sync_group, rows.dtype))
    mine = ops.reshape(mine, (-1,) + (1,) * len(x.shape))
    return _all_sum(ops.where(mine, ops.expand_dims(x, 0), ops.cast(0, x.dtype)))


LOCAL = Local()
