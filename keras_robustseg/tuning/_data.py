"""Data of a tuning: what is trained on, what is validated on, and folds of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from keras_robustseg.classifiers._grids import is_list_of_images, read_grid


class Data(NamedTuple):
    """Labelled pixels (N, F) or images (B, *S, F); the first axis is what folds divide.

    Args:
        x: features.
        y: ids, or soft labels with one more axis.
        weight: of the shape of the ids.
        annotator: number of the annotator, of the shape of the ids, or None.
    """

    x: Any
    y: np.ndarray
    weight: np.ndarray
    annotator: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Data:
        """Return some of the rows, or images."""
        annotator = None if self.annotator is None else self.annotator[rows]
        return Data(self.x[rows], self.y[rows], self.weight[rows], annotator)

    def classes(self) -> int:
        """Return how many classes there are."""
        if self.y.ndim > self.weight.ndim:
            return int(self.y.shape[-1])
        return len(np.unique(self.y[(self.y >= 0) & (self.weight > 0)]))


def read_data(X: Any, y: Any, sample_weight: Any = None) -> Data:
    """Read features, labels and weights; images of several sizes become one array with void.

    Raises:
        ValueError: shapes do not fit.
    """
    if is_list_of_images(X):
        grid = read_grid(X)
        soft = np.ndim(y[0]) == grid.x.ndim - 1
        y = grid.filled(y, 0 if soft else -1)
        given = [np.ones(size) for size in grid.sizes or ()] if sample_weight is None else None
        X, sample_weight = grid.x, grid.filled(given or sample_weight, 0)
    x = sparse.csr_array(X) if sparse.issparse(X) else np.asarray(X)
    y = np.asarray(y)
    if x.ndim < 2:
        raise ValueError(
            f"Expected X of shape (N, F) or (batch, *space, F). Received: shape={x.shape}"
        )
    shape = x.shape[:-1]
    if y.shape != shape and y.shape[:-1] != shape:
        raise ValueError(
            f"Expected y of shape {shape}, class ids, or {(*shape, 'C')}, soft labels. "
            f"Received: shape={y.shape}"
        )
    if y.shape == (*shape, 1):
        y = y[..., 0]
    weight = np.ones(shape) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weight.shape != shape:
        raise ValueError(f"Expected sample_weight of shape {shape}. Received: shape={weight.shape}")
    return Data(x, y, weight)


def with_groups(data: Data, groups: Any) -> tuple[Data, np.ndarray | None]:
    """Return the data with a number for each annotator, and the annotators' names, sorted.

    Args:
        data: the data.
        groups: an annotator (number or text) for each pixel, or for each image; or None.

    Raises:
        ValueError: the shape of groups does not fit.
    """
    if groups is None:
        return data, None
    groups, shape = np.asarray(groups), data.weight.shape
    if groups.shape not in (shape, shape[:1]):
        raise ValueError(
            f"Expected groups of shape {shape[:1]} or {shape}, an annotator for each. "
            f"Received: shape={groups.shape}"
        )
    names, number = np.unique(groups, return_inverse=True)
    number = number.reshape(groups.shape + (1,) * (len(shape) - groups.ndim))
    return data._replace(annotator=np.broadcast_to(number, shape)), names


def fold_rows(data: Data, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (training rows, validation rows) of each fold.

    Pixels are dealt out class by class, so that every fold has about the same shares; images are
    dealt out whole, since the pixels of one are not independent.

    Raises:
        ValueError: fewer than two folds, or fewer rows than folds.
    """
    count = data.weight.shape[0]
    if not 2 <= folds <= count:
        raise ValueError(f"Expected from 2 to {count} folds. Received: folds={folds}")
    order = np.random.default_rng(seed).permutation(count)
    if data.weight.ndim == 1:
        ids = data.y if data.y.ndim == 1 else data.y.argmax(axis=-1)
        order = order[np.argsort(ids[order], kind="stable")]
    fold = np.empty(count, dtype=int)
    fold[order] = np.arange(count) % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]
