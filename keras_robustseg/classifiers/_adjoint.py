"""From the gradient of a validation loss to that of each hyper-parameter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_robustseg.classifiers._linear import conjugate_gradients, factor
from keras_robustseg.classifiers._newton import DENSE, gauge
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._penalty import Penalty
from keras_robustseg.classifiers._proximal import support_of
from keras_robustseg.optimize import SolveInfo, Status

# Nearer than this to a kink, in parts of the penalty or of the greatest coefficient, the derivative
# may be one of several.
_NEAR = 1e-7


class Adjoint(NamedTuple):
    """U with H U = the validation gradient on the support, 0 elsewhere: d val = -<U, d slope>.

    Args:
        U: (P, K).
        info: certificate.
    """

    U: np.ndarray
    info: SolveInfo


def smooth_adjoint(
    objective: Objective, V: np.ndarray, gradient: np.ndarray, start: np.ndarray | None = None
) -> Adjoint:
    """Return the adjoint of a fit with a smooth loss.

    Args:
        objective: that V minimises.
        V: (P, K).
        gradient: of the validation loss to V.
        start: where conjugate gradients begin, such as the adjoint of a fit nearby; None for 0. A
            system that is factorised has no use for it.

    Example:
        `smooth_adjoint(objective, V, gradient).U`
    """
    penalty = objective.penalty
    support = np.flatnonzero(support_of(penalty, V))
    U = np.zeros(V.size)
    if len(support) == V.size > DENSE and penalty.smooth:
        U, singular, off = _by_krylov(objective, V, gradient, start)
    elif len(support):
        hessian = objective.hessian(V)
        hessian += gauge(objective, hessian) + penalty.group_curvature(V)
        inside = hessian[np.ix_(support, support)]
        solve, singular = factor(inside)
        b = gradient.ravel()[support]
        U[support] = solve(b)
        off = _relative(inside @ U[support] - b, b)
    else:
        singular, off = False, 0.0
    margin = kink_margin(penalty, V, objective.gradient(V)[1])
    status = certificate(singular, off, margin)
    info = SolveInfo(int(status), kink_margin=margin, adjoint_residual=off)
    return Adjoint(U.reshape(V.shape), info)


def certificate(singular: bool, residual: float, margin: float) -> Status:
    """Return the status of an adjoint.

    Args:
        singular: whether the system is.
        residual: relative residual of the solution.
        margin: distance from the nearest kink.
    """
    if singular:
        return Status.SINGULAR
    if residual > 1e-6:
        return Status.NOT_CONVERGED
    return Status.NEAR_KINK if margin < _NEAR else Status.OK


def kink_margin(penalty: Penalty, V: np.ndarray, gradient: np.ndarray) -> float:
    """Return how far V is from another support: infinite without kinks.

    The least of: what is missing of |gradient| to the penalty at a coefficient, or group, that is
    0, in parts of that penalty; and a penalised coefficient, or norm of a group, that is not 0, in
    parts of the greatest.

    Args:
        penalty: of the coefficients.
        V: (P, K).
        gradient: of all but the kinks.
    """
    norms, top = penalty.norms(V), max(float(np.abs(V).max()), 1e-300)
    alive = np.append((norms > 0) | (penalty.group == 0), True)[penalty.member][:, None]
    zero = (V == 0) & (penalty.l1 > 0) & alive
    kept = (V != 0) & (penalty.l1 > 0)
    # Coefficients of one group meet its l1 penalty before the norm does.
    pull = np.sign(gradient) * np.maximum(np.abs(gradient) - penalty.l1, 0.0)
    live = penalty.group > 0
    slack = 1.0 - penalty.norms(pull) / np.where(live, penalty.group, 1.0)
    found = [
        1.0 - np.abs(gradient[zero]) / penalty.l1[zero],
        np.abs(V[kept]) / top,
        slack[live & (norms == 0)],
        norms[live & (norms > 0)] / top,
    ]
    return float(min((part.min() for part in found if part.size), default=np.inf))


def _by_krylov(
    objective: Objective, V: np.ndarray, gradient: np.ndarray, start: np.ndarray | None
) -> tuple[np.ndarray, bool, float]:
    def matvec(x: np.ndarray) -> np.ndarray:
        return objective.curve(V, x.reshape(V.shape)).ravel()

    x0 = start.ravel() if start is not None and start.size == V.size else None
    U, off = conjugate_gradients(matvec, gradient.ravel(), x0, 1e-12, 10 * V.size)
    return U, False, off


def _relative(residual: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(b))
    return float(np.linalg.norm(residual)) / size if size else 0.0


def mass_gradient(
    objective: Objective, V: np.ndarray, U: np.ndarray, normalized: bool, mean: bool
) -> np.ndarray:
    """Return d val / d masses, (n, C).

    Args:
        objective: that V minimises.
        V: (P, K).
        U: the adjoint.
        normalized: whether the masses of a pixel keep their sum.
        mean: whether the divisor is the sum of the masses and moves with them.
    """
    parts, shared = [], 0.0
    for design, masses in objective.pixels.blocks():
        scores, along = design.scores(V), design.scores(U)
        parts.append(objective.loss.to_masses(scores, along, normalized).T)
        if mean and not normalized:
            shared += np.vdot(objective.loss.value_and_residual(scores, masses)[1], along)
    return -(np.concatenate(parts) - shared / objective.divisor) / objective.divisor
