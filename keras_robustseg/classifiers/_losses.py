"""Smooth losses of linear scores: value, gradient, curvature, and what a label contributes.

Scores are S (K, n), masses of the classes T (C, n), weight times label distribution. K is C, or 1
for two classes whose first has score 0.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator

import numpy as np


class ScoreLoss(abc.ABC):
    """A sum over pixels of a convex loss of their scores, weighted by the masses T.

    Attributes:
        shift_free: whether the same number added to all of several scores changes nothing.
    """

    shift_free = False

    @abc.abstractmethod
    def each(self, scores: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Return the weighted loss of each pixel, (n,)."""

    @abc.abstractmethod
    def value_and_residual(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the sum, and its gradient to the scores (K, n)."""

    @abc.abstractmethod
    def curvatures(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield k, l <= k and the second derivative (n,) to the scores k and l, where not 0."""

    @abc.abstractmethod
    def curve(self, scores: np.ndarray, masses: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the second derivative to the scores times a direction (K, n)."""

    @abc.abstractmethod
    def to_masses(self, scores: np.ndarray, along: np.ndarray, normalized: bool) -> np.ndarray:
        """Return the derivative (C, n) of <residual, along> to the masses.

        Args:
            scores: (K, n).
            along: (K, n).
            normalized: whether the masses of a pixel keep their sum, which leaves the result free
                up to a constant of the pixel; the part of each class alone is returned then.
        """


class Softmax(ScoreLoss):
    """-sum_k T_k log p_k, p the softmax of the scores, or the logistic function of one."""

    shift_free = True

    def each(self, scores: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Return the cross-entropy of each pixel."""
        own = (masses[-len(scores) :] * scores).sum(axis=0)
        return masses.sum(axis=0) * log_sum_exp(scores) - own

    def value_and_residual(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the cross-entropy, and mass times p minus the masses."""
        own = masses[-len(scores) :]
        value = -np.vdot(own, scores)
        top = _top(scores)
        p = np.exp(scores - top)
        total = p.sum(axis=0)
        if len(scores) == 1:
            total += np.exp(-top)
        mass = masses.sum(axis=0)
        value += np.dot(mass, np.log(total) + top)
        p *= mass / total
        p -= own
        return float(value), p

    def curvatures(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield mass p_k (1[k = l] - p_l)."""
        p, mass = probabilities(scores), masses.sum(axis=0)
        for k in range(len(p)):
            weighted = mass * p[k]
            for other in range(k):
                yield k, other, -weighted * p[other]
            yield k, k, weighted * (1.0 - p[k])

    def curve(self, scores: np.ndarray, masses: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return mass p (along - <p, along>)."""
        p = probabilities(scores)
        return masses.sum(axis=0) * p * (along - (p * along).sum(axis=0))

    def to_masses(self, scores: np.ndarray, along: np.ndarray, normalized: bool) -> np.ndarray:
        """Return <p, along> - along_k, or -along_k alone."""
        own = along if len(along) > 1 else np.vstack([np.zeros_like(along), along])
        if normalized:
            return -own
        return (probabilities(scores) * along).sum(axis=0) - own


class SquaredHinge(ScoreLoss):
    """sum_k T_k max(0, 1 - s_k)^2 + (T - T_k) max(0, 1 + s_k)^2, T the mass of the pixel.

    One against the rest for each class; two classes have one score, that of the second.
    """

    def each(self, scores: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Return the squared hinge of each pixel."""
        own, rest = _sides(scores, masses)
        short, long = np.maximum(1.0 - scores, 0.0), np.maximum(1.0 + scores, 0.0)
        return (own * short**2 + rest * long**2).sum(axis=0)

    def value_and_residual(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the squared hinge and its gradient."""
        own, rest = _sides(scores, masses)
        short, long = np.maximum(1.0 - scores, 0.0), np.maximum(1.0 + scores, 0.0)
        value = np.vdot(own, short**2) + np.vdot(rest, long**2)
        return float(value), 2.0 * (rest * long - own * short)

    def curvatures(
        self, scores: np.ndarray, masses: np.ndarray
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield twice the mass inside the margin; classes do not meet."""
        for k, row in enumerate(self._inside(scores, masses)):
            yield k, k, row

    def curve(self, scores: np.ndarray, masses: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return twice the mass inside the margin times the direction."""
        return self._inside(scores, masses) * along

    def to_masses(self, scores: np.ndarray, along: np.ndarray, normalized: bool) -> np.ndarray:
        """Return the derivative of each side of the margin."""
        del normalized  # the sides do not share a term
        short = -2.0 * np.maximum(1.0 - scores, 0.0) * along
        long = 2.0 * np.maximum(1.0 + scores, 0.0) * along
        if len(scores) == 1:
            return np.vstack([long, short])
        return long.sum(axis=0) - long + short

    def _inside(self, scores: np.ndarray, masses: np.ndarray) -> np.ndarray:
        own, rest = _sides(scores, masses)
        return 2.0 * (own * (scores < 1.0) + rest * (scores > -1.0))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax (K, n) of scores; of one score, the logistic function.

    Example:
        `probabilities(np.zeros((1, 5)))  # 0.5`
    """
    top = _top(scores)
    p = np.exp(scores - top)
    total = p.sum(axis=0)
    if len(scores) == 1:
        total += np.exp(-top)
    p /= total
    return p


def log_sum_exp(scores: np.ndarray) -> np.ndarray:
    """Return log sum exp over the classes (n,); of one score, log(1 + exp(s)).

    Example:
        `log_sum_exp(np.zeros((2, 1)))  # log 2`
    """
    top = _top(scores)
    total = np.exp(scores - top).sum(axis=0)
    if len(scores) == 1:
        total += np.exp(-top)
    return np.log(total) + top


def _top(scores: np.ndarray) -> np.ndarray:
    """The greatest score (n,), that of the first of two classes included."""
    top = scores.max(axis=0)
    return np.maximum(top, 0.0) if len(scores) == 1 else top


def _sides(scores: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masses of each class and of the rest, (K, n)."""
    own = masses[-len(scores) :]
    return own, masses.sum(axis=0) - own
