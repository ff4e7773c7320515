"""Counts of right and wrong pixels, image by image, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

SIZES = ("small", "medium", "large")


def confusion(prediction: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many valid pixels of each class (row) were predicted as which (column).

    Args:
        prediction: int (*S).
        labels: int (*S); whatever is outside 0 to C-1 is void.
        num_classes: C.

    Example:
        `confusion(np.array([0, 1]), np.array([0, 0]), 2)  # [[1, 1], [0, 0]]`
    """
    valid = (labels >= 0) & (labels < num_classes)
    pairs = labels[valid].astype("int64") * num_classes + prediction[valid]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def objects_by_size(
    labels: np.ndarray, num_classes: int, bounds: Sequence[float]
) -> list[tuple[int, int, np.ndarray]]:
    """Return (size group, class, where) of each object: connected pixels of a foreground class.

    Args:
        labels: int (*S).
        num_classes: C; class 0 is background and has no objects.
        bounds: greatest number of pixels of a small and of a medium object.
    """
    found = []
    for k in range(1, num_classes):
        numbered, count = ndimage.label(labels == k)
        areas = np.bincount(numbered.ravel(), minlength=count + 1)
        for number in range(1, count + 1):
            group = int(np.searchsorted(bounds, areas[number]))
            found.append((group, k, numbered == number))
    return found


def hits_by_size(
    prediction: np.ndarray, objects: Sequence[tuple[int, int, np.ndarray]]
) -> np.ndarray:
    """Return right pixels and all pixels of the objects of each size group, (3, 2)."""
    table = np.zeros((len(SIZES), 2), "int64")
    for group, k, where in objects:
        table[group] += (prediction[where] == k).sum(), where.sum()
    return table


def ratio(part: Any, whole: Any) -> Any:
    """Return part / whole, NaN where there is nothing."""
    part, whole = np.asarray(part, "float64"), np.asarray(whole, "float64")
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def pixel_accuracy(counts: np.ndarray) -> Any:
    """Return the share of right pixels of confusion counts (..., C, C)."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class; NaN where neither side has it."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(hit, counts.sum(-1) + counts.sum(-2) - hit)


def class_dice(counts: np.ndarray) -> np.ndarray:
    """Return the Dice overlap of each class; NaN where neither side has it."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(2 * hit, counts.sum(-1) + counts.sum(-2))


@dataclass
class Tally:
    """What was counted of one attack at one size, image by image.

    Attributes:
        counts: confusion (C, C) of each image.
        sizes: right and all pixels of its objects, (3, 2).
    """

    counts: list[np.ndarray]
    sizes: list[np.ndarray]

    @property
    def accuracy(self) -> np.ndarray:
        """Pixel accuracy of each image, NaN where all is void."""
        return pixel_accuracy(np.stack(self.counts))


def worst_of(tallies: Sequence[Tally]) -> Tally:
    """Return the tally that takes, image by image, the attack that leaves fewest right pixels."""
    accuracy = np.stack([tally.accuracy for tally in tallies])
    chosen = np.argmin(np.where(np.isnan(accuracy), np.inf, accuracy), axis=0)
    return Tally(
        [tallies[a].counts[n] for n, a in enumerate(chosen)],
        [tallies[a].sizes[n] for n, a in enumerate(chosen)],
    )


def figures(tally: Tally, classes: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, IoU and Dice of classes and of object sizes over all images.

    Means are over foreground classes that occur; a problem of background alone has the mean of
    what there is.
    """
    counts, sizes = np.sum(tally.counts, axis=0), np.sum(tally.sizes, axis=0)
    iou, dice = class_iou(counts), class_dice(counts)
    return {
        "accuracy": float(pixel_accuracy(counts)),
        "mean_iou": _mean(iou[1:]),
        "mean_dice": _mean(dice[1:]),
        "iou": dict(zip(classes, iou.tolist(), strict=True)),
        "dice": dict(zip(classes, dice.tolist(), strict=True)),
        "accuracy_by_object_size": dict(
            zip(SIZES, ratio(sizes[:, 0], sizes[:, 1]).tolist(), strict=True)
        ),
    }


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
