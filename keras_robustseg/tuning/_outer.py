"""Outer optimisers: they move free variables down a validation loss, by its hypergradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Free variables -> loss and gradient; every call is an outer step."""


def adam(
    evaluate: Evaluate,
    free: np.ndarray,
    limits: np.ndarray,
    steps: int,
    learning_rate: float,
    gradient_tolerance: float,
) -> None:
    """Take Adam steps, kept within the limits (Kingma and Ba, ICLR 2015; b1 .9, b2 .999).

    Args:
        evaluate: loss and gradient.
        free: (n,) where to start.
        limits: (n, 2) bounds.
        steps: how many evaluations.
        learning_rate: length of a step, in free variables.
        gradient_tolerance: stop when no entry of the gradient is larger, bounds regarded.

    Example:
        `adam(lambda x: (x @ x, 2 * x), np.ones(2), np.tile([-9, 9], (2, 1)), 50, 0.1, 1e-6)`
    """
    mean, square = np.zeros_like(free), np.zeros_like(free)
    for step in range(1, steps + 1):
        _, gradient = evaluate(free)
        if not np.isfinite(gradient).all():
            return
        if np.max(np.abs(_inward(free, gradient, limits)), initial=0.0) <= gradient_tolerance:
            return
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        size = np.sqrt(square / (1 - 0.999**step)) + 1e-12
        move = learning_rate * mean / (1 - 0.9**step) / size
        free = np.clip(free - move, limits[:, 0], limits[:, 1])


def lbfgs(
    evaluate: Evaluate,
    free: np.ndarray,
    limits: np.ndarray,
    steps: int,
    learning_rate: float,
    gradient_tolerance: float,
) -> None:
    """Minimise by SciPy's L-BFGS-B, whose line search takes several evaluations a step.

    Args:
        evaluate: loss and gradient; they must be of one accuracy, or the line search fails.
        free: (n,) where to start.
        limits: (n, 2) bounds.
        steps: how many evaluations.
        learning_rate: not used; the line search finds the length.
        gradient_tolerance: stop when no entry of the projected gradient is larger.

    Example:
        `lbfgs(lambda x: (x @ x, 2 * x), np.ones(2), np.tile([-9, 9], (2, 1)), 50, 0.1, 1e-6)`
    """
    del learning_rate
    minimize(
        evaluate,
        free,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": steps, "maxfun": steps, "gtol": gradient_tolerance, "ftol": 1e-15},
    )


def _inward(free: np.ndarray, gradient: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The gradient without entries that push against a bound."""
    blocked = ((free <= limits[:, 0]) & (gradient > 0)) | ((free >= limits[:, 1]) & (gradient < 0))
    return np.where(blocked, 0.0, gradient)


OPTIMISERS = {"adam": adam, "lbfgs": lbfgs}
