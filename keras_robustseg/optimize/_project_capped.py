"""Projection onto the simplex with a cap on each entry."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._linear import epsilon
from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    check_where_read,
    checked_axis,
    parameter,
    per_group,
)

_MAXIMUM_ITERATIONS = 100


def project_capped_simplex(x: Any, cap: Any = 1.0, axis: int = -1, radius: Any = 1.0) -> Any:
    """Return the point of the capped simplex that is nearest to x.

        argmin over p of 1/2 ||p - x||^2   subject to   0 <= p <= cap, sum p = radius

    p = clip(x - t, 0, cap) for the level t at which the sum is right, found by Newton's method
    between shrinking bounds, which ends at the exact active set; given that, t is a formula.

    Args:
        x: (..., n) float.
        cap: 0 or above, broadcast to x.
        axis: the axis along which the entries are summed.
        radius: the sum, from 0 to the sum of the caps: a number, or one for each (x's shape
            without `axis`).

    Returns:
        p, the shape of x. Differentiable in x, cap and radius.

    Raises:
        ValueError: x is not finite, a parameter is negative, radius is above the sum of the caps,
            or shapes do not go together.

    Example:
        `project_capped_simplex([2.0, 0.0, 0.0], cap=0.5)  # [0.5, 0.25, 0.25]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    cap = parameter(cap, x, "cap")
    check_broadcast(cap, tuple(x.shape), "cap")
    cap = ops.broadcast_to(cap, ops.shape(x))
    radius = per_group(parameter(radius, x, "radius"), x, axis, "radius")
    most = ops.sum(cap, axis=axis, keepdims=True)
    message = "`radius` must not be above the sum of the caps. Received: a radius that is"
    check_where_read(radius <= most * (1.0 + 1e-6), message)
    shifted = x - ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    fixed = (ops.stop_gradient(shifted), ops.stop_gradient(cap), ops.stop_gradient(radius))
    level = _level(*fixed, axis)
    free, full = _sets(shifted, cap, level)
    inner = ops.clip(shifted - _exact_level(shifted, cap, radius, free, full, axis), 0.0, cap)
    return ops.where(full, cap, ops.where(free, inner, 0.0 * ops.stop_gradient(x)))


def _sets(shifted: Any, cap: Any, level: Any) -> tuple[Any, Any]:
    above = shifted - level
    full = above >= cap
    return ops.logical_and(above > 0, ops.logical_not(full)), full


def _exact_level(shifted: Any, cap: Any, radius: Any, free: Any, full: Any, axis: int) -> Any:
    counted = ops.where(free, shifted, ops.where(full, cap, ops.zeros_like(cap)))
    count = ops.sum(ops.cast(free, cap.dtype), axis=axis, keepdims=True)
    total = ops.sum(counted, axis=axis, keepdims=True)
    return (total - radius) / ops.maximum(count, ops.ones_like(count))


def _level(shifted: Any, cap: Any, radius: Any, axis: int) -> Any:
    """The level at which the clipped entries add up to the radius, to the exact active set."""
    low = ops.min(shifted - cap, axis=axis, keepdims=True)
    high = ops.zeros_like(low)

    def rounding(level: Any) -> Any:
        return 8.0 * epsilon(shifted) * (ops.abs(level) + radius)

    def update(level: Any, low: Any, high: Any, before: Any) -> tuple[Any, ...]:
        total = ops.sum(ops.clip(shifted - level, 0.0, cap), axis=axis, keepdims=True)
        low = ops.where(total >= radius, level, low)
        high = ops.where(total <= radius, level, high)
        free, full = _sets(shifted, cap, level)
        newton = _exact_level(shifted, cap, radius, free, full, axis)
        # A step onto a bound goes nowhere new: two of them would take turns for ever.
        inside = ops.logical_and(newton > low, newton < high)
        arrived = ops.abs(newton - level) <= rounding(level)
        good = ops.logical_and(ops.logical_or(inside, arrived), ops.any(free, axis, keepdims=True))
        return ops.where(good, newton, (low + high) / 2.0), low, high, level

    found = ops.while_loop(
        lambda level, low, high, before: ops.any(ops.abs(level - before) > rounding(level)),
        update,
        update(high, low, high, low),
        maximum_iterations=_MAXIMUM_ITERATIONS,
    )
    return found[0]
