"""Images of several sizes as one batch, where NaN marks the pixels that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Images on one grid.

    Args:
        x: (B, *S, F) features, NaN at pixels that are not there.
        sizes: shape of space of each image, where they came as a list, else None.
    """

    x: np.ndarray
    sizes: tuple[tuple[int, ...], ...] | None

    @property
    def there(self) -> np.ndarray:
        """(B, *S), whether a pixel has features."""
        return np.isfinite(self.x).all(axis=-1)

    def edge_weights(self) -> np.ndarray | None:
        """Return (B, *S, axes), 0 at edges that lead to a pixel that is not there; None for 1."""
        there = self.there
        if there.all():
            return None
        axes = range(1, there.ndim)
        return np.stack([there & np.roll(there, -1, axis) for axis in axes], axis=-1) * 1.0

    def filled(self, values: Any, nothing: float) -> np.ndarray:
        """Return labels or weights of the images as one array, `nothing` where no pixel is."""
        if self.sizes is None:
            return np.asarray(values)
        return stacked([np.asarray(value) for value in values], self.x.ndim - 2, nothing)

    def cropped(self, values: np.ndarray) -> Any:
        """Return (B, *S, ...) as it came: an array, or a list of arrays."""
        if self.sizes is None:
            return values
        return [value[_corner(size)] for value, size in zip(values, self.sizes, strict=True)]


def is_list_of_images(X: Any) -> bool:
    """Whether X is a list of arrays (*S, F), which may be of several sizes."""
    return isinstance(X, (list, tuple)) and len(X) > 0 and all(np.ndim(one) >= 3 for one in X)


def read_grid(X: Any) -> Grid:
    """Return images as one batch.

    Args:
        X: (B, *S, F) with S of 1 to 3 axes, or a list of (*S, F), S of 2 or 3 axes.

    Raises:
        ValueError: these are no images, or of different numbers of axes or features.

    Example:
        `read_grid([np.zeros((4, 6, 3)), np.zeros((5, 5, 3))]).x.shape  # (2, 5, 6, 3)`
    """
    if is_list_of_images(X):
        images = [np.asarray(one, dtype=np.float64) for one in X]
        if len({(one.ndim, one.shape[-1]) for one in images}) > 1:
            shapes = [one.shape for one in images]
            raise ValueError(f"Expected images with one number of features. Received: {shapes}")
        sizes = tuple(one.shape[:-1] for one in images)
        return Grid(stacked(images, images[0].ndim - 1, np.nan), sizes)
    x = np.asarray(X, dtype=np.float64)
    if not 3 <= x.ndim <= 5 or 0 in x.shape:
        raise ValueError(
            "Expected images (batch, *space, F) with 1 to 3 axes of space, or a list of them: the "
            f"neighbours of a pixel count. Received: shape={x.shape}"
        )
    return Grid(x, None)


def stacked(images: Sequence[np.ndarray], axes: int, nothing: float) -> np.ndarray:
    """Return images (*S, ...) in the corners of the smallest array that holds each.

    Args:
        images: arrays.
        axes: how many axes of space they have.
        nothing: value of the rest.
    """
    sizes = np.array([image.shape[:axes] for image in images])
    shape = (len(images), *sizes.max(axis=0), *images[0].shape[axes:])
    found = np.full(shape, nothing, dtype=np.result_type(*images))
    for row, image in zip(found, images, strict=True):
        row[_corner(image.shape[:axes])] = image
    return found


def _corner(size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in size)
