"""Overlap of two label maps, in NumPy: Dice, IoU and accuracy, undefined where nothing is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_robustseg.errors import DataError

FloatArray = npt.NDArray[np.float64]


def overlap_counts(
    pred: npt.ArrayLike, true: npt.ArrayLike, num_classes: int
) -> npt.NDArray[np.int64]:
    """Return pixel counts (3, C): in both maps, in `pred`, in `true`, class by class.

    A pixel that is void (negative) in either map is left out of all three.

    Args:
        pred: class ids (*S), any number of axes.
        true: class ids, same shape, or (*S, R) of R readers, who then count by majority.
        num_classes: C.

    Raises:
        DataError: the shapes differ, a map is not integer, or an id is C or more.

    Example:
        `overlap_counts([0, 1, 1, -1], [0, 1, 0, 1], 2)  # [[1, 1], [1, 2], [2, 1]]`
    """
    pred, true = _valid_pixels(pred, true, num_classes)
    agreed = pred[pred == true]
    return np.stack([np.bincount(ids, minlength=num_classes) for ids in (agreed, pred, true)])


def majority_of_readers(masks: npt.ArrayLike) -> npt.NDArray[np.integer]:
    """Return what most readers said, pixel by pixel, (*S); ties go to the lowest class.

    Args:
        masks: class ids (*S, R) of R readers, negative where a reader gave none; a pixel that no
            reader gave is -1.

    Example:
        `majority_of_readers([[0, 1, 1], [2, -1, -1], [-1, -1, -1]])  # [1, 2, -1]`
    """
    masks = np.asarray(masks)
    classes = max(int(masks.max(initial=0)), 0) + 1
    votes = np.stack([(masks == c).sum(axis=-1) for c in range(classes)], axis=-1)
    return np.where(votes.any(axis=-1), votes.argmax(axis=-1), -1).astype(masks.dtype)


def one_map(pred: npt.NDArray[Any], true: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `true` as one map: the majority where it has an axis of readers more than `pred`.

    Example:
        `one_map(np.zeros((8, 8), int), np.zeros((8, 8, 3), int)).shape  # (8, 8)`
    """
    several = true.ndim == pred.ndim + 1 and true.dtype.kind in "iub"
    return majority_of_readers(true) if several else true


def dice(pred: npt.ArrayLike, true: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Return Dice's coefficient 2 |P and T| / (|P| + |T|) of each class, shape (C,).

    A class that neither map contains is undefined: NaN. Void (negative) pixels of either map are
    left out.

    Args:
        pred: class ids (*S).
        true: class ids (*S), or (*S, R) of R readers.
        num_classes: C.

    Raises:
        DataError: as `overlap_counts`.

    Example:
        `dice([0, 1, 1], [0, 1, 0], 3)  # [0.667, 0.667, nan]`
    """
    return dice_of_counts(overlap_counts(pred, true, num_classes))


def iou(pred: npt.ArrayLike, true: npt.ArrayLike, num_classes: int) -> FloatArray:
    """Return the Jaccard index |P and T| / |P or T| of each class, shape (C,); NaN as in `dice`.

    Args:
        pred: class ids (*S).
        true: class ids (*S), or (*S, R) of R readers.
        num_classes: C.

    Raises:
        DataError: as `overlap_counts`.

    Example:
        `iou([0, 1, 1], [0, 1, 0], 3)  # [0.5, 0.5, nan]`
    """
    both, in_pred, in_true = overlap_counts(pred, true, num_classes)
    return _ratio(both, in_pred + in_true - both)


def accuracy(pred: npt.ArrayLike, true: npt.ArrayLike, num_classes: int) -> float:
    """Return the share of pixels with the right class; NaN when every pixel is void.

    Args:
        pred: class ids (*S).
        true: class ids (*S), or (*S, R) of R readers.
        num_classes: C.

    Raises:
        DataError: as `overlap_counts`.

    Example:
        `accuracy([0, 1, 1, 0], [0, 1, 0, -1], 2)  # 0.667`
    """
    both, _, in_true = overlap_counts(pred, true, num_classes)
    return float(_ratio(both.sum(), in_true.sum()))


def dice_of_counts(counts: npt.NDArray[np.int64]) -> FloatArray:
    """Return Dice (..., C) of counts (..., 3, C), such as sums of `overlap_counts` over images.

    Example:
        `dice_of_counts(overlap_counts(p, t, 2) + overlap_counts(q, u, 2))  # pooled`
    """
    both, in_pred, in_true = np.moveaxis(np.asarray(counts), -2, 0)
    return _ratio(2 * both, in_pred + in_true)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> FloatArray:
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _valid_pixels(
    pred: npt.ArrayLike, true: npt.ArrayLike, num_classes: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    pred, true = np.asarray(pred), np.asarray(true)
    true = one_map(pred, true)
    if pred.shape != true.shape:
        raise DataError(
            "Two label maps must have one shape to be compared. "
            f"Received: pred {pred.shape}, true {true.shape}."
        )
    for name, ids in (("pred", pred), ("true", true)):
        if ids.dtype.kind not in "iub":
            raise DataError(f"`{name}` must hold integer class ids. Received: {ids.dtype}.")
        if ids.size and ids.max() >= num_classes:
            raise DataError(
                f"`{name}` must hold class ids below {num_classes}, or negative ids for void. "
                f"Received: {ids.max()}."
            )
    pred, true = pred.ravel(), true.ravel()
    given = (pred >= 0) & (true >= 0)
    return pred[given].astype(np.intp), true[given].astype(np.intp)
