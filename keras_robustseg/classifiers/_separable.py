"""Fits without a finite answer."""

from __future__ import annotations

import numpy as np

from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.optimize import SolveInfo, Status


def with_separability(objective: Objective, V: np.ndarray, info: SolveInfo) -> SolveInfo:
    """Return the certificate with status DIVERGED where the classes can be separated for nothing.

    A direction without a penalty that scores every pixel for its own class lowers the logistic
    loss for ever: there is no minimiser. V itself is that direction, if there is one and the
    solver has followed it.

    Args:
        objective: of a logistic regression.
        V: (P, K) where the solver stopped.
        info: its certificate.
    """
    free = objective.penalty.free
    if not free[: len(V) - objective.pixels.intercept].any():
        return info
    return info._replace(status=int(Status.DIVERGED)) if is_separated(objective, V) else info


def is_separated(objective: Objective, V: np.ndarray) -> bool:
    """Tell whether the coefficients without a penalty score every pixel for its own class.

    Args:
        objective: tells the pixels and the penalty.
        V: (P, K).
    """
    V = np.where(objective.penalty.free, V, 0.0)
    for design, masses in objective.pixels.blocks():
        if ((masses > 0).sum(axis=0) > 1).any():
            return False
        scores = design.scores(V)
        scores = scores if len(scores) > 1 else np.vstack([np.zeros_like(scores), scores])
        own = masses > 0
        best_other = np.where(own, -np.inf, scores).max(axis=0)
        if (np.where(own, scores, -np.inf).max(axis=0) <= best_other).any():
            return False
    return True
