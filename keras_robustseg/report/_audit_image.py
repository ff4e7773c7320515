"""How wrong a whole mask looks: the expected Dice that is lost by not drawing the best one."""

from __future__ import annotations

import numpy as np

from ._audit_pixels import FloatArray

_BINS = 1024
_SMOOTHING = 1.0  # pixels; keeps 0/0 away where a class is neither given nor likely


def class_severity(
    probabilities: FloatArray, mask: np.ndarray, haze: FloatArray | None = None
) -> FloatArray:
    """Return for each class how much better than the given mask the best one would be.

        D(m)     = (2 sum_i b_i m_i + 1) / (sum_i b_i + sum_i m_i + 1)
        severity = max over masks m of D(m)  -  D(given)

    D is the soft Dice of a mask and the belief b = max(p - haze, 0) / (1 - haze) in the class.
    The maximum is reached by a threshold on b, so no search over masks is needed. Where the belief
    itself is diffuse no mask has a large D: such an image is hard, and not said to be wrong.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void and left out.
        haze: (C,), probabilities that mean nothing, see `ClassLevels`; none by default.

    Returns:
        (C,), each in [0, 1].

    Example:
        `class_severity(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))`
    """
    valid = mask >= 0
    likely, given = probabilities[valid], mask[valid]
    if haze is not None and haze.any():
        likely = np.maximum(likely - haze, 0) / (1 - haze)
    counts = np.bincount(given, minlength=likely.shape[-1])
    sums = likely.sum(axis=0, dtype=np.float64)
    inside = np.bincount(given, weights=_of_given(likely, given), minlength=likely.shape[-1])
    drawn = (2 * inside + _SMOOTHING) / (sums + counts + _SMOOTHING)
    best = np.array([_best_dice(likely[:, k], total) for k, total in enumerate(sums)])
    return np.maximum(best - drawn, 0.0)


def _of_given(likely: FloatArray, given: np.ndarray) -> FloatArray:
    return np.take_along_axis(likely, given[:, None], axis=-1)[:, 0]


def _best_dice(p: FloatArray, total: float) -> float:
    """Largest D over the masks {p >= t}, t on a grid of 1/1024, and the empty mask."""
    bins = np.minimum((p * _BINS).astype(np.int32), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)[::-1].cumsum()
    inside = np.bincount(bins, weights=p, minlength=_BINS)[::-1].cumsum()
    values = (2 * inside + _SMOOTHING) / (total + counts + _SMOOTHING)
    return float(max(values.max(), _SMOOTHING / (total + _SMOOTHING)))


def image_severity(
    probabilities: FloatArray,
    mask: np.ndarray,
    haze: FloatArray | None = None,
    *,
    per_class: FloatArray | None = None,
) -> float:
    """Return how wrong the mask of an image looks, in [0, 1].

    The mean of `class_severity` over the foreground classes that are given or are the most likely
    one somewhere. Where there is none of them, the largest of all foreground classes: an object
    may be missing that no pixel is sure of.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void.
        haze: (C,), as `class_severity`.
        per_class: `class_severity` of the same image, if it is at hand.

    Example:
        `image_severity(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))`
    """
    severity = class_severity(probabilities, mask, haze) if per_class is None else per_class
    valid = mask >= 0
    present = np.zeros(probabilities.shape[-1], bool)
    present[np.unique(mask[valid])] = True
    present[np.unique(probabilities.argmax(axis=-1)[valid])] = True
    shown = severity[1:][present[1:]]
    return float(shown.mean() if shown.size else severity[1:].max(initial=0.0))
