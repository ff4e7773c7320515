"""Reading of X, y and weights: images become rows of pixels, labels become masses of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse


class Labels(NamedTuple):
    """Labels of N pixels.

    Args:
        masses: (N, C) label distribution of each pixel times its weight; 0 where it is void.
        distribution: (N, C) of sum 1 without the weight; 0 where it is void.
        totals: (N,) sum of a soft label as it was given, 1 where it is void or a class id.
        counted: (N,) bool, neither void nor of weight 0.
        classes: (C,) ids.
        shape: of the ids as they were given.
        soft: whether labels were soft.
    """

    masses: np.ndarray
    distribution: np.ndarray
    totals: np.ndarray
    counted: np.ndarray
    classes: np.ndarray
    shape: tuple[int, ...]
    soft: bool


def read_features(X: Any, features: int | None = None) -> tuple[Any, tuple[int, ...]]:
    """Return X as rows (N, F), dense or CSR, and the shape of the pixels.

    float32 stays as it is; blocks of it become float64 when they are computed with.

    Args:
        X: (N, F), dense or sparse, or (B, *S, F).
        features: F as fitted, to be checked.

    Raises:
        ValueError: X has fewer than two axes, no rows or columns, or another number of features.

    Example:
        `read_features(np.zeros((2, 8, 8, 5)))[0].shape  # (128, 5)`
    """
    x = X if sparse.issparse(X) else np.asarray(X)
    if x.ndim < 2:
        raise ValueError(
            "Expected X of shape (N, F) or (batch, *space, F). "
            f"Received: shape={x.shape}. Reshape a single pixel to (1, F)."
        )
    if features is not None and x.shape[-1] != features:
        raise ValueError(
            f"X has {x.shape[-1]} features, but the classifier was fitted with {features}."
        )
    if 0 in x.shape:
        raise ValueError(f"X has no pixels or no features. Received: shape={x.shape}")
    if sparse.issparse(x):
        return sparse.csr_array(x, dtype=np.float64), (x.shape[0],)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"Expected X of real numbers. Received: dtype={x.dtype}")
    kept = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
    return kept.reshape(-1, x.shape[-1]), x.shape[:-1]


def check_finite(x: Any) -> None:
    """Refuse rows that are not finite.

    Args:
        x: (N, F) dense or CSR.

    Raises:
        ValueError: names the first column that has NaN or infinity.
    """
    values = x.data if sparse.issparse(x) else x
    if np.isfinite(values.sum()) or np.isfinite(values).all():
        return
    bad = ~np.isfinite(values)
    column = x.indices[bad][0] if sparse.issparse(x) else np.argmax(bad.any(axis=0))
    raise ValueError(
        f"X contains NaN or infinity in column {column}, at pixels that count. "
        "Mark such pixels as void (a negative id) or give them weight 0."
    )


def read_labels(
    y: Any, shape: tuple[int, ...], sample_weight: Any, classes: Sequence[int] | np.ndarray | None
) -> Labels:
    """Return the labels and weights of pixels of a given shape.

    Args:
        y: ids of that shape, or soft labels with one more axis.
        shape: of the pixels.
        sample_weight: of that shape, or None.
        classes: ids of the classes where they are known already.

    Raises:
        ValueError: shapes do not fit, or there are values that mean nothing.

    Example:
        `read_labels([0, 1, -1], (3,), None, None).counted  # True, True, False`
    """
    y = np.asarray(y)
    weight = _weights(sample_weight, shape)
    if y.shape[:-1] == shape and y.ndim == len(shape) + 1 and y.shape[-1] > 1:
        distribution, totals, ids = _soft(y, classes)
    elif y.shape == shape or y.shape == (*shape, 1):
        distribution, ids = _hard(y.reshape(-1), weight, classes)
        totals = np.ones(len(weight))
    else:
        raise ValueError(
            f"Expected y of shape {shape}, class ids, or {(*shape, 'C')}, soft labels, as X has "
            f"pixels of shape {shape}. Received: shape={y.shape}"
        )
    counted = (weight > 0) & (distribution.sum(axis=1) > 0)
    plain = sample_weight is None and counted.all()
    masses = distribution if plain else np.where(counted, weight, 0.0)[:, None] * distribution
    return Labels(masses, distribution, totals, counted, ids, shape, y.ndim > len(shape))


def check_classes(classes: np.ndarray, masses: np.ndarray) -> None:
    """Refuse labels in which a class is missing.

    Args:
        classes: (C,) ids.
        masses: (C,) mass of each class.

    Raises:
        ValueError: fewer than two classes, or one without mass, which it names.
    """
    if len(classes) < 2:
        one = f"only one class: {classes[0]}" if len(classes) else "none"
        raise ValueError(
            "A classifier needs pixels of at least 2 classes in the data, "
            f"but the data contains {one}."
        )
    missing = classes[masses <= 0]
    if len(missing):
        raise ValueError(
            f"Class {missing[0]} is missing: no pixel of it has a positive weight. "
            f"Expected pixels of all classes {classes.tolist()}."
        )


def _weights(sample_weight: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of all pixels, (N,)."""
    if sample_weight is None:
        return np.ones(int(np.prod(shape)))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != shape:
        raise ValueError(f"Expected sample_weight of shape {shape}. Received: shape={weight.shape}")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("Expected sample_weight finite and not negative.")
    return weight.reshape(-1)


def _hard(
    y: np.ndarray, weight: np.ndarray, classes: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Indicators (N, C), 0 where void, and ids (C,)."""
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not np.all(y == np.floor(y))):
        raise ValueError(
            f"Expected whole numbers as class ids, negative for void. Received: dtype={y.dtype}"
        )
    y = y.astype(np.int64)
    present = _distinct(y[(y >= 0) & (weight > 0)])
    ids = present if classes is None else np.asarray(classes)
    unknown = np.setdiff1d(present, ids)
    if len(unknown):
        raise ValueError(f"y has class {unknown[0]}. Expected one of {ids.tolist()}.")
    return (y[:, None] == ids).astype(np.float64), ids


def _distinct(ids: np.ndarray) -> np.ndarray:
    """Sorted distinct ids, which are not negative; without a sort where they are small."""
    if len(ids) and ids.max() < 65_536:
        return np.flatnonzero(np.bincount(ids))
    return np.unique(ids)


def _soft(
    y: np.ndarray, classes: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distributions (N, C), 0 where void, sums (N,) as given, 1 where void, and ids (C,)."""
    y = y.reshape(-1, y.shape[-1]).astype(np.float64)
    ids = np.arange(y.shape[1]) if classes is None else np.asarray(classes)
    if len(ids) != y.shape[1]:
        raise ValueError(
            f"Expected soft labels with {len(ids)} entries on the last axis. Received: {y.shape[1]}"
        )
    if not np.isfinite(y).all() or (y < 0).any():
        raise ValueError("Expected soft labels finite and not negative; void is a row of zeros.")
    totals = y.sum(axis=1)
    totals = np.where(totals > 0, totals, 1.0)
    return y / totals[:, None], totals, ids
