"""Projection onto the simplex without a sort, and onto the l1 ball with it.

The set of entries that stay positive is found by iteration, without a gradient; given that set the
answer is a plain formula, which is what is differentiated. So every derivative is exact, of any
order, on every backend, wherever the projection is differentiable.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    checked_axis,
    parameter,
    per_group,
)


def project_simplex(x: Any, axis: int = -1, radius: Any = 1.0, mask: Any = None) -> Any:
    """Return the point of the simplex that is nearest to x.

        argmin over p of 1/2 ||p - x||^2   subject to   p >= 0, sum p = radius

    By the sort-free active set of Michelot (J. Optim. Theory Appl. 50, 1986), exact after at most
    as many passes as there are entries. It starts from the entries within `radius` of the largest,
    since no other can be positive, so that values of any size are summed without loss.

    Args:
        x: (..., n) float; the simplex lies along `axis`, all other axes are a batch.
        axis: the axis of the simplex.
        radius: the sum, 0 or above: a number, or one for each simplex (x's shape without `axis`).
        mask: bool, broadcast to x: False entries are not read and get 0. A simplex with no True
            entry is all 0.

    Returns:
        p, the shape of x. Differentiable in x and radius.

    Raises:
        ValueError: x is not finite, radius is negative, or shapes do not go together.

    Example:
        `project_simplex([0.5, 0.6, -1.0])  # [0.45, 0.55, 0]`
    """
    if mask is None:
        x = as_float(x)
    else:
        x, mask = _hidden(x, mask)
    checked_axis(x, axis)
    radius = per_group(parameter(radius, x, "radius"), x, axis, "radius")
    shifted, threshold, active = simplex_threshold(x, radius, axis, mask)[1:]
    zero = 0.0 * ops.stop_gradient(x)  # NaN where x is
    return ops.where(active, ops.maximum(shifted - threshold, zero), zero)


def project_l1_ball(x: Any, radius: Any = 1.0, axis: int = -1) -> Any:
    """Return the point of the l1 ball that is nearest to x.

        argmin over p of 1/2 ||p - x||^2   subject to   sum |p| <= radius

    Inside the ball x itself, outside it the signs of x times the projection of |x| onto the
    simplex (Duchi et al., ICML 2008).

    Args:
        x: (..., n) float.
        radius: 0 or above: a number, or one for each ball (x's shape without `axis`).
        axis: the axis of the ball.

    Returns:
        p, the shape of x. Differentiable in x and radius.

    Raises:
        ValueError: x is not finite, radius is negative, or shapes do not go together.

    Example:
        `project_l1_ball([2.0, -1.0], 1.0)  # [1, 0]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    radius = per_group(parameter(radius, x, "radius"), x, axis, "radius")
    inside, _, shifted, threshold, active = ball_threshold(x, radius, axis)
    zero = 0.0 * ops.stop_gradient(x)
    outside = ops.where(active, ops.sign(x) * ops.maximum(shifted - threshold, zero), zero)
    return ops.where(inside, x, outside)


def ball_threshold(x: Any, radius: Any, axis: int) -> tuple[Any, Any, Any, Any, Any]:
    """Return (inside, top, shifted, threshold, active) of the l1 ball along an axis.

    inside: whether sum |x| <= radius; the others are those of `simplex_threshold` for |x|.
    """
    size = ops.where(x < 0, -x, x)
    inside = ops.sum(size, axis=axis, keepdims=True) <= radius
    return (inside, *simplex_threshold(size, radius, axis, None))


def simplex_threshold(x: Any, radius: Any, axis: int, mask: Any) -> tuple[Any, Any, Any, Any]:
    """Return (top, shifted, threshold, active): p = max(shifted - threshold, 0) where active.

    `top` is the largest entry without a gradient, `shifted` is x less top; the threshold is the
    formula (sum of the active entries - radius) / their number, through which gradients flow.
    """
    top = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    shifted = x - top
    active = shifted > -radius
    if mask is not None:
        active = ops.logical_and(active, mask)
    active = _michelot(ops.stop_gradient(shifted), ops.stop_gradient(radius), active, axis)
    return top, shifted, _threshold(shifted, radius, active, axis), active


def _threshold(shifted: Any, radius: Any, active: Any, axis: int) -> Any:
    total = ops.sum(ops.where(active, shifted, ops.zeros_like(shifted)), axis=axis, keepdims=True)
    count = ops.sum(ops.cast(active, shifted.dtype), axis=axis, keepdims=True)
    return (total - radius) / ops.maximum(count, ops.ones_like(count))


def _michelot(shifted: Any, radius: Any, active: Any, axis: int) -> Any:
    def positive(active: Any) -> Any:
        return ops.logical_and(active, shifted > _threshold(shifted, radius, active, axis))

    def changing(active: Any, before: Any) -> Any:
        return ops.any(ops.not_equal(active, before))

    _, active = ops.while_loop(
        changing,
        lambda active, before: (positive(active), active),
        (positive(active), active),
        maximum_iterations=shifted.shape[axis],
    )
    return active


def _hidden(x: Any, mask: Any) -> tuple[Any, Any]:
    """x with its least entry of a finite kind where the mask is False, and the mask."""
    x = ops.convert_to_tensor(x)
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    x = x if double else ops.cast(x, "float32")
    mask = ops.cast(mask, "bool")
    check_broadcast(mask, tuple(x.shape), "mask")
    mask = ops.broadcast_to(mask, ops.shape(x))
    seen = ops.where(mask, ops.stop_gradient(x), ops.cast(float("inf"), x.dtype))
    least = ops.min(seen)
    least = ops.where(ops.isfinite(least), least, ops.zeros_like(least))
    return as_float(ops.where(mask, x, least)), mask
