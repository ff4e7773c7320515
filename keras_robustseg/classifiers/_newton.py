"""Newton's method: Cholesky for few coefficients, conjugate gradients for many, or proximal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_robustseg.classifiers._design import thinned
from keras_robustseg.classifiers._linear import conjugate_gradients, factor
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._proximal import model_step, support_of
from keras_robustseg.optimize import SolveInfo, Status

# Number of coefficients up to which a Hessian is formed.
DENSE = 2000
# A fit begins at the answer for so many random pixels, when there are many more.
_SAMPLE = 20_000
# A Hessian is kept as long as steps shrink at least by this factor.
_KEEP = 0.1


class Step(NamedTuple):
    """A Hessian at some point, ready to be used at this and other points.

    Args:
        direction: from V and the smooth gradient there, (P, K) each, to the step.
        singular: whether the Hessian is.
        kept: whether it is worth to be used at the next point.
    """

    direction: Callable[[np.ndarray, np.ndarray], np.ndarray]
    singular: bool
    kept: bool


class State(NamedTuple):
    """A point with its value and gradient."""

    V: np.ndarray
    value: float
    gradient: np.ndarray


def minimize(
    objective: Objective, start: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Return the minimiser of a convex objective.

    A step is Newton's with a line search, and where the penalty has kinks, the minimiser of the
    quadratic model with the penalty as it is (proximal Newton). With many pixels it begins at the
    answer for a random part of them and keeps that Hessian: near the answer of all pixels this
    contracts well, and a pass for the gradient costs a fraction of one for the Hessian.

    Args:
        objective: its loss is smooth, or semismooth as the squared hinge; its penalty need not.
        start: (P, K).
        tol: bound on the last step, relative to the greatest coefficient or 1.
        max_iter: bound on the steps.

    Returns:
        V (P, K); `SolveInfo` with the violation of the optimality conditions as residual and the
        last relative step as relative residual.
    """
    step = None
    if start.size <= DENSE and objective.pixels.size > 4 * _SAMPLE:
        start, step = _start_from_sample(objective, start, tol, max_iter)
    return _newton(objective, start, step, tol, max_iter)


def _start_from_sample(
    objective: Objective, start: np.ndarray, tol: float, max_iter: int
) -> tuple[np.ndarray, Step | None]:
    part = objective._replace(pixels=thinned(objective.pixels, _SAMPLE))
    if (part.pixels.class_masses <= 0).any():
        return start, None
    V, info = _newton(part, start, None, max(tol, 1e-6), max_iter)
    return (V, hessian_step(part, V)) if info.status == Status.OK else (start, None)


def _newton(
    objective: Objective, start: np.ndarray, step: Step | None, tol: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    state, size = State(start, *objective.gradient(start)), np.inf
    for iteration in range(1, max_iter + 1):
        fresh = step is None
        step = step or hessian_step(objective, state.V)
        direction = step.direction(state.V, state.gradient)
        moved, length = _search(objective, state, direction)
        before, size = size, relative_size(direction, moved.V)
        state = moved
        if size <= tol and length > 0.0:
            singular = step.singular or _singular_on_support(objective, state.V)
            status = Status.SINGULAR if singular else Status.OK
            return state.V, _info(objective, status, iteration, state, size)
        if length == 0.0 and fresh:
            break  # nothing below the rounding of the value, or no direction of descent
        if length < 1.0 or size > _KEEP * before or not step.kept:
            step = None
    return state.V, _info(objective, Status.NOT_CONVERGED, iteration, state, size)


def hessian_step(objective: Objective, V: np.ndarray) -> Step:
    """Return the step with the Hessian at V.

    Example:
        `hessian_step(objective, V).direction(V, gradient)`
    """
    if not objective.penalty.smooth:
        hessian = objective.hessian(V)
        return Step(model_step(hessian + gauge(objective, hessian), objective.penalty), False, True)
    if V.size > DENSE:
        return Step(_krylov(objective, V), False, False)
    hessian = objective.hessian(V)
    solve, singular = factor(hessian + gauge(objective, hessian))
    return Step(lambda V, g: -solve(g.ravel()).reshape(V.shape), singular, True)


def _krylov(objective: Objective, V: np.ndarray) -> Callable[..., np.ndarray]:
    def matvec(x: np.ndarray) -> np.ndarray:
        return objective.curve(V, x.reshape(V.shape)).ravel()

    def direction(V: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        solution, _ = conjugate_gradients(matvec, -gradient.ravel(), None, 1e-6, 10 * V.size)
        return solution.reshape(V.shape)

    return direction


def gauge(objective: Objective, hessian: np.ndarray) -> np.ndarray:
    """Return a matrix (P K, P K) that fixes what a softmax leaves free.

    The same number added to a coefficient of all classes changes no probability. Where no penalty
    decides, the Hessian is singular in that direction and the gradient has no part in it. The
    matrix is a multiple of the projector on these directions, so that it changes no step.

    Args:
        objective: tells the loss and the penalty.
        hessian: (P K, P K), for its scale.
    """
    penalty = objective.penalty
    rows, columns = penalty.l2.shape
    if not objective.loss.shift_free or columns == 1:
        return np.zeros_like(hessian)
    free = penalty.free.all(axis=1)
    scale = np.diag(hessian).reshape(rows, columns).mean(axis=1)
    return np.kron(np.diag(free * scale), np.full((columns, columns), 1.0 / columns))


def _search(objective: Objective, state: State, direction: np.ndarray) -> tuple[State, float]:
    """The state after a step that lowers the value enough, and its length."""
    penalty = objective.penalty
    slope = float(np.vdot(state.gradient, direction))
    slope += penalty.kinks(state.V + direction) - penalty.kinks(state.V)
    # Differences of the value below its rounding say nothing.
    slack = 1e-14 * max(abs(state.value), 1.0)
    length = 1.0
    for _ in range(40):
        V = state.V + length * direction
        moved = State(V, *objective.gradient(V))
        if moved.value <= state.value + 1e-4 * length * slope + slack:
            return moved, length
        length *= 0.5
    return state, 0.0


def relative_size(step: np.ndarray, V: np.ndarray) -> float:
    """Return the greatest entry of a step over that of the point, or 1 if that is greater.

    Example:
        `relative_size(np.array([0.1]), np.array([10.0]))  # 0.01`
    """
    return float(np.abs(step).max() / max(np.abs(V).max(), 1.0))


def _singular_on_support(objective: Objective, V: np.ndarray) -> bool:
    """Whether a fit with kinks has another answer of the same value on its support."""
    penalty = objective.penalty
    support = support_of(penalty, V)
    if penalty.smooth or (penalty.l2 > 0).ravel()[support].all():
        return False
    hessian = objective.hessian(V)
    hessian += gauge(objective, hessian) + penalty.group_curvature(V)
    return factor(hessian[np.ix_(support, support)])[1]


def _info(
    objective: Objective, status: Status, iterations: int, state: State, size: float
) -> SolveInfo:
    violation = objective.penalty.violation(state.V, state.gradient)
    return SolveInfo(int(status), iterations, violation, size)
