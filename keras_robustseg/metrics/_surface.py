"""Distances between the surfaces of two masks, in NumPy, in 2-D or 3-D, in units of the spacing.

The surface of a mask is the set of its pixels (voxels) that have a face neighbour outside the mask;
what lies beyond the edge of the image counts as outside. Distances are Euclidean, between centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from keras_robustseg.errors import DataError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class SurfaceSummary(NamedTuple):
    """The surface metrics of one pair of masks."""

    hausdorff_95: float
    average_symmetric_surface_distance: float
    normalized_surface_dice: float


def surface_distances(
    pred: npt.ArrayLike, true: npt.ArrayLike, *, spacing: Sequence[float] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the distance of each surface pixel of one mask to the surface of the other.

    Args:
        pred: mask (*S), nonzero inside.
        true: mask (*S), nonzero inside.
        spacing: size of a pixel along each axis, in mm for instance; 1 by default.

    Returns:
        From `pred` to `true`, and from `true` to `pred`. Both are empty when either mask is.

    Raises:
        DataError: the shapes differ, or the spacing has another length or is not positive.

    Example:
        `surface_distances([[1, 0, 0]], [[0, 0, 1]], spacing=(1, 0.5))  # [1.], [1.]`
    """
    masks: tuple[BoolArray, BoolArray] = np.asarray(pred) != 0, np.asarray(true) != 0
    scale = _scale(*masks, spacing)
    if not all(mask.any() for mask in masks):
        return np.empty(0), np.empty(0)
    points_pred, points_true = (np.argwhere(_surface(mask)) * scale for mask in masks)
    from_pred, _ = cKDTree(points_true).query(points_pred)
    from_true, _ = cKDTree(points_pred).query(points_true)
    return from_pred, from_true


def hausdorff_95(
    pred: npt.ArrayLike, true: npt.ArrayLike, *, spacing: Sequence[float] | None = None
) -> float:
    """Return max(P95 of distances pred -> true, P95 of distances true -> pred).

    The percentile is taken in each direction before the maximum, as in Metrics Reloaded
    (Maier-Hein et al. 2024); taking it over the pooled distances gives smaller values.
    NaN when either mask is empty, or both: count such cases, they are not zeros.

    Args:
        pred: mask (*S), nonzero inside.
        true: mask (*S), nonzero inside.
        spacing: size of a pixel along each axis.

    Raises:
        DataError: as `surface_distances`.

    Example:
        `hausdorff_95([[1, 1, 0, 0]], [[0, 0, 1, 1]])`
    """
    return surface_summary(*surface_distances(pred, true, spacing=spacing)).hausdorff_95


def average_symmetric_surface_distance(
    pred: npt.ArrayLike, true: npt.ArrayLike, *, spacing: Sequence[float] | None = None
) -> float:
    """Return (sum of distances pred -> true + sum of distances true -> pred) / number of both.

    NaN when either mask is empty, or both.

    Args:
        pred: mask (*S), nonzero inside.
        true: mask (*S), nonzero inside.
        spacing: size of a pixel along each axis.

    Raises:
        DataError: as `surface_distances`.

    Example:
        `average_symmetric_surface_distance([[1, 0, 0]], [[0, 0, 1]])  # 2.0`
    """
    distances = surface_distances(pred, true, spacing=spacing)
    return surface_summary(*distances).average_symmetric_surface_distance


def normalized_surface_dice(
    pred: npt.ArrayLike,
    true: npt.ArrayLike,
    *,
    tolerance: float,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the share of both surfaces that lies within `tolerance` of the other one.

    Nikolov et al. 2018, here with counted surface pixels instead of areas of surface elements.
    NaN when either mask is empty, or both.

    Args:
        pred: mask (*S), nonzero inside.
        true: mask (*S), nonzero inside.
        tolerance: accepted distance, in the unit of `spacing`.
        spacing: size of a pixel along each axis.

    Raises:
        DataError: as `surface_distances`.

    Example:
        `normalized_surface_dice([[1, 0, 0]], [[0, 1, 0]], tolerance=1.0)  # 1.0`
    """
    distances = surface_distances(pred, true, spacing=spacing)
    return surface_summary(*distances, tolerance=tolerance).normalized_surface_dice


def surface_summary(
    from_pred: FloatArray, from_true: FloatArray, *, tolerance: float = 1.0
) -> SurfaceSummary:
    """Return the three surface metrics of one result of `surface_distances`; NaN of empty ones.

    Example:
        `surface_summary(*surface_distances(pred, true), tolerance=2.0).hausdorff_95`
    """
    if not from_pred.size:
        return SurfaceSummary(float("nan"), float("nan"), float("nan"))
    pooled = np.concatenate([from_pred, from_true])
    return SurfaceSummary(
        hausdorff_95=float(max(np.percentile(from_pred, 95), np.percentile(from_true, 95))),
        average_symmetric_surface_distance=float(pooled.mean()),
        # Spacings such as 0.1 are not exact in binary: a distance of 3 x 0.1 must count as 0.3.
        normalized_surface_dice=float(np.mean(pooled <= tolerance * (1 + 1e-9))),
    )


def _surface(mask: BoolArray) -> BoolArray:
    """Pixels of the mask with a face neighbour outside of it."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def _scale(pred: BoolArray, true: BoolArray, spacing: Sequence[float] | None) -> FloatArray:
    if pred.shape != true.shape:
        raise DataError(
            "Two masks must have one shape to be compared. "
            f"Received: pred {pred.shape}, true {true.shape}."
        )
    scale = np.ones(pred.ndim) if spacing is None else np.asarray(spacing, dtype=float)
    if scale.shape != (pred.ndim,) or not (np.isfinite(scale) & (scale > 0)).all():
        raise DataError(
            f"`spacing` must hold one positive number for each of the {pred.ndim} axes. "
            f"Received: {spacing}."
        )
    return scale
