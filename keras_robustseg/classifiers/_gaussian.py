"""Gaussian classes: their moments from weighted pixels, and the derivative of all that follows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax


class Moments(NamedTuple):
    """Moments of C classes of pixels with F features.

    Args:
        means: (C, F).
        scatters: (C, F, F), sum over pixels of m (x - mean)(x - mean)^T.
        masses: (C,), sums of m.
    """

    means: np.ndarray
    scatters: np.ndarray
    masses: np.ndarray

    def covariances(self, shared: bool) -> np.ndarray:
        """Return (C, F, F), or (1, F, F) of all classes about their own means.

        They are those of greatest likelihood: divided by the mass, not by one less.
        """
        if shared:
            return self.scatters.sum(axis=0, keepdims=True) / self.masses.sum()
        return self.scatters / self.masses[:, None, None]


class Gaussians(NamedTuple):
    """Parameters of the scores logdet P_k / 2 - d^T P_k d / 2 + log prior_k with d = x - m_k.

    Args:
        means: (C, F).
        precisions: P, (C, F, F).
        log_priors: (C,).
    """

    means: np.ndarray
    precisions: np.ndarray
    log_priors: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return (n, C) scores of pixels (n, F); softmax of them is the posterior."""
        found = np.empty((x.shape[0], len(self.means)))
        for k, (mean, precision) in enumerate(zip(self.means, self.precisions, strict=True)):
            away = x - mean
            found[:, k] = -0.5 * np.einsum("nf,nf->n", away @ precision, away)
        return found + 0.5 * np.linalg.slogdet(self.precisions)[1] + self.log_priors

    def loss(self, x: np.ndarray, masses: np.ndarray) -> float:
        """Return the mean cross-entropy of pixels whose classes have masses (n, C)."""
        return float(-np.vdot(masses, log_softmax(self.scores(x), axis=1)) / masses.sum())

    def loss_gradient(self, x: np.ndarray, masses: np.ndarray) -> Gaussians:
        """Return the gradient of `loss` to the parameters, in their shapes."""
        of_pixel = masses.sum(axis=1, keepdims=True)
        residual = (of_pixel * softmax(self.scores(x), axis=1) - masses) / masses.sum()
        return self.pulled_back(x, residual)

    def pulled_back(self, x: np.ndarray, to_scores: np.ndarray) -> Gaussians:
        """Return the gradient to the parameters of what has this gradient (n, C) to the scores."""
        means, precisions = np.empty_like(self.means), np.empty_like(self.precisions)
        for k, (mean, precision) in enumerate(zip(self.means, self.precisions, strict=True)):
            away, r = x - mean, to_scores[:, k]
            means[k] = precision @ (away.T @ r)
            spread = (away * r[:, None]).T @ away
            precisions[k] = 0.5 * (r.sum() * np.linalg.inv(precision) - spread)
        return Gaussians(means, precisions, to_scores.sum(axis=0))


def moments(x: np.ndarray, masses: np.ndarray) -> Moments:
    """Return the moments of classes.

    Args:
        x: (n, F) pixels.
        masses: (n, C), not negative; every class has some.

    Example:
        `moments(x, np.eye(2)[y]).covariances(shared=False)`
    """
    total = masses.sum(axis=0)
    means = (masses.T @ x) / total[:, None]
    scatters = np.empty((len(total), x.shape[1], x.shape[1]))
    for k, mean in enumerate(means):
        away = x - mean
        scatters[k] = (away * masses[:, k : k + 1]).T @ away
    return Moments(means, scatters, total)


def mass_gradient(
    x: np.ndarray,
    of: Moments,
    to_means: np.ndarray,
    to_covariances: np.ndarray,
    to_log_priors: np.ndarray,
) -> np.ndarray:
    """Return the gradient to the masses (n, C) of what has these gradients to the moments.

    A covariance is scatter / mass; the mean's own motion does not change the scatter to first
    order. The log prior of class k is log of its share of the mass.

    Args:
        x: (n, F).
        of: their moments.
        to_means: (C, F).
        to_covariances: (C, F, F), or (1, F, F) where the covariance is shared.
        to_log_priors: (C,); zeros where priors are given.
    """
    shared = len(to_covariances) == 1 < len(of.means)
    covariances = of.covariances(shared)
    divisors = np.full(len(of.means), of.masses.sum()) if shared else of.masses
    found = np.empty((len(x), len(of.means)))
    for k, mean in enumerate(of.means):
        which, away = 0 if shared else k, x - mean
        g = to_covariances[which]
        spread = np.einsum("nf,nf->n", away @ g, away)
        found[:, k] = (spread - np.vdot(g, covariances[which])) / divisors[k]
        found[:, k] += (away @ to_means[k] + to_log_priors[k]) / of.masses[k]
    return found - to_log_priors.sum() / of.masses.sum()
