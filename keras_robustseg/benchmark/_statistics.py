"""Statistics of paired comparisons: bootstrap interval, Wilcoxon's test, Holm's correction, ranks.

Every method of a cell is measured on the same images under the same seeds, so it is differences
that are looked at. Dice arrays are (seeds, images, classes) with NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference of mean Dice and the ends of its interval."""

    difference: float
    low: float
    high: float


def mean_dice(values: npt.ArrayLike) -> Array:
    """Return Dice (seeds,): the mean over classes of the mean over images, undefined left out.

    Args:
        values: (seeds, images, classes).

    Example:
        `mean_dice([[[0.5], [1.0]]])  # [0.75]`
    """
    values = np.asarray(values, float)
    return _weighted_dice(values, np.ones((1, values.shape[1])))[0]


def paired_bootstrap(
    ours: npt.ArrayLike,
    theirs: npt.ArrayLike,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the difference of mean Dice of two methods with a percentile interval over images.

        D* = mean_s [ dice(ours_s[I*]) - dice(theirs_s[I*]) ],   I* drawn with replacement

    A replicate draws images once and takes both methods and all seeds on them: pairs stay pairs,
    within each seed. The networks are held fixed, so the interval says what other test images
    could have changed; what other seeds could have is in the standard deviation over seeds.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Args:
        ours, theirs: Dice (seeds, images, classes) of the same seeds and images.
        samples: replicates.
        level: share of the replicates inside the interval.
        seed: of the draws.

    Raises:
        ValueError: the shapes differ.

    Example:
        `paired_bootstrap([[[0.9], [0.8]]], [[[0.7], [0.6]]]).difference  # 0.2`
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    if ours.shape != theirs.shape or ours.ndim != 3:
        raise ValueError(
            "Two methods must be measured with the same seeds on the same images, (seeds, images, "
            f"classes). Received: {ours.shape} and {theirs.shape}"
        )
    images = ours.shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(images, np.full(images, 1.0 / images), size=samples)
    weights = np.concatenate([np.ones((1, images)), counts])
    differences = (_weighted_dice(ours, weights) - _weighted_dice(theirs, weights)).mean(axis=1)
    # A replicate without any image of a class that only rare images have is undefined.
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(differences[1:], [tail, 1.0 - tail])
    return Interval(float(differences[0]), float(low), float(high))


def _weighted_dice(values: Array, weights: Array) -> Array:
    """Mean Dice (samples, seeds) where image i counts weights[sample, i] times."""
    defined = ~np.isnan(values)
    total = np.einsum("bi,sik->bsk", weights, np.where(defined, values, 0.0), optimize=True)
    count = np.einsum("bi,sik->bsk", weights, defined.astype(float), optimize=True)
    classes = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    found = ~np.isnan(classes)
    sums = np.where(found, classes, 0.0).sum(axis=-1)
    return np.divide(sums, found.sum(axis=-1), out=np.full(sums.shape, np.nan), where=found.any(-1))


def image_dice(values: npt.ArrayLike) -> Array:
    """Return one Dice an image (images,): mean over its defined classes, then over seeds.

    Example:
        `image_dice([[[0.5, 1.0]], [[0.0, 0.5]]])  # [0.5]`
    """
    values = np.asarray(values, float)
    return _mean(_mean(values, axis=2), axis=0)


def _mean(values: Array, axis: int) -> Array:
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def wilcoxon(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test on pairs; 1 where none differs.

    Pairs with an undefined value are left out, and so are equal ones (Wilcoxon 1945).

    Args:
        ours, theirs: (n,) each.

    Example:
        `wilcoxon([0.9, 0.8, 0.7], [0.1, 0.2, 0.3])  # 0.25`
    """
    from scipy import stats

    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    difference = difference[~np.isnan(difference)]
    if not np.any(difference):
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, step down (Holm, 1979).

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))

    Example:
        `holm([0.01, 0.04, 0.03])  # [0.03, 0.06, 0.06]`
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.maximum.accumulate(np.minimum(1.0, factors * p[order]))
    result = np.empty_like(p)
    result[order] = adjusted
    return result.tolist()


def ranks(dice: npt.ArrayLike) -> Array:
    """Return ranks (cells, methods) of Dice, 1 the best in its cell, ties shared; NaN stays NaN.

    Args:
        dice: (cells, methods).

    Example:
        `ranks([[0.5, 0.9, 0.5]])  # [[2.5, 1.0, 2.5]]`
    """
    from scipy import stats

    dice = np.asarray(dice, float)
    return stats.rankdata(-dice, axis=1, nan_policy="omit")
