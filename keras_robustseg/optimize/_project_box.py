"""Projections onto boxes and Euclidean balls."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    check_where_read,
    checked_axis,
    matching,
    parameter,
    per_group,
)


def project_box(x: Any, lower: Any = 0.0, upper: Any = 1.0) -> Any:
    """Return the point of the box lower <= p <= upper that is nearest to x: x clipped.

    Args:
        x: float, any shape.
        lower: broadcast to x; -inf for none.
        upper: broadcast to x; inf for none.

    Returns:
        p, the shape of x. Differentiable in x, lower and upper; on the border the gradient goes to
        x.

    Raises:
        ValueError: x is not finite, lower > upper or NaN somewhere, or shapes do not go together.

    Example:
        `project_box([-1.0, 0.3, 2.0])  # [0, 0.3, 1]`
    """
    x = as_float(x)
    lower, upper = matching(lower, x, "lower"), matching(upper, x, "upper")
    check_broadcast(lower, tuple(x.shape), "lower")
    check_broadcast(upper, tuple(x.shape), "upper")
    message = "`lower` must not be above `upper`. Received: bounds between which nothing lies"
    check_where_read(lower <= upper, message)
    return ops.where(x < lower, lower, ops.where(x > upper, upper, x))


def project_l2_ball(x: Any, radius: Any = 1.0, axis: int | tuple[int, ...] = -1) -> Any:
    """Return the point of the Euclidean ball that is nearest to x.

        argmin over p of 1/2 ||p - x||^2   subject to   ||p|| <= radius

    Args:
        x: (..., n) float.
        radius: 0 or above: a number, or one for each ball (x's shape without `axis`).
        axis: the axis or axes of the ball.

    Returns:
        p, the shape of x. Differentiable in x and radius.

    Raises:
        ValueError: x is not finite, radius is negative, or shapes do not go together.

    Example:
        `project_l2_ball([3.0, 4.0], 1.0)  # [0.6, 0.8]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    radius = per_group(parameter(radius, x, "radius"), x, axis, "radius")
    norm, direction = norm_and_direction(x, axis)
    return ops.where(norm > radius, radius * direction, x)


def norm_and_direction(x: Any, axis: int | tuple[int, ...]) -> tuple[Any, Any]:
    """Return ||x|| with `axis` kept as 1, and x / ||x||; both 0, with finite gradients, at x = 0.

    Values are scaled by the largest first, so that squares neither overflow nor vanish.
    """
    largest = ops.stop_gradient(ops.max(ops.abs(x), axis=axis, keepdims=True))
    scale = ops.where(largest > 0, largest, ops.ones_like(largest))
    scaled = x / scale
    square = ops.sum(scaled * scaled, axis=axis, keepdims=True)
    is_zero = ops.logical_not(largest > 0)
    root = ops.sqrt(ops.where(is_zero, ops.ones_like(square), square))
    norm = ops.where(is_zero, ops.zeros_like(root), root * scale)
    return norm, scaled / root
