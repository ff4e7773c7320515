"""Outer optimisers: they move free variables down a validation loss, by its hypergradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Free variables -> loss and gradient; every call is an outer step."""


class AdamSteps:
    """Moving averages of gradients, and the step that follows from them, kept within limits.

    Kingma and Ba, ICLR 2015; b1 .9, b2 .999.

    Args:
        limits: (n, 2) bounds of the variables.
        learning_rate: length of a step.

    Example:
        `free = AdamSteps(np.tile([-9, 9], (2, 1)), 0.1).moved(free, gradient)`
    """

    def __init__(self, limits: np.ndarray, learning_rate: float) -> None:
        self.limits, self.learning_rate, self.count = limits, learning_rate, 0
        self.mean = self.square = np.zeros(len(limits))

    def moved(self, free: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the variables (n,) after a step by their gradient (n,)."""
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        size = np.sqrt(self.square / (1 - 0.999**self.count)) + 1e-12
        move = self.learning_rate * self.mean / (1 - 0.9**self.count) / size
        return np.clip(free - move, self.limits[:, 0], self.limits[:, 1])


def adam(
    evaluate: Evaluate,
    free: np.ndarray,
    limits: np.ndarray,
    steps: int,
    learning_rate: float,
    gradient_tolerance: float,
) -> None:
    """Take Adam steps, kept within the limits.

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
    follow = AdamSteps(limits, learning_rate)
    for _ in range(steps):
        _, gradient = evaluate(free)
        if not np.isfinite(gradient).all():
            return
        if np.max(np.abs(_inward(free, gradient, limits)), initial=0.0) <= gradient_tolerance:
            return
        free = follow.moved(free, gradient)


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
