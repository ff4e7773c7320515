"""What a whole data set says about its labels, gathered one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ._audit_pixels import FloatArray, is_confident, self_confidence

_NO_PIXELS = 2.0  # the threshold of a class that is given nowhere: no probability reaches it
_FLOOR = 2e-6
_GRID = 1024
_HAZY = 0.1
_DIGITS = 21  # bits that one pass narrows a 64-bit number down by

Pair = tuple[FloatArray, np.ndarray]


class ClassLevels:
    """How sure a belief is of each class where it is given, and where it is not.

        threshold[k] = mean of p[k] over the pixels that were given k
        haze[k]      = 10 % quantile of p[k] over all pixels, on a grid of 1/1024

    The thresholds are those of confident learning (Northcutt et al., 2021, equation 2): a network
    is less sure of some classes than of others, and noise makes it less sure of all, so what
    counts as confident must follow. Haze is what smoothed labels or a high temperature leave
    everywhere: little in a pixel, and more than a small object in a whole image.

    Args:
        num_classes: C.

    Attributes:
        pixels: int (C,), pixels that were given each class.

    Example:
        >>> levels = ClassLevels(2)
        >>> levels.add(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1]))
        >>> levels.thresholds.tolist()
        [0.9, 0.6]
    """

    def __init__(self, num_classes: int) -> None:
        self.pixels = np.zeros(num_classes, np.int64)
        self._sums = np.zeros(num_classes)
        self._counts = np.zeros((num_classes, _GRID), np.int64)

    def add(self, probabilities: FloatArray, mask: np.ndarray) -> None:
        """Take in one image: probabilities (*S, C), mask int (*S) with negative void."""
        valid = mask >= 0
        given, own = mask[valid], self_confidence(probabilities, mask)[valid]
        self.pixels += np.bincount(given, minlength=len(self.pixels))
        self._sums += np.bincount(given, weights=own, minlength=len(self.pixels))
        cells = np.minimum((probabilities[valid] * _GRID).astype(np.int32), _GRID - 1)
        for k, counts in enumerate(self._counts):
            counts += np.bincount(cells[:, k], minlength=_GRID)

    @property
    def thresholds(self) -> FloatArray:
        """(C,); 2 for a class that no pixel was given."""
        means = self._sums / np.maximum(self.pixels, 1)
        return np.maximum(np.where(self.pixels > 0, means, _NO_PIXELS), _FLOOR)

    @property
    def haze(self) -> FloatArray:
        """(C,), the lower end of the grid cell that holds the quantile."""
        reached = np.cumsum(self._counts, axis=1) >= _HAZY * self._counts.sum(axis=1)[:, None]
        return reached.argmax(axis=1) / _GRID


def confident_issues(passes: Callable[[], Iterable[Pair]], thresholds: FloatArray) -> float:
    """Return the self-confidence up to which a contradicted pixel is an issue, over all images.

    cleanlab's rule for segmentation ("low_self_confidence"): count the pixels whose most likely
    class is not the given one and is confident; mark as many pixels, those with the lowest
    self-confidence p[y], and of these the ones whose most likely class is not the given one.

    Args:
        passes: called once for each pass over the images; returns their probabilities (*S, C) and
            masks int (*S), negative is void.
        thresholds: `ClassLevels.thresholds` of the same images.

    Returns:
        The largest p[y] of an issue, -1 where there is none.

    Example:
        `limit = confident_issues(lambda: zip(probabilities, masks), thresholds)`
    """
    count = 0
    for probabilities, mask in passes():
        likely = probabilities.argmax(axis=-1)
        against = (likely != mask) & (mask >= 0)
        sure = against & is_confident(probabilities, likely, thresholds)
        count += int(np.count_nonzero(sure))
    if not count:
        return -1.0
    return nth_smallest(
        lambda: (self_confidence(p, mask)[mask >= 0] for p, mask in passes()), count
    )


def issue_mask(probabilities: FloatArray, mask: np.ndarray, limit: float) -> np.ndarray:
    """Return the pixels that cleanlab's rule marks, bool (*S); see `confident_issues`."""
    against = (probabilities.argmax(axis=-1) != mask) & (mask >= 0)
    return against & (self_confidence(probabilities, mask) <= limit)


def nth_smallest(passes: Callable[[], Iterable[np.ndarray]], n: int) -> float:
    """Return the n-th smallest (from 1) of all numbers in a stream, exactly, in constant memory.

    The bits of non-negative floating-point numbers sort like the numbers: three passes count how
    many share the leading 21, 42 and 63 bits.

    Args:
        passes: called three times; returns arrays of non-negative finite numbers.
        n: at least 1, at most how many numbers there are.

    Example:
        >>> nth_smallest(lambda: [np.array([0.3, 0.1]), np.array([0.2])], 2)
        0.2
    """
    prefix, left = 0, n
    for level in (2, 1, 0):
        counts = np.zeros(1 << _DIGITS, np.int64)
        for values in passes():
            # Rounding may leave -0.0 or -1e-9, whose sign bit would sort them last.
            bits = np.abs(np.asarray(values, np.float64)).ravel().view(np.int64)
            bits = bits[(bits >> _DIGITS * (level + 1)) == prefix]
            digits = (bits >> _DIGITS * level) & ((1 << _DIGITS) - 1)
            counts += np.bincount(digits, minlength=len(counts))
        before = np.cumsum(counts)
        digit = int(np.searchsorted(before, left))
        left -= int(before[digit] - counts[digit])
        prefix = prefix << _DIGITS | digit
    return float(np.array([prefix], np.int64).view(np.float64)[0])
