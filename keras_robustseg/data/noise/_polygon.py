"""Outlines drawn with few corners: each is replaced by a Douglas-Peucker polygon."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import BoolArray, FloatArray, IntArray
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.data.noise._regions import follow, region_of


def polygon(
    tolerance: float | Sequence[float] = 2.0, *, classes: Sequence[int] | None = None
) -> Noise:
    """Redraws each outline as a polygon that leaves it by at most `tolerance`.

    The outline runs along pixel edges and is simplified by the method of Douglas and Peucker
    (Cartographica 10:112, 1973), from a random starting corner, as two annotators do not start at
    the same one; the polygon is filled by the even-odd rule at pixel centres. Volumes are done
    slice by slice along the first axis, as they are drawn. At least a triangle is left; where it
    holds no pixel centre, the outline stays as it was.

    Args:
        tolerance: In px.
        classes: Classes whose common outline is redrawn; all foreground classes by default.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = polygon((1, 4))(mask, seed=0)`
    """
    given = {"tolerance": tolerance, "classes": classes}
    return Noise("polygon", checked("polygon", given), _coarsen)


def _coarsen(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    before = region_of(mask, level)
    slices = before if mask.ndim == 3 else before[None]
    after = np.stack([_coarsened(part, level["tolerance"], rng) for part in slices])
    return follow(mask, before, after.reshape(mask.shape), level)


def _coarsened(region: BoolArray, tolerance: float, rng: np.random.Generator) -> BoolArray:
    coarse = np.zeros_like(region)
    parts, count = ndimage.label(region)
    for part in range(1, count + 1):
        coarse |= _coarsened_part(parts == part, tolerance, rng)
    return coarse


def _coarsened_part(part: BoolArray, tolerance: float, rng: np.random.Generator) -> BoolArray:
    coarse = np.zeros_like(part)
    for loop in outlines(part):
        corners = simplify(np.roll(loop, -int(rng.integers(len(loop))), axis=0), tolerance)
        filled = fill(corners, part.shape)
        coarse ^= filled if filled.any() else fill(loop, part.shape)
    return coarse


def outlines(region: BoolArray) -> list[FloatArray]:
    """Returns the closed outlines of a 2-D region as loops of pixel corners (N, 2), holes too.

    Pixel (i, j) covers [i, i + 1] x [j, j + 1]. Filling all loops by the even-odd rule gives the
    region back.

    Example:
        `outlines(np.array([[True]]))  # [[[0, 0], [0, 1], [1, 1], [1, 0]]], in some rotation`
    """
    following = _edges(region)
    loops = []
    while following:
        corner = start = next(iter(following))
        loop: list[tuple[int, int]] = []
        while corner != start or not loop:
            loop.append(corner)
            ends = following[corner]
            step = ends.pop()
            if not ends:
                del following[corner]
            corner = step
        loops.append(np.array(loop, dtype=float))
    return loops


def simplify(loop: FloatArray, tolerance: float) -> FloatArray:
    """Returns the Douglas-Peucker polygon of a closed loop (N, 2), which starts at its first point.

    The first point, the one farthest from it, and the one farthest from the chord of these two
    always stay.

    Example:
        `simplify(np.array([[0, 0], [0, 1], [0, 2], [2, 2.0]]), 0.5)  # three corners`
    """
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([loop, loop[:1]])
    third = int(np.argmax(_segment_distance(loop, loop[0], loop[far])))
    ends = sorted({0, far, third, len(loop)})
    keep = np.zeros(len(closed), dtype=bool)
    keep[ends] = True
    stack = list(itertools.pairwise(ends))
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        distance = _segment_distance(closed[first : last + 1], closed[first], closed[last])
        middle = first + int(np.argmax(distance))
        if distance.max() > tolerance:
            keep[middle] = True
            stack += [(first, middle), (middle, last)]
    return closed[:-1][keep[:-1]]


def fill(corners: FloatArray, shape: Sequence[int]) -> BoolArray:
    """Returns the pixels whose centres are inside a polygon, by the even-odd rule.

    A row's crossings with the polygon's edges toggle all pixels to the right of them.

    Args:
        corners: `(N, 2)` in pixel-corner coordinates.
        shape: `(H, W)`.

    Example:
        `fill(np.array([[0, 0], [0, 2], [2, 2], [2, 0.0]]), (3, 3)).sum()  # 4`
    """
    rows = np.arange(shape[0])[:, None] + 0.5
    (y0, x0), (y1, x1) = corners.T, np.roll(corners, -1, axis=0).T
    row, edge = np.nonzero((y0 <= rows) != (y1 <= rows))
    share = (rows[row, 0] - y0[edge]) / (y1[edge] - y0[edge])
    crossing = x0[edge] + share * (x1[edge] - x0[edge])
    column = np.clip(np.ceil(crossing - 0.5), 0, shape[1]).astype(int)
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    np.add.at(toggles, (row, column), 1)
    return np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1


def _edges(region: BoolArray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Returns the directed pixel edges around the region: corner -> corners that follow it."""
    padded = np.pad(region, 1)
    inside = padded[1:-1, 1:-1]
    starts_ends = (
        (~padded[:-2, 1:-1], (0, 0), (0, 1)),  # above: to the right
        (~padded[1:-1, 2:], (0, 1), (1, 1)),  # right: down
        (~padded[2:, 1:-1], (1, 1), (1, 0)),  # below: to the left
        (~padded[1:-1, :-2], (1, 0), (0, 0)),  # left: up
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for open_side, start, end in starts_ends:
        for i, j in np.argwhere(inside & open_side).tolist():
            following.setdefault((i + start[0], j + start[1]), []).append((i + end[0], j + end[1]))
    return following


def _segment_distance(points: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """Returns the distance of each point to the segment from `start` to `end`."""
    chord = end - start
    relative = points - start
    along = np.clip(relative @ chord / max(float(chord @ chord), 1e-12), 0.0, 1.0)
    return np.sqrt(((relative - along[:, None] * chord) ** 2).sum(axis=1))
