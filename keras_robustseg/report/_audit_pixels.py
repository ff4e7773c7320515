"""How wrong single pixels of a mask look, given class probabilities. NumPy, one image at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]

REGION_WEIGHT = 0.25
IMAGE_WEIGHT = 2.0
_FLOOR = 1e-9


def self_confidence(probabilities: FloatArray, mask: np.ndarray) -> FloatArray:
    """Return p[y], the probability of the class that each pixel was given.

    This is the pixel score of confident learning (Northcutt et al., Journal of AI Research 70,
    2021; Lad and Mueller, "Estimating label quality and errors in semantic segmentation data via
    any model", 2023): low where the given class looks wrong.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void.

    Returns:
        (*S), 1 at void pixels.

    Example:
        `self_confidence(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, -1]))  # [0.1, 1.]`
    """
    picked = np.take_along_axis(probabilities, np.maximum(mask, 0)[..., None], axis=-1)[..., 0]
    return np.where(mask >= 0, picked, np.ones((), probabilities.dtype))


def softmin(scores: FloatArray, temperature: float = 0.1) -> float:
    """Return sum_i s_i softmax((1 - s) / T)_i: a smooth minimum of scores in [0, 1].

    The image score of Lad and Mueller (2023), when s are the pixels' self-confidences. It looks at
    the worst pixels only and hardly at how many there are.

    Args:
        scores: any shape, at least one.
        temperature: T > 0; towards 0 the minimum, large the mean.

    Example:
        `softmin(np.array([0.1, 0.9, 0.9]))`
    """
    flat = np.asarray(scores, np.float64).ravel()
    weights = np.exp((flat.min() - flat) / temperature)
    return float((flat * weights).sum() / weights.sum())


def regions(flags: BoolArray) -> tuple[np.ndarray, int]:
    """Number the connected regions of flagged pixels (corners connect), in 2-D and 3-D.

    Returns:
        ids (*S), 0 where nothing is flagged and 1..N in the regions, and N.

    Example:
        `regions(np.array([[1, 0, 1]], bool))  # ([[1, 0, 2]], 2)`
    """
    ids, count = ndimage.label(flags, structure=np.ones((3,) * flags.ndim, bool))
    return ids, int(count)


def pixel_severity(
    probabilities: FloatArray, mask: np.ndarray, *, image_severity: float = 0.0
) -> FloatArray:
    """Return how wrong each pixel looks, in [0, 1]: a score to rank by, no probability.

        logit severity = logit(1 - p[y]) + 2 image_severity + log(1 + n) / 4

    where n is the size of the connected region in which the most likely class is not the given
    one, 0 outside of such regions. Alone, 1 - p[y] is drowned by the rims of objects, one pixel
    wide, where every network is undecided; a region as large as a missing object, or an image
    that looks wrong as a whole, speaks for itself.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void.
        image_severity: that of the whole image, see `image_severity`.

    Returns:
        (*S), 0 at void pixels.

    Example:
        `pixel_severity(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 1]))`
    """
    confidence = self_confidence(probabilities, mask).astype(np.float64)
    ids, count = regions((probabilities.argmax(axis=-1) != mask) & (mask >= 0))
    sizes = np.bincount(ids.ravel(), minlength=count + 1)
    sizes[0] = 0
    weight = np.exp(IMAGE_WEIGHT * image_severity) * (1.0 + sizes) ** REGION_WEIGHT
    odds = weight[ids] * (1.0 - confidence) / np.maximum(confidence, _FLOOR)
    return np.where(mask >= 0, odds / (1.0 + odds), 0.0)


def suggested_mask(
    probabilities: FloatArray,
    mask: np.ndarray,
    thresholds: FloatArray,
    *,
    min_region: int = 5,
) -> np.ndarray:
    """Return the given mask with those regions replaced that look wrong with confidence.

    A region (connected pixels whose most likely class is not the given one) is replaced by the
    most likely classes if it has at least `min_region` pixels and one of them is confident: its
    probability reaches the threshold of its class, the mean p[k] of the pixels that were given k
    (the rule of confident learning). Whole regions change, so objects do not fall to pieces.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void and stays.
        thresholds: (C,).
        min_region: smaller regions stay as they were given.

    Returns:
        Class indices (*S), in the type of `mask`.

    Example:
        `suggested_mask(probabilities, mask, np.array([0.95, 0.8]))`
    """
    likely = probabilities.argmax(axis=-1)
    ids, count = regions((likely != mask) & (mask >= 0))
    if not count:
        return mask.copy()
    confident = is_confident(probabilities, likely, thresholds)
    size = np.bincount(ids.ravel(), minlength=count + 1)
    sure = np.bincount(ids.ravel(), weights=confident.ravel(), minlength=count + 1)
    replaced = (size >= min_region) & (sure > 0)
    replaced[0] = False
    return np.where(replaced[ids], likely, mask).astype(mask.dtype)


def is_confident(
    probabilities: FloatArray, likely: np.ndarray, thresholds: FloatArray
) -> BoolArray:
    """Return whether the probability of each pixel's most likely class reaches its threshold.

    A margin of 1e-6 is left for rounding, as in cleanlab.
    """
    top = np.take_along_axis(probabilities, likely[..., None], axis=-1)[..., 0]
    return top >= np.asarray(thresholds)[likely] - 1e-6
