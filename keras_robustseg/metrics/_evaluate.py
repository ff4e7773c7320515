"""Overlap and surface metrics over many label maps, with a count of what is undefined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_robustseg.metrics._overlap import (
    FloatArray,
    dice_of_counts,
    one_map,
    overlap_counts,
)
from keras_robustseg.metrics._surface import SurfaceSummary, surface_distances, surface_summary


@dataclass(frozen=True)
class MaskEvaluation:
    """Metrics of N pairs of label maps with C classes.

    Attributes:
        values: metric name -> (N, C); NaN where undefined. Surface metrics skip class 0.
        counts: (N, 3, C) pixel counts in both maps, in the prediction, in the truth.
        pixel_accuracy: share of the right pixels among all given ones.
    """

    values: dict[str, FloatArray]
    counts: npt.NDArray[np.int64]
    pixel_accuracy: float

    def per_class(self, metric: str) -> FloatArray:
        """Return the mean over images, class by class (C,), of the defined values."""
        return _mean(self.values[metric], axis=0)

    def mean(self, metric: str) -> float:
        """Return the mean over foreground classes of `per_class`; NaN when none is defined."""
        return float(_mean(self.per_class(metric)[1:], axis=0))

    def undefined(self, metric: str) -> npt.NDArray[np.int64]:
        """Return in how many images each class (C,) has no value."""
        return np.isnan(self.values[metric]).sum(axis=0)

    def pooled_dice(self) -> FloatArray:
        """Return Dice (C,) of all images counted as one."""
        return dice_of_counts(self.counts.sum(axis=0))

    def summary(self) -> dict[str, Any]:
        """Return plain numbers for a JSON file; an undefined number is None.

        Keys: each metric -> {mean, per_class, undefined}; `pooled_dice`; `accuracy`; `images`;
        `missed` and `invented`: images where a class is only in the truth, only in the prediction.
        """
        table: dict[str, Any] = {
            metric: {
                "mean": _plain(self.mean(metric)),
                "per_class": [_plain(value) for value in self.per_class(metric)],
                "undefined": self.undefined(metric).tolist(),
            }
            for metric in self.values
        }
        in_pred, in_true = self.counts[:, 1] > 0, self.counts[:, 2] > 0
        return table | {
            "pooled_dice": [_plain(value) for value in self.pooled_dice()],
            "accuracy": _plain(self.pixel_accuracy),
            "images": len(self.counts),
            "missed": (in_true & ~in_pred).sum(axis=0).tolist(),
            "invented": (in_pred & ~in_true).sum(axis=0).tolist(),
        }


def evaluate_masks(
    preds: Iterable[npt.ArrayLike],
    trues: Iterable[npt.ArrayLike],
    num_classes: int,
    *,
    spacing: Sequence[float] | Sequence[Sequence[float]] | None = None,
    tolerance: float = 1.0,
    surface: bool = True,
) -> MaskEvaluation:
    """Compare predicted with true label maps, image by image.

    Metrics: `dice`, `iou`, and with `surface` also `hausdorff_95`,
    `average_symmetric_surface_distance`, `normalized_surface_dice` for classes 1..C-1.
    Void (negative) pixels of either map are left out of the overlap metrics; the surface metrics
    take them as background in both maps.

    Args:
        preds: N maps of class ids (*S); sizes may differ from image to image.
        trues: N maps, same shapes, or (*S, R) of R readers, who count by majority.
        num_classes: C; class 0 is the background.
        spacing: size of a pixel along each axis, for all images or one tuple per image.
        tolerance: of the normalized surface Dice, in the unit of `spacing`.
        surface: whether to compute the surface metrics, which are slower.

    Raises:
        DataError: a pair of maps has two shapes, or ids that are not classes.
        ValueError: there are more maps on one side than on the other.

    Example:
        `evaluate_masks([[[0, 1]]], [[[0, 1]]], 2).mean("dice")  # 1.0`
    """
    counts, surfaces = [], []
    for index, (pred, true) in enumerate(zip(preds, trues, strict=True)):
        pred, true = np.asarray(pred), np.asarray(true)
        true = one_map(pred, true)
        counts.append(overlap_counts(pred, true, num_classes))
        if surface:
            scale = _spacing_of(index, spacing)
            surfaces.append(_surface_row(pred, true, num_classes, scale, tolerance))
    table = np.reshape(np.array(counts, dtype=np.int64), (-1, 3, num_classes))
    values = _overlap_values(table)
    if surface:
        rows = np.reshape(np.array(surfaces, dtype=float), (-1, 3, num_classes))
        values |= {name: rows[:, row] for row, name in enumerate(SurfaceSummary._fields)}
    right, given = table[:, 0].sum(), table[:, 2].sum()
    return MaskEvaluation(values, table, float(right / given) if given else float("nan"))


def _overlap_values(counts: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
    dice = dice_of_counts(counts)
    return {"dice": dice, "iou": dice / (2 - dice)}


def _surface_row(
    pred: npt.NDArray[Any],
    true: npt.NDArray[Any],
    num_classes: int,
    spacing: Sequence[float] | None,
    tolerance: float,
) -> FloatArray:
    """The three surface metrics (3, C) of one image, from one pair of distance lists a class."""
    void = (pred < 0) | (true < 0)
    row = np.full((3, num_classes), np.nan)
    for label in range(1, num_classes):
        distances = surface_distances(
            (pred == label) & ~void, (true == label) & ~void, spacing=spacing
        )
        row[:, label] = surface_summary(*distances, tolerance=tolerance)
    return row


def _spacing_of(
    index: int, spacing: Sequence[float] | Sequence[Sequence[float]] | None
) -> Sequence[float] | None:
    if spacing is None or np.ndim(spacing[0]) == 0:
        return spacing  # type: ignore[return-value]
    return spacing[index]  # type: ignore[return-value]


def _mean(values: FloatArray, axis: int) -> FloatArray:
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
