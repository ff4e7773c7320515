"""Fits in which a risk measure takes the place of the mean over pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize as scipy_minimize

from keras_robustseg.classifiers._newton import DENSE, gauge, minimize
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.optimize import SolveInfo, Status
from keras_robustseg.risk import CVaR, RiskMeasure
from keras_robustseg.risk._reduce import LOCAL

# Temperatures, in parts of the spread of the losses, by which a CVaR is made smooth.
_TEMPERATURES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class RiskObjective(NamedTuple):
    """(total mass / divisor) risk of the pixel losses under their masses + 1/2 sum l2 V^2.

    With the mean as risk it is `Objective`.

    Args:
        mean: the same with the mean as risk.
        worst_case: from pixel losses (n,) to their risk and its weights.
        masses: (n,) mass of each pixel.
    """

    mean: Objective
    worst_case: Callable[[np.ndarray], tuple[Any, Any]]
    masses: np.ndarray

    def losses(self, V: np.ndarray) -> np.ndarray:
        """Return the loss of each pixel, (n,)."""
        loss, blocks = self.mean.loss, self.mean.pixels.blocks()
        found = [loss.each(design.scores(V), masses) for design, masses in blocks]
        return np.concatenate(found) / self.masses

    def gradient(self, V: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and its gradient (P, K), by Danskin's theorem."""
        value, q = (np.asarray(part) for part in self.worst_case(self.losses(V)))
        factor = self.masses.sum() / self.mean.divisor
        pull = self.mean.penalty.l2 * V
        gradient = pull.copy()
        for (design, masses), part in self._with(factor * q / self.masses):
            residual = self.mean.loss.value_and_residual(design.scores(V), masses)[1]
            gradient += design.pull(residual * part)
        return float(factor * value + 0.5 * np.vdot(pull, V)), gradient

    def _with(self, values: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Blocks, each with its part of values (n,)."""
        start = 0
        for block in self.mean.pixels.blocks():
            end = start + block.masses.shape[1]
            yield block, values[start:end]
            start = end


def minimize_risk(
    objective: Objective, measure: RiskMeasure, start: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Return the minimiser of the risk of the pixel losses plus the quadratic penalty.

    L-BFGS in the metric of the Hessian of the mean, from the minimiser of the mean. A CVaR is made
    smooth by a quadratic penalty on its weights, less and less: its value is then off by
    temperature (1 / alpha - 1) / 2 at most, which is reported as the duality gap.

    Args:
        objective: with the mean as risk; without kinks.
        measure: of `keras_robustseg.risk`. With stance "optimistic" the problem is not convex and
            the answer a local one.
        start: (P, K).
        tol: bound on the gradient in that metric, relative to the value at the start or 1.
        max_iter: bound on the iterations, at each temperature.

    Example:
        `V, info = minimize_risk(objective, risk.DivergenceBall("kl", 0.1), start, 1e-9, 200)`
    """
    V, _ = minimize(objective, start, max(tol, 1e-6), max_iter)
    masses = np.concatenate([block.masses.sum(axis=0) for block in objective.pixels.blocks()])
    problem = RiskObjective(objective, _compiled(measure, masses), masses)
    metric = _metric(objective, V)
    iterations, gap = 0, 0.0
    for smooth, off in _smoothed(problem, measure, V):
        V, info = _descend(smooth, metric, V, tol, max_iter)
        iterations, gap = iterations + info.iterations, off
    return V, info._replace(iterations=iterations, duality_gap=gap)


def _compiled(measure: RiskMeasure, masses: np.ndarray) -> Callable[[np.ndarray], tuple[Any, Any]]:
    """The risk and its weights as a function of losses; without a graph it is 20 times slower."""
    import tensorflow as tf

    signature = [tf.TensorSpec(masses.shape, "float64")]
    weights = tf.constant(masses)

    @tf.function(input_signature=signature)
    def worst_case(losses: Any) -> tuple[Any, Any]:
        return measure.solve(losses, weights, LOCAL)

    return worst_case


def _smoothed(
    problem: RiskObjective, measure: RiskMeasure, V: np.ndarray
) -> Iterator[tuple[RiskObjective, float]]:
    """Problems to be solved in turn, and how far the values of each may be off."""
    if not isinstance(measure, CVaR) or measure.smoothing is not None:
        yield problem, 0.0
        return
    alpha, spread = float(measure.alpha), float(np.ptp(problem.losses(V)))
    temperature = keras.Variable(1.0, dtype="float64", trainable=False)
    smooth = CVaR(alpha, "l2", temperature, stance=measure.stance)
    problem = problem._replace(worst_case=_compiled(smooth, problem.masses))
    for share in _TEMPERATURES:
        temperature.assign(max(share * spread, 1e-12))
        off = 0.5 * float(temperature) * (1.0 / alpha - 1.0)
        yield problem, off * problem.masses.sum() / problem.mean.divisor


def _metric(objective: Objective, V: np.ndarray) -> np.ndarray | None:
    """Upper triangle R with R^T R = the Hessian of the mean, or None if there are too many."""
    if V.size > DENSE:
        return None
    hessian = objective.hessian(V)
    hessian += gauge(objective, hessian)
    # What is nearly singular gets a small multiple of its diagonal: a metric need not be exact.
    hessian[np.diag_indices(len(hessian))] *= 1.0 + 1e-8
    hessian[np.diag_indices(len(hessian))] += 1e-12 * max(float(hessian.max()), 1e-300)
    return cholesky(hessian)


def _descend(
    problem: RiskObjective, metric: np.ndarray | None, V: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    shape = V.shape

    def back(z: np.ndarray) -> np.ndarray:
        return (z if metric is None else solve_triangular(metric, z)).reshape(shape)

    def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.gradient(V + back(z))
        flat = gradient.ravel()
        return value, flat if metric is None else solve_triangular(metric, flat, trans="T")

    goal = tol * max(1.0, abs(evaluate(np.zeros(V.size))[0]))
    found = _lbfgs(evaluate, V.size, goal, max_iter)
    off = float(np.abs(found.jac).max())
    # At the end the rounding of the value may hide what the gradient still wants.
    ended = np.isfinite(found.fun) and (found.success or off <= max(goal, 1e-6))
    status = Status.OK if ended else Status.NOT_CONVERGED
    return V + back(found.x), SolveInfo(int(status), int(found.nit), off)


def _lbfgs(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    size: int,
    goal: float,
    max_iter: int,
) -> Any:
    options = {"gtol": goal, "ftol": 1e-15, "maxiter": max_iter, "maxcor": 30, "maxls": 50}
    zero = np.zeros(size)
    return scipy_minimize(evaluate, zero, jac=True, method="L-BFGS-B", options=options)
