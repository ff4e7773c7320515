"""Precision matrices of the classes, and what they owe to noise variance and penalties.

The robust model (Benfenati, Chouzenoux, Pesquet, Signal Processing 169, 2020) has a covariance S
of noisy data, S = P^-1 + sigma2 I, and minimises over positive definite P

    logdet(P^-1 + sigma2 I) + tr(A P S) + nuclear tr P + l1 sum over i != j of |P_ij|,

with A = (I + sigma2 P)^-1. sigma2 = 0 and nuclear = 0 give the graphical lasso.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_robustseg.optimize import SolveInfo, Status

KINDS = ("robust", "glasso", "empirical")
# An entry of P is a zero of it below this share of the diagonal's.
_ZERO = 1e-9


class Penalties(NamedTuple):
    """Noise variance and penalties of one class, 0 where the model has none."""

    sigma2: float
    nuclear: float
    l1: float


class PrecisionGradient(NamedTuple):
    """Gradient to what a precision matrix was estimated from.

    Args:
        covariance: (F, F).
        penalties: to sigma2, nuclear and l1.
        residual: relative residual of the linear system.
        margin: distance to the nearest kink, infinite where there is none.
        singular: whether the linear system has no unique answer.
    """

    covariance: np.ndarray
    penalties: Penalties
    residual: float
    margin: float
    singular: bool


def estimate(
    kind: str, covariance: np.ndarray, penalties: Penalties, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Return the precision matrix (F, F) of a covariance, and the certificate of the solve."""
    if kind == "empirical":
        precision = np.linalg.inv(covariance)
        residual = np.linalg.norm(precision @ covariance - np.eye(len(covariance)))
        return precision, SolveInfo(int(Status.OK), 0, residual, residual)
    from keras_robustseg.optimize import graphical_lasso, robust_precision

    if kind == "glasso":
        found, info = graphical_lasso(covariance, penalties.l1, tol=tol, max_iterations=max_iter)
    else:
        found, info = robust_precision(covariance, *penalties, tol=tol, max_iterations=max_iter)
    return np.asarray(found, dtype=np.float64), info


def gradient(
    precision: np.ndarray, covariance: np.ndarray, penalties: Penalties, cotangent: np.ndarray
) -> PrecisionGradient:
    """Return the gradient of <cotangent, P> to the covariance, sigma2 and the penalties.

    The entries that are not 0, E, stay so near the answer, and the gradient of the objective is 0
    there: with its second derivative H on E and H u = cotangent, the gradient to a parameter t is
    -<u, d/dt of the objective's gradient> (Bolte et al., NeurIPS 2021).

    Args:
        precision: P, stationary.
        covariance: S.
        penalties: of the objective.
        cotangent: (F, F) symmetric.
    """
    sign = _signs(precision)
    active = (sign != 0) | np.eye(len(precision), dtype=bool)
    if penalties.l1 == 0:
        active[:] = True
    u, residual, singular = _solve(precision, covariance, penalties.sigma2, active, cotangent)
    shrink = np.linalg.inv(np.eye(len(precision)) + penalties.sigma2 * precision)
    mixed = shrink @ precision @ shrink @ covariance @ shrink
    by_sigma2 = shrink @ shrink - mixed - mixed.T
    to_penalties = Penalties(
        -float(np.vdot(u, by_sigma2)), -float(np.trace(u)), -float(np.vdot(u, sign))
    )
    margin = _margin(precision, covariance, penalties, active)
    return PrecisionGradient(-shrink @ u @ shrink, to_penalties, residual, margin, singular)


def _signs(precision: np.ndarray) -> np.ndarray:
    """Signs of the entries off the diagonal, 0 where they vanish."""
    diagonal = np.sqrt(np.diag(precision))
    sign = np.sign(precision) * (abs(precision) > _ZERO * np.outer(diagonal, diagonal))
    np.fill_diagonal(sign, 0.0)
    return sign


def _solve(
    precision: np.ndarray,
    covariance: np.ndarray,
    sigma2: float,
    active: np.ndarray,
    cotangent: np.ndarray,
) -> tuple[np.ndarray, float, bool]:
    """Symmetric u on the active entries with H u = cotangent there, residual, and singularity."""
    rows, columns = np.nonzero(np.triu(active))
    # Orthonormal symmetric matrices, one per active pair of entries.
    scale = np.where(rows == columns, 1.0, np.sqrt(0.5))
    basis = np.zeros((len(rows), *precision.shape))
    basis[np.arange(len(rows)), rows, columns] = scale
    basis[np.arange(len(rows)), columns, rows] = scale
    curved = _curve(precision, covariance, sigma2, basis)
    flat = basis.reshape(len(rows), -1)
    hessian, right = flat @ curved.reshape(len(rows), -1).T, flat @ cotangent.ravel()
    solution, _, rank, _ = np.linalg.lstsq(hessian, right, rcond=None)
    missed, size = (float(np.linalg.norm(v)) for v in (hessian @ solution - right, right))
    return np.tensordot(solution, basis, axes=1), missed / max(size, 1e-37), rank < len(rows)


def _curve(
    precision: np.ndarray, covariance: np.ndarray, sigma2: float, along: np.ndarray
) -> np.ndarray:
    """Second derivative of the smooth part of the objective times directions (m, F, F)."""
    inverse = np.linalg.inv(precision)
    shrink = np.linalg.inv(np.eye(len(precision)) + sigma2 * precision)
    noisy = shrink @ covariance @ shrink
    once = shrink @ along
    mixed = once @ noisy
    found = inverse @ along @ inverse - sigma2**2 * once @ shrink
    return found - sigma2 * (mixed + mixed.transpose(0, 2, 1))


def _margin(
    precision: np.ndarray, covariance: np.ndarray, penalties: Penalties, active: np.ndarray
) -> float:
    """Least distance of an entry from becoming, or ceasing to be, a zero."""
    if penalties.l1 == 0:
        return np.inf
    shrink = np.linalg.inv(np.eye(len(precision)) + penalties.sigma2 * precision)
    slope = penalties.sigma2 * shrink - np.linalg.inv(precision) + shrink @ covariance @ shrink
    off = ~np.eye(len(precision), dtype=bool)
    zeros = penalties.l1 - abs(slope[~active])
    return float(min(zeros.min(initial=np.inf), abs(precision[active & off]).min(initial=np.inf)))
