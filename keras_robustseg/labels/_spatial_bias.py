"""Outlines that lie too far out or in: how far, from a few clean masks, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from keras_robustseg.errors import DataError

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.integer]


def signed_distance(inside: npt.ArrayLike, *, spacing: Sequence[float] | None = None) -> FloatArray:
    """Return the distance to the nearest pixel of the other kind, negative outside.

    No pixel is at 0. A map that is all inside is infinite, one that is all outside -infinite.

    Args:
        inside: bool (*S).
        spacing: size of a pixel along each axis; 1 by default.

    Returns:
        (*S), in the unit of `spacing`.

    Example:
        `signed_distance([False, True, True])  # [-1, 1, 2]`
    """
    inside = np.asarray(inside, dtype=bool)
    if inside.all() or not inside.any():
        return np.where(inside, np.inf, -np.inf)
    depth: FloatArray = distance_transform_edt(inside, sampling=spacing)
    return depth - distance_transform_edt(~inside, sampling=spacing)


def estimate_spatial_bias(
    given: Iterable[npt.ArrayLike],
    clean: Iterable[npt.ArrayLike],
    num_classes: int,
    *,
    spacing: Sequence[float] | None = None,
) -> FloatArray:
    """Return how far the given outlines of each class lie outside the true ones, shape (C,).

    With d the signed distance to the given outline of a class, the offset b is the one at which
    d > b differs from the clean masks in the least pixels, over all pairs; ties for the least
    |b|. Above 0 the masks are too large, below too small. After Yao et al. (ICLR 2023), who shift
    signed distances by what they find on clean masks.

    A constant offset is all that this finds: neither noise without a direction, nor missing
    objects. Without clean masks it cannot be known at all.

    Args:
        given: masks of class ids (*S), 2-D or 3-D; negative ids are void and do not count.
        clean: the true masks, in the same order, same shapes.
        num_classes: C.
        spacing: size of a pixel along each axis; 1 by default.

    Returns:
        The offsets in the unit of `spacing`; 0 for class 0, and for classes that no given mask
        has.

    Raises:
        DataError: a pair has two shapes, or ids that are not classes.
        ValueError: there are more masks on one side than on the other.

    Example:
        `bias = labels.estimate_spatial_bias(given[:5], clean[:5], num_classes=2)`
    """
    pairs = [
        (_checked(mask, num_classes), _checked(truth, num_classes))
        for mask, truth in zip(given, clean, strict=True)
    ]
    for mask, truth in pairs:
        if mask.shape != truth.shape:
            raise DataError(
                "A given mask and its clean one must have one shape. "
                f"Received: given {mask.shape}, clean {truth.shape}."
            )
    bias = np.zeros(num_classes)
    for label in range(1, num_classes):
        columns = [_distances(mask, truth, label, spacing) for mask, truth in pairs]
        distances, inside = (np.concatenate(column) for column in zip(*columns, strict=True))
        bias[label] = _best_cut(distances, inside)
    return bias


def undo_spatial_bias(
    mask: npt.ArrayLike, bias: npt.ArrayLike, *, spacing: Sequence[float] | None = None
) -> Mask:
    """Return a mask with the outline of each class moved back by its offset.

    A pixel gets the foreground class c with the largest d_c - b_c above 0, and else class 0; d_c
    is the signed distance to the given outline. Void pixels stay void. Details thinner than the
    offset do not come back: undoing a dilation is a closing of the truth, undoing an erosion an
    opening.

    Args:
        mask: class ids (*S), 2-D or 3-D; negative ids are void.
        bias: offsets (C,) of `estimate_spatial_bias`.
        spacing: size of a pixel along each axis; 1 by default.

    Returns:
        Class ids (*S), of the type of `mask`.

    Raises:
        DataError: the mask has ids that are not classes.

    Example:
        `labels.undo_spatial_bias(mask, [0.0, 1.5])`
    """
    bias = np.asarray(bias, dtype=float)
    mask = _checked(mask, len(bias))
    whole = _without_void(mask)
    scores = [np.zeros(mask.shape)]
    for label in range(1, len(bias)):
        scores.append(signed_distance(whole == label, spacing=spacing) - bias[label])
    moved = np.argmax(scores, axis=0).astype(mask.dtype)
    return np.where(mask < 0, mask, moved)


def _distances(
    mask: Mask, truth: Mask, label: int, spacing: Sequence[float] | None
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Signed distance to the given outline, and whether it is truly inside, where both are known.

    Empty where the mask has no such outline.
    """
    distance = signed_distance(_without_void(mask) == label, spacing=spacing)
    known = (mask >= 0) & (truth >= 0) & np.isfinite(distance)
    return distance[known], truth[known] == label


def _best_cut(distances: FloatArray, inside: npt.NDArray[np.bool_]) -> float:
    """The cut between two distances with the least pixels on the wrong side, nearest to 0."""
    values, place = np.unique(distances, return_inverse=True)
    if len(values) < 2:
        return 0.0
    gained = np.bincount(place, weights=np.where(inside, 1.0, -1.0))
    # Entry i: pixels up to value i count as outside; less those below are inside, the better.
    wrong = np.cumsum(gained)[:-1]
    cuts = (values[:-1] + values[1:]) / 2
    cuts[(values[:-1] < 0) & (values[1:] > 0)] = 0.0
    best = cuts[wrong == wrong.min()]
    return float(best[np.abs(best).argmin()])


def _without_void(mask: Mask) -> Mask:
    """The mask with void pixels filled from the nearest known one, so that they form no outline."""
    void = mask < 0
    if not void.any() or void.all():
        return mask
    nearest = distance_transform_edt(void, return_distances=False, return_indices=True)
    filled: Mask = mask[tuple(nearest)]
    return filled


def _checked(mask: Any, num_classes: int) -> Mask:
    mask = np.asarray(mask)
    if mask.dtype.kind not in "iu" or (mask.size and mask.max() >= num_classes):
        raise DataError(
            f"A mask must hold integer class ids below {num_classes}, negative for void. "
            f"Received: {mask.dtype}" + (f" up to {mask.max()}." if mask.size else ".")
        )
    return mask
