"""Differences on a pixel grid, the regions that they leave, and the total variation dual.

Fields of differences are (batch, h, w, 2), down and to the right, with zeros where nothing lies
beyond. Weights have that shape (anisotropic) or (batch, h, w, 1), one for each pixel's gradient
(isotropic), and also say which of the two is meant.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._linear import epsilon

# ||D||^2 <= 8.
_STEP = 0.125
_CHECKED_EVERY = 20


def differences(x: Any) -> Any:
    """Return D x (batch, h, w, 2) of an image (batch, h, w)."""
    down = ops.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0)))
    right = ops.pad(x[:, :, 1:] - x[:, :, :-1], ((0, 0), (0, 0), (0, 1)))
    return ops.stack([down, right], axis=-1)


def adjoint(p: Any) -> Any:
    """Return D^T p (batch, h, w)."""
    down, right = p[:, :-1, :, 0], p[:, :, :-1, 1]
    columns = ops.pad(down, ((0, 0), (1, 0), (0, 0))) - ops.pad(down, ((0, 0), (0, 1), (0, 0)))
    rows = ops.pad(right, ((0, 0), (0, 0), (1, 0))) - ops.pad(right, ((0, 0), (0, 0), (0, 1)))
    return columns + rows


def sizes(field: Any, weight: Any) -> Any:
    """Return |field| in the shape of the weights: entries, or lengths of gradients."""
    if weight.shape[-1] == 2:
        return ops.abs(field)
    square = ops.sum(field * field, axis=-1, keepdims=True)
    positive = square > 0
    root = ops.sqrt(ops.where(positive, square, ops.ones_like(square)))
    return ops.where(positive, root, ops.zeros_like(root))


def into_balls(p: Any, weight: Any) -> Any:
    """Return p with its sizes cut to the weights."""
    if weight.shape[-1] == 2:
        return ops.clip(p, -weight, weight)
    size = sizes(p, weight)
    outside = size > weight
    return ops.where(outside, p * (weight / ops.where(outside, size, ops.ones_like(size))), p)


def is_flat(p: Any, weight: Any) -> Any:
    """Return where the dual is inside its ball, so that the solution has no difference there."""
    rounding = 0.0 if weight.shape[-1] == 2 else 64.0 * epsilon(p)
    return sizes(p, weight) < weight * (1.0 - rounding)


def gap(x: Any, p: Any, y: Any, weight: Any) -> Any:
    """Return the duality gap (batch,) of image x and dual p, by terms that are not negative."""
    field = differences(x)
    edges = weight * sizes(field, weight)
    total = ops.sum(ops.sum(edges, axis=-1) - ops.sum(field * p, axis=-1), axis=(1, 2))
    away = x - y + adjoint(p)
    return ops.maximum(total, 0.0) + 0.5 * ops.sum(away * away, axis=(1, 2))


def dual_solution(y: Any, weight: Any, tol: float, max_iterations: int) -> tuple[Any, Any, Any]:
    """Return (p, steps, changes) of min over |p| <= weight of 1/2 ||y - D^T p||^2.

    Accelerated projected gradients with restarts (Beck and Teboulle 2009; O'Donoghue and Candès
    2015), until the gap bounds the distance of x = y - D^T p from the solution by tol ||y||, and
    the set of flat edges rests. `steps` is int32 (batch,), `changes` how many edges changed sides
    since the check before.
    """
    scale = tol * ops.sqrt(ops.sum(y * y, axis=(1, 2)))

    def unsolved(p: Any, changes: Any) -> Any:
        far = ops.sqrt(2.0 * gap(y - adjoint(p), p, y, weight)) > scale
        return ops.logical_or(far, changes > 0)

    def check(p: Any, ahead: Any, t: Any, steps: Any, changes: Any) -> tuple[Any, ...]:
        steps = steps + _CHECKED_EVERY * ops.cast(unsolved(p, changes), "int32")
        before = is_flat(p, weight)
        for _ in range(_CHECKED_EVERY):
            p, ahead, t = _step(p, ahead, t, y, weight)
        changed = ops.cast(ops.not_equal(is_flat(p, weight), before), "int32")
        return p, ahead, t, steps, ops.sum(changed, axis=(1, 2, 3))

    start = ops.zeros_like(differences(y))
    one = ops.ones_like(y[:, :1, :1, None])
    none = ops.cast(0.0 * one[:, 0, 0, 0], "int32")
    found = ops.while_loop(
        lambda p, ahead, t, steps, changes: ops.any(unsolved(p, changes)),
        check,
        (start, start, one, none, none + 1),
        maximum_iterations=-(-max_iterations // _CHECKED_EVERY),
    )
    return found[0], found[3], found[4]


def _step(p: Any, ahead: Any, t: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
    new = into_balls(ahead + _STEP * differences(y - adjoint(ahead)), weight)
    against = ops.sum((ahead - new) * (new - p), axis=(1, 2, 3), keepdims=True)
    t = ops.where(against > 0, ops.ones_like(t), t)
    later = (1.0 + ops.sqrt(1.0 + 4.0 * t * t)) / 2.0
    return new, new + (t - 1.0) / later * (new - p), later


def regions(flat: Any) -> Any:
    """Return int32 (batch * h * w,) numbers of regions: pixels joined by edges that are flat.

    Each takes the least number around, and the number of the pixel with that number, until nothing
    changes.

    Args:
        flat: bool (batch, h, w, 2), or (batch, h, w, 1) for both edges of a pixel at once.
    """
    batch, height, width = ops.shape(flat)[0], flat.shape[1], flat.shape[2]
    down, right = flat[:, :-1, :, 0], flat[:, :, :-1, -1]
    number = ops.reshape(ops.cast(ops.arange(batch * height * width), "int32"), (-1, height, width))

    def least(number: Any) -> Any:
        above, below = number[:, :-1], number[:, 1:]
        meet = ops.where(down, ops.minimum(above, below), below)
        number = ops.concatenate([number[:, :1], meet], axis=1)
        met = ops.where(down, ops.minimum(number[:, :-1], number[:, 1:]), number[:, :-1])
        number = ops.concatenate([met, number[:, -1:]], axis=1)
        left, beyond = number[:, :, :-1], number[:, :, 1:]
        meet = ops.where(right, ops.minimum(left, beyond), beyond)
        number = ops.concatenate([number[:, :, :1], meet], axis=2)
        met = ops.where(right, ops.minimum(number[:, :, :-1], number[:, :, 1:]), number[:, :, :-1])
        number = ops.concatenate([met, number[:, :, -1:]], axis=2)
        flat_number = ops.reshape(number, (-1,))
        return ops.reshape(ops.take(flat_number, flat_number), ops.shape(number))

    found = ops.while_loop(
        lambda number, before: ops.any(ops.not_equal(number, before)),
        lambda number, before: (least(number), number),
        (least(number), number),
        maximum_iterations=height * width,
    )
    return ops.reshape(found[0], (-1,))


def region_means(x: Any, number: Any) -> Any:
    """Return the image with each pixel replaced by the mean of its region."""
    count = ops.shape(number)[0]
    total = ops.segment_sum(ops.reshape(x, (-1,)), number, num_segments=count)
    size = ops.segment_sum(ops.ones_like(number), number, num_segments=count)
    mean = total / ops.cast(ops.maximum(size, 1), x.dtype)
    return ops.reshape(ops.take(mean, number), ops.shape(x))
