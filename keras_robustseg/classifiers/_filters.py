"""Separable filters on images (B, *S, C) of any rank, by sums of shifted copies.

Borders repeat the outermost pixel. All of it is float32 sums, on every device.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from keras import ops


def shifts(x: Any, axis: int, radius: int) -> list[Any]:
    """Return x at the pixels -radius ... radius further along an axis.

    Example:
        `shifts(ops.array([[1.0, 2.0, 3.0]]), 1, 1)[2]  # [[2, 3, 3]]`
    """
    size = ops.shape(x)[axis]
    padded = ops.take(x, ops.clip(ops.arange(-radius, size + radius), 0, size - 1), axis=axis)
    before = (slice(None),) * axis
    # Ends are counted from behind, so that the size need not be known.
    return [padded[(*before, slice(by, by - 2 * radius or None))] for by in range(2 * radius + 1)]


def gaussian(x: Any, sigma: float) -> Any:
    """Return the Gaussian mean along all axes of space, cut off at 4 sigma.

    Args:
        x: (B, *S, C).
        sigma: standard deviation in pixels.
    """
    radius = int(4.0 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (weights / (weights[0] + 2.0 * weights[1:].sum())).astype("float32")
    for axis in space(x):
        around = shifts(x, axis, radius)
        x = weights[0] * x
        for by, weight in enumerate(weights[1:], start=1):
            x += weight * (around[radius - by] + around[radius + by])
    return x


def sobel(x: Any) -> list[Any]:
    """Return the differences x[i + 1] - x[i - 1] along each axis, smoothed along the others.

    Args:
        x: (B, *S, C).
    """
    found = []
    for along in space(x):
        before, _, after = shifts(x, along, 1)
        edge = after - before
        for axis in space(x):
            if axis != along:
                before, here, after = shifts(edge, axis, 1)
                edge = 0.25 * (before + 2.0 * here + after)
        found.append(edge)
    return found


def slope(x: Any, axis: int) -> Any:
    """Return the derivative along an axis: central differences, one-sided at the borders.

    Args:
        x: (B, *S, C).
        axis: of space.
    """
    size = ops.shape(x)[axis]
    place = ops.arange(size)
    inner = ops.cast(ops.logical_and(place > 0, place < size - 1), x.dtype)
    scale = ops.reshape(1.0 - 0.5 * inner, [-1] + [1] * (len(x.shape) - 1 - axis))
    before, _, after = shifts(x, axis, 1)
    return scale * (after - before)


def hessian_eigenvalues(x: Any) -> list[Any]:
    """Return the eigenvalues of the second derivative, the greatest first.

    Args:
        x: (B, *S, C).
    """
    slopes = {axis: slope(x, axis) for axis in space(x)}
    pairs = combinations_with_replacement(space(x), 2)
    return eigenvalues([slope(slopes[first], second) for first, second in pairs])


def structure_tensor_eigenvalues(x: Any, sigma: float) -> list[Any]:
    """Return the eigenvalues of the Gaussian mean of the outer product of Sobel's gradient.

    Args:
        x: (B, *S, C).
        sigma: of the mean, in pixels.
    """
    products = [first * second for first, second in combinations_with_replacement(sobel(x), 2)]
    together = gaussian(ops.concatenate(products, axis=-1), sigma)
    return eigenvalues(ops.split(together, len(products), axis=-1))


def eigenvalues(entries: list[Any]) -> list[Any]:
    """Return the eigenvalues of symmetric matrices, the greatest first, in closed form.

    Args:
        entries: upper triangle row by row, of 2 x 2 or 3 x 3 matrices.

    Example:
        `eigenvalues([2.0 * one, 0.0 * one, one])  # 2, 1`
    """
    if len(entries) == 3:
        first, off, second = entries
        middle = 0.5 * (first + second)
        radius = ops.sqrt(ops.square(0.5 * (first - second)) + ops.square(off))
        return [middle + radius, middle - radius]
    return _three([ops.cast(entry, "float64") for entry in entries], entries[0].dtype)


def _three(entries: list[Any], dtype: str) -> list[Any]:
    """By the cosines of thirds of an angle (Smith, CACM 1961); in float64, as the angle cancels."""
    a, d, e, b, f, c = entries
    middle = (a + b + c) / 3.0
    a, b, c = a - middle, b - middle, c - middle
    squares = a * a + b * b + c * c + 2.0 * (d * d + e * e + f * f)
    scale = ops.sqrt(squares / 6.0)
    determinant = a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)
    cube = ops.maximum(scale * scale * scale, 1e-300)
    angle = ops.arccos(ops.clip(0.5 * determinant / cube, -1.0, 1.0)) / 3.0
    turns = (0.0, -2.0 * math.pi / 3.0, 2.0 * math.pi / 3.0)
    return [ops.cast(middle + 2.0 * scale * ops.cos(angle + turn), dtype) for turn in turns]


def space(x: Any) -> range:
    """Axes of space of (B, *S, C).

    Example:
        `list(space(ops.zeros((1, 4, 4, 1))))  # [1, 2]`
    """
    return range(1, len(x.shape) - 1)
