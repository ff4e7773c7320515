"""Majorise-minimise with Douglas-Rachford steps inside, for sparse precision matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._linear import epsilon
from keras_robustseg.optimize._precision_model import (
    Problem,
    identity_like,
    linearized,
    rebuilt,
    smooth_gradient,
    spectrum,
    subgradient_distance,
)
from keras_robustseg.optimize._prox_log import negative_log
from keras_robustseg.optimize._spectral import transpose

_RELAXATION = 1.6
_BALANCED = 10.0
# The penalty is balanced only so often, since only a constant one is sure to converge.
_BALANCING_STEPS = 100


class Splitting(NamedTuple):
    """Where the Douglas-Rachford iteration stands, in its scaled dual form.

    Attributes:
        sparse: the point after the soft threshold, (batch, p, p).
        dual: scaled dual variable.
        rho: one over the step, (batch, 1, 1).
        error: larger of the two relative residuals, (batch, 1, 1).
        k: int32, steps.
    """

    sparse: Any
    dual: Any
    rho: Any
    error: Any
    k: Any


class Progress(NamedTuple):
    """Where the outer iteration stands.

    Attributes:
        splitting: the inner iteration, which is warm-started.
        residual: largest entry of the distance of 0 from the subdifferential, (batch, 1, 1).
        steps: int32 (batch, 1, 1), outer steps that the item needed.
    """

    splitting: Splitting
    residual: Any
    steps: Any


def minimised(
    problem: Problem, tol: float, max_iterations: int, inner_iterations: int
) -> tuple[Any, Any, Any]:
    """Return (C, residual, steps) of `_precision_model.F`, whose data have the scale 1.

    Each step replaces the concave trace term by its tangent and solves that convex problem, warm,
    to a hundredth of the error that is left.
    """

    def unsolved(at: Any) -> Any:
        return ops.logical_not(at.residual <= tol)

    def step(*flat: Any) -> tuple[Any, ...]:
        at = _unpack(flat)
        slope = linearized(problem, spectrum(at.splitting.sparse))
        accuracy = ops.clip(0.01 * at.residual, 8.0 * epsilon(slope), 1e-3)
        splitting = _solved(problem, slope, at.splitting, accuracy, inner_iterations)
        steps = at.steps + ops.cast(unsolved(at), "int32")
        return _pack(Progress(splitting, _residual(problem, splitting.sparse), steps))

    flat = ops.while_loop(
        lambda *flat: ops.any(unsolved(_unpack(flat))),
        step,
        _pack(_start(problem)),
        maximum_iterations=max_iterations,
    )
    at = _unpack(flat)
    return at.splitting.sparse, at.residual[..., 0, 0], at.steps[..., 0, 0]


def _start(problem: Problem) -> Progress:
    zero = ops.zeros_like(problem.covariance)
    one = ops.ones_like(zero[..., :1, :1])
    unknown = ops.full_like(one, float("inf"))
    splitting = Splitting(
        identity_like(zero) + zero, zero, one, unknown, ops.zeros((), dtype="int32")
    )
    return Progress(splitting, unknown, ops.cast(0.0 * one, "int32"))


def _residual(problem: Problem, matrix: Any) -> Any:
    of = spectrum(matrix)
    distance = subgradient_distance(problem, matrix, smooth_gradient(problem, of))
    largest = ops.max(distance, axis=(-2, -1), keepdims=True)
    outside = of.values[..., :1, None] <= 0
    return ops.where(outside, ops.full_like(largest, float("inf")), largest)


def _solved(
    problem: Problem, slope: Any, start: Splitting, accuracy: Any, max_iterations: int
) -> Splitting:
    """Solve min -log det C + log det(I + s C) + <slope, C> + n tr C + sum L |C|."""
    fresh = start._replace(error=ops.full_like(start.error, float("inf")), k=0 * start.k)
    return Splitting(
        *ops.while_loop(
            lambda *at: ops.any(ops.logical_not(Splitting(*at).error <= accuracy)),
            lambda *at: tuple(_split(problem, slope, Splitting(*at))),
            tuple(fresh),
            maximum_iterations=max_iterations,
        )
    )


def _split(problem: Problem, slope: Any, at: Splitting) -> Splitting:
    smooth = _spectral_step(problem, at.sparse - at.dual - slope / at.rho, at.rho)
    smooth = (smooth + transpose(smooth)) / 2.0  # so that zeros stay symmetric
    relaxed = _RELAXATION * smooth + (1.0 - _RELAXATION) * at.sparse
    before = relaxed + at.dual
    size = ops.maximum(ops.abs(before) - problem.l1 / at.rho, 0.0)
    sparse = ops.sign(before) * size
    dual = before - sparse
    primal = _length(smooth - sparse) / (1.0 + _length(sparse))
    moved = at.rho * _length(sparse - at.sparse) / (1.0 + at.rho * _length(dual))
    rho = _balanced(at, primal, moved)
    return Splitting(sparse, dual * at.rho / rho, rho, ops.maximum(primal, moved), at.k + 1)


def _spectral_step(problem: Problem, matrix: Any, rho: Any) -> Any:
    values, vectors = spectrum(matrix)
    sigma2 = None if problem.sigma2 is None else problem.sigma2[..., 0]
    nothing = ops.zeros_like(values)
    step = 1.0 / rho[..., 0]
    return rebuilt(negative_log(values, step, problem.nuclear[..., 0], nothing, sigma2), vectors)


def _balanced(at: Splitting, primal: Any, moved: Any) -> Any:
    """The penalty, doubled or halved while one residual is far above the other (Boyd 2011)."""
    due = ops.logical_and(ops.equal(at.k % 5, 4), at.k < _BALANCING_STEPS)
    rho = ops.where(primal > _BALANCED * moved, 2.0 * at.rho, at.rho)
    rho = ops.where(moved > _BALANCED * primal, 0.5 * at.rho, rho)
    return ops.where(due, rho, at.rho)


def _length(matrix: Any) -> Any:
    return ops.sqrt(ops.sum(matrix * matrix, axis=(-2, -1), keepdims=True))


def _pack(at: Progress) -> tuple[Any, ...]:
    return (*at.splitting, at.residual, at.steps)


def _unpack(flat: tuple[Any, ...]) -> Progress:
    return Progress(Splitting(*flat[:-2]), *flat[-2:])
