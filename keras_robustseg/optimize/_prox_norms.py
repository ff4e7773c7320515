"""Proximal operators of norms: closed forms, differentiable as they stand.

    prox(x) = argmin over z of 1/2 ||z - x||^2 + penalty(z)

A step of a solver multiplies the penalty. At a kink the derivative is that of the side on which
the entry is 0.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._project_box import norm_and_direction
from keras_robustseg.optimize._project_simplex import ball_threshold
from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    checked_axis,
    parameter,
    per_group,
)


def prox_l1(x: Any, penalty: Any = 1.0) -> Any:
    """Return the soft threshold of x, the proximal operator of sum penalty |z|.

        sign(x) max(|x| - penalty, 0)

    Args:
        x: float, any shape.
        penalty: 0 or above, broadcast to x.

    Returns:
        The shape of x. Differentiable in x and penalty.

    Raises:
        ValueError: x is not finite, penalty is negative, or shapes do not go together.

    Example:
        `prox_l1([3.0, -0.5], 1.0)  # [2, 0]`
    """
    x = as_float(x)
    penalty = _per_entry(penalty, x, "penalty")
    return _soft(x, penalty)


def prox_elastic_net(x: Any, l1: Any = 1.0, l2: Any = 1.0, step: Any = 1.0) -> Any:
    """Return the proximal operator of step (sum l1 |z| + l2/2 z^2) (Zou and Hastie 2005).

        sign(x) max(|x| - step l1, 0) / (1 + step l2)

    Args:
        x: float, any shape.
        l1: 0 or above, broadcast to x.
        l2: 0 or above, broadcast to x.
        step: 0 or above, broadcast to x.

    Returns:
        The shape of x. Differentiable in x, l1, l2 and step.

    Raises:
        ValueError: x is not finite, a parameter is negative, or shapes do not go together.

    Example:
        `prox_elastic_net([3.0, -0.5], l1=1.0, l2=1.0)  # [1, 0]`
    """
    x = as_float(x)
    l1, l2 = _per_entry(l1, x, "l1"), _per_entry(l2, x, "l2")
    step = _per_entry(step, x, "step")
    return _soft(x, step * l1) / (1.0 + step * l2)


def prox_group_l2(x: Any, penalty: Any = 1.0, axis: int | tuple[int, ...] = -1) -> Any:
    """Return the proximal operator of sum over groups of penalty ||z_group||.

        x max(1 - penalty / ||x||, 0)   (Yuan and Lin 2006)

    Args:
        x: float; the entries along `axis` are a group, all other axes count groups.
        penalty: 0 or above: a number, or one for each group (x's shape without `axis`).
        axis: the axis or axes of a group.

    Returns:
        The shape of x. Differentiable in x and penalty.

    Raises:
        ValueError: x is not finite, penalty is negative, or shapes do not go together.

    Example:
        `prox_group_l2([3.0, 4.0], 1.0)  # [2.4, 3.2]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    penalty = per_group(parameter(penalty, x, "penalty"), x, axis, "penalty")
    return _group(x, penalty, axis)


def prox_sparse_group(
    x: Any, l1: Any = 1.0, group: Any = 1.0, axis: int | tuple[int, ...] = -1
) -> Any:
    """Return the proximal operator of sum l1 |z| + sum over groups of group ||z_group||.

    The soft threshold, and of that the group threshold (Simon et al. 2013).

    Args:
        x: float; the entries along `axis` are a group.
        l1: 0 or above, broadcast to x.
        group: 0 or above: a number, or one for each group (x's shape without `axis`).
        axis: the axis or axes of a group.

    Returns:
        The shape of x. Differentiable in x, l1 and group.

    Raises:
        ValueError: x is not finite, a parameter is negative, or shapes do not go together.

    Example:
        `prox_sparse_group([4.0, -5.0, 0.5], l1=1.0, group=1.0)  # [2.4, -3.2, 0]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    group = per_group(parameter(group, x, "group"), x, axis, "group")
    return _group(_soft(x, _per_entry(l1, x, "l1")), group, axis)


def prox_linf(x: Any, penalty: Any = 1.0, axis: int = -1) -> Any:
    """Return the proximal operator of penalty max |z|.

    x less its projection onto the l1 ball of radius `penalty` (Moreau): the largest entries are
    cut to one level, and all is 0 inside that ball.

    Args:
        x: (..., n) float.
        penalty: 0 or above: a number, or one for each vector (x's shape without `axis`).
        axis: the axis of the vectors.

    Returns:
        The shape of x. Differentiable in x and penalty.

    Raises:
        ValueError: x is not finite, penalty is negative, or shapes do not go together.

    Example:
        `prox_linf([3.0, -1.0], 1.0)  # [2, -1]`
    """
    x = as_float(x)
    checked_axis(x, axis)
    penalty = per_group(parameter(penalty, x, "penalty"), x, axis, "penalty")
    inside, top, _, threshold, active = ball_threshold(x, penalty, axis)
    cut = ops.where(active, ops.sign(x) * (top + threshold), x)
    return ops.where(inside, ops.zeros_like(x), cut)


def _per_entry(value: Any, x: Any, name: str) -> Any:
    value = parameter(value, x, name)
    check_broadcast(value, tuple(x.shape), name)
    return value


def _soft(x: Any, threshold: Any) -> Any:
    positive = ops.where(x > threshold, x - threshold, ops.zeros_like(x))
    return ops.where(x < -threshold, x + threshold, positive)


def _group(x: Any, penalty: Any, axis: int | tuple[int, ...]) -> Any:
    norm, direction = norm_and_direction(x, axis)
    return ops.where(norm > penalty, x - penalty * direction, ops.zeros_like(x))
