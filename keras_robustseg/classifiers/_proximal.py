"""The quadratic model with kinks that a proximal Newton step minimises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_robustseg.classifiers._linear import factor
from keras_robustseg.classifiers._penalty import Penalty

_ROUNDS, _INNER = 400, 25


def model_step(
    hessian: np.ndarray, penalty: Penalty
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the map from V and the gradient g there to the proximal Newton step D.

    D minimises <g, D> + 1/2 <D, H D> + kinks(V + D). Accelerated proximal gradient in the metric
    of the diagonal finds the support; Newton on the support then gives D to rounding.

    Args:
        hessian: H (P K, P K).
        penalty: of the coefficients.

    Example:
        `model_step(hessian, penalty)(V, gradient)  # (P, K)`
    """
    metric = _metric(hessian, penalty)
    scale = 1.0 / np.sqrt(metric.ravel())
    largest = float(np.linalg.eigvalsh(hessian * scale[:, None] * scale)[-1])
    step = 1.0 / (metric * max(largest, 1e-300))

    def direction(V: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        def slope(U: np.ndarray) -> np.ndarray:
            return gradient + (hessian @ (U - V).ravel()).reshape(V.shape)

        return _descend(slope, hessian, penalty, step, V) - V

    return direction


def _descend(
    slope: Callable[[np.ndarray], np.ndarray],
    hessian: np.ndarray,
    penalty: Penalty,
    step: np.ndarray,
    V: np.ndarray,
) -> np.ndarray:
    best, least = V, np.inf
    for _ in range(_ROUNDS):
        V = _accelerated(slope, penalty, step, V)
        for U in (V, on_support(slope, hessian, penalty, V)):
            moved = U - penalty.prox(U - step * slope(U), step)
            off = float(np.abs(moved).max() / max(np.abs(U).max(), 1e-3))
            if off < least:
                best, least = U, off
        if least < 1e-13:
            break
    return best


def _accelerated(
    slope: Callable[[np.ndarray], np.ndarray], penalty: Penalty, step: np.ndarray, V: np.ndarray
) -> np.ndarray:
    ahead, momentum = V, 1.0
    for _ in range(_INNER):
        moved = penalty.prox(ahead - step * slope(ahead), step)
        if np.vdot((ahead - moved) / step, moved - V) > 0:
            momentum = 1.0  # it overshot: begin again (O'Donoghue and Candès 2015)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = moved + (momentum - 1.0) / following * (moved - V)
        V, momentum = moved, following
    return V


def on_support(
    slope: Callable[[np.ndarray], np.ndarray],
    hessian: np.ndarray,
    penalty: Penalty,
    V: np.ndarray,
) -> np.ndarray:
    """Return the stationary point of the model among coefficients with the signs of V.

    Args:
        slope: of the model without kinks.
        hessian: its second derivative.
        penalty: of the coefficients.
        V: whose zeros stay zeros.
    """
    support = np.flatnonzero(support_of(penalty, V))
    rounds = 10 if penalty.group.any() else 1
    for _ in range(rounds if len(support) else 0):
        pull = slope(V) + penalty.l1 * np.sign(V) + penalty.group_slope(V)
        curved = hessian + penalty.group_curvature(V) if rounds > 1 else hessian
        solve, _ = factor(curved[np.ix_(support, support)])
        move = np.zeros(V.size)
        move[support] = -solve(pull.ravel()[support])
        V = V + move.reshape(V.shape)
        if np.abs(move).max() <= 1e-14 * np.abs(V).max():
            break
    return V


def support_of(penalty: Penalty, V: np.ndarray) -> np.ndarray:
    """Return which coefficients can move to first order, (P K,) bool.

    Those that are not 0, those without a kink at 0, and of a group that is not 0 those without a
    kink of their own.
    """
    alive = np.append((penalty.norms(V) > 0) | (penalty.group == 0), True)[penalty.member]
    return (((V != 0) | (penalty.l1 == 0)) & alive[:, None]).ravel()


def _metric(hessian: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Diagonal of the Hessian (P, K), the same all over a group, and positive."""
    metric = np.diag(hessian).reshape(penalty.l1.shape).copy()
    for group in np.flatnonzero(penalty.group):
        rows = penalty.member == group
        if rows.any():
            metric[rows] = metric[rows].max()
    return np.maximum(metric, 1e-12 * max(float(metric.max()), 1e-300))
