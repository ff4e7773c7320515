"""The isotropic total variation on the pixels that its dual marks: Newton steps, derivative.

Where the dual is inside its ball the gradient is 0: the image is constant on the regions that this
joins. On the other pixels |gradient| is smooth. There the solution is a root of

    P (x - y + D^T (weight g / |g|)) = 0,   g = D x,   P the mean over regions.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._krylov import cg
from keras_robustseg.optimize._tv_grid import (
    adjoint,
    differences,
    region_means,
    sizes,
)

_NEWTON_STEPS = 6
_LINEAR_ITERATIONS = 1000


def refined(x: Any, y: Any, weight: Any, flat: Any, number: Any) -> Any:
    """Return x after Newton steps, for as long as they make the root better, item by item."""

    def error(x: Any) -> Any:
        field = _directions(x, weight, flat)[0]
        return region_means(x - y + adjoint(weight * field), number)

    def step(x: Any, before: Any) -> tuple[Any, Any]:
        moved = x - solved(x, weight, flat, number, before)
        after = error(moved)
        better = _length(after) < _length(before)
        return ops.where(better, moved, x), ops.where(better, after, before)

    x = region_means(x, number)
    return ops.while_loop(
        lambda x, before: ops.any(before != 0.0),
        step,
        (x, error(x)),
        maximum_iterations=_NEWTON_STEPS,
    )[0]


def pulled_back(x: Any, weight: Any, flat: Any, number: Any, v: Any) -> tuple[Any, Any]:
    """Return J^T v to the data and to the weights."""
    w = solved(x, weight, flat, number, region_means(v, number))
    directions, _ = _directions(x, weight, flat)
    return w, -ops.sum(differences(w) * directions, axis=-1, keepdims=True)


def solved(x: Any, weight: Any, flat: Any, number: Any, right: Any) -> Any:
    """Return z = P z with P (I + D^T (weight / |g|) (I - d d^T) D) z = right, d = g / |g|."""
    directions, bend = _directions(x, weight, flat)

    def hessian(z: Any) -> Any:
        z = region_means(z, number)
        field = differences(z)
        along = ops.sum(field * directions, axis=-1, keepdims=True)
        return region_means(z + adjoint(bend * (field - along * directions)), number)

    return region_means(
        cg(hessian, right, max_iterations=_LINEAR_ITERATIONS, batch_axes=1)[0], number
    )


def _directions(x: Any, weight: Any, flat: Any) -> tuple[Any, Any]:
    """g / |g| and weight / |g|, both 0 where the image is flat."""
    field = differences(x)
    size = sizes(field, weight)
    usable = ops.logical_and(ops.logical_not(flat), size > 0)
    length = ops.where(usable, size, ops.ones_like(size))
    zero = ops.zeros_like(length)
    return ops.where(usable, field / length, zero), ops.where(usable, weight / length, zero)


def _length(x: Any) -> Any:
    return ops.sum(x * x, axis=(1, 2), keepdims=True)
