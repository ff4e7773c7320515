"""Sparse fits with many features: solve for some of them, and add those that want to move."""

from __future__ import annotations

import numpy as np

from keras_robustseg.classifiers._design import with_features
from keras_robustseg.classifiers._newton import DENSE, minimize
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.optimize import SolveInfo, Status

_ROUNDS = 50


def minimize_by_rows(
    objective: Objective, start: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Return the minimiser; with kinks and many features by a growing active set of them.

    Args:
        objective: to be minimised.
        start: (P, K).
        tol: see `minimize`.
        max_iter: see `minimize`.

    Example:
        `V, info = minimize_by_rows(objective, np.zeros((5, 3)), 1e-9, 100)`
    """
    if objective.penalty.smooth or start.size <= DENSE:
        return minimize(objective, start, tol, max_iter)
    features = len(start) - objective.pixels.intercept
    active = np.flatnonzero(start[:features].any(axis=1))
    V, info = _restricted(objective, start, active, tol, max_iter)
    for _ in range(_ROUNDS):
        slope = objective.gradient(V)[1]
        off = np.abs(V - objective.penalty.prox(V - slope, np.ones_like(V))).max(axis=1)
        info = info._replace(residual=float(off.max()))
        off[active] = 0.0
        if not off[:features].any():
            return V, info
        active = np.union1d(active, _most(off[:features], objective, DENSE // (4 * V.shape[1])))
        V, info = _restricted(objective, V, active, tol, max_iter)
    return V, info._replace(status=int(Status.NOT_CONVERGED))


def _most(off: np.ndarray, objective: Objective, count: int) -> np.ndarray:
    """Features that are most off their optimality conditions, with the groups they are in."""
    chosen = np.argsort(off)[-max(count, 1) :]
    chosen = chosen[off[chosen] > 0]
    member = objective.penalty.member[: len(off)]
    grouped = np.isin(member, member[chosen][member[chosen] >= 0])
    return np.union1d(chosen, np.flatnonzero(grouped)) if objective.penalty.group.any() else chosen


def _restricted(
    objective: Objective, V: np.ndarray, active: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Minimise over the active features and the intercept; the other features are 0."""
    rows = np.append(active, [len(V) - 1] * objective.pixels.intercept).astype(int)
    found = np.zeros_like(V)
    if not len(rows):
        return found, SolveInfo(int(Status.OK), 0, 0.0, 0.0)
    pixels = with_features(objective.pixels, active)
    part = objective._replace(pixels=pixels, penalty=objective.penalty.rows(rows))
    found[rows], info = minimize(part, V[rows], tol, max_iter)
    return found, info
