"""Equilibria z = relu(W z + c) of a monotone W, by operator splitting, and their derivative.

With W = (1 - m) I - A'A + B - B', I - W is strongly monotone with constant m > 0 whatever A and B
are, so there is one equilibrium, and splittings find it where the plain iteration z -> relu(W z +
c) diverges (Winston and Kolter, "Monotone operator equilibrium networks", NeurIPS 2020). Its
cotangent solves h = D (W' h + v), D the active coordinates: the same splitting with W' for W and D
for relu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._first_order import once
from keras_robustseg.optimize._gmres import gmres
from keras_robustseg.optimize._info import LinearInfo, SolveInfo, Status

CHECK_EVERY = 5
LEAST = 1e-37
Field = Callable[[Any], Any]


class MonotoneOperator(NamedTuple):
    """W of a monotone equilibrium, on the last axis, or by convolutions of odd size.

    Attributes:
        symmetric: A: (n, n), or a kernel (*K, n, n) of a convolution with zeros at the border.
        skew: B, likewise.
        margin: m.
    """

    symmetric: Any
    skew: Any
    margin: float

    def apply(self, state: Any) -> Any:
        """W z."""
        return self._even(state) + self._odd(state)

    def transposed(self, state: Any) -> Any:
        """W' z."""
        return self._even(state) - self._odd(state)

    def _even(self, state: Any) -> Any:
        through = _linear(self.symmetric, state)
        return (1.0 - self.margin) * state - _linear(_transpose(self.symmetric), through)

    def _odd(self, state: Any) -> Any:
        return _linear(self.skew, state) - _linear(_transpose(self.skew), state)

    def lipschitz(self) -> Any:
        """An upper bound of ||I - W||."""
        return self.margin + ops.square(norm_bound(self.symmetric)) + 2 * norm_bound(self.skew)


def _linear(kernel: Any, state: Any) -> Any:
    """A z: the matrix on the last axis, or the convolution."""
    if len(kernel.shape) == 2:
        return ops.matmul(state, ops.transpose(kernel))
    return ops.conv(state, kernel, padding="same", data_format="channels_last")


def _transpose(kernel: Any) -> Any:
    """The kernel of A'."""
    axes = tuple(range(len(kernel.shape) - 2))
    return ops.swapaxes(ops.flip(kernel, axes) if axes else kernel, -1, -2)


def norm_bound(kernel: Any) -> Any:
    """Return the least of three upper bounds of ||A||, border or not.

    sqrt(largest row sum times largest column sum); and, as a pixel is in at most t windows of t
    pixels, sqrt(t) ||M|| with M the matrix from windows to a pixel, of A or of A'.
    """
    sums = ops.sum(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 2)))
    first = ops.sqrt(ops.max(ops.sum(sums, axis=0)) * ops.max(ops.sum(sums, axis=1)))
    windows = math.sqrt(math.prod(kernel.shape[:-2]))
    for side in (kernel, ops.swapaxes(kernel, -1, -2)):
        matrix = ops.reshape(side, (-1, side.shape[-1]))
        first = ops.minimum(first, windows * _spectral_bound(matrix))
    return first


def _spectral_bound(matrix: Any) -> Any:
    """Return ||G^16||_F^(1/32) >= ||M||, G = M' M; above it by a factor n^(1/64) at most."""
    power, log = ops.matmul(ops.transpose(matrix), matrix), 0.0
    for squared in range(5):
        size = ops.maximum(ops.sqrt(ops.sum(ops.square(power))), LEAST)
        log += ops.log(size) / 2**squared
        power = ops.matmul(power / size, power / size)
    return ops.exp(log / 2.0)


class _Equation(NamedTuple):
    """z = activation(W z + c), with the step of its splitting and the resolvent, if there is.

    Peaceman-Rachford where there is a resolvent. Otherwise forward-backward, reflected (Malitsky
    and Tam, SIAM J. Optim. 2020): its step is below 1 / (2 L) for an operator that is no gradient,
    where the plain one needs m / L^2.
    """

    apply: Field
    source: Any
    activation: Field
    step: Any
    resolvent: Any

    def residual(self, state: Any) -> Any:
        return self.activation(self.apply(state) + self.source) - state

    def move(self, state: Any, other: Any) -> tuple[Any, Any]:
        """One step, of the state and of the reflected variable or the force of the step before."""
        if self.resolvent is None:
            force = state - self.apply(state) - self.source
            return self.activation(state - self.step * (2.0 * force - other)), force
        reflected = 2.0 * state - other
        middle = ops.matmul(reflected + self.step * self.source, ops.transpose(self.resolvent))
        other = 2.0 * middle - reflected
        return self.activation(other), other


def equation(
    operator: MonotoneOperator, source: Any, activation: Field, solver: str, *, adjoint: bool
) -> _Equation:
    """Return the equation of an equilibrium, or of its cotangent.

    Args:
        operator: W.
        source: c, or v.
        activation: relu, or D.
        solver: `"peaceman_rachford"` (dense) or `"forward_backward"`.
        adjoint: whether W' takes the place of W.
    """
    apply = operator.transposed if adjoint else operator.apply
    if solver == "forward_backward":
        step = 0.45 / operator.lipschitz()
        return _Equation(apply, source, activation, step, None)
    # (1 + a) I - a W, row by row: W' of the rows of I is W.
    identity = ops.eye(source.shape[-1], dtype=source.dtype)
    matrix = ops.transpose(apply(identity))
    resolvent = ops.linalg.inv(2.0 * identity - matrix)
    return _Equation(apply, source, activation, 1.0, resolvent)


class _Progress(NamedTuple):
    count: Any
    state: Any
    other: Any
    square: Any
    size: Any
    spent: Any


def solve_equation(problem: _Equation, iterations: int, tolerance: float) -> tuple[Any, SolveInfo]:
    """Return z and its certificate; an item whose residual is small enough stands still."""
    zero = ops.zeros_like(problem.source)
    first = _sum(problem.residual(zero))
    other = zero if problem.resolvent is not None else -problem.source
    count = ops.convert_to_tensor(0, "int32")
    begin = _Progress(count, zero, other, first, first, ops.cast(0 * first, "int32"))
    end = _Progress(
        *ops.while_loop(
            lambda *now: ops.logical_and(now[0] < iterations, ops.any(_open(now, tolerance))),
            lambda *now: tuple(_block(problem, _Progress(*now), tolerance)),
            tuple(begin),
            maximum_iterations=-(-iterations // CHECK_EVERY),
        )
    )
    good = ops.where(_open(end, tolerance), Status.NOT_CONVERGED.value, Status.OK.value)
    status = ops.where(ops.isfinite(end.square), good, Status.DIVERGED.value)
    residual = ops.sqrt(end.square)
    relative = residual / ops.sqrt(ops.maximum(end.size, LEAST))
    info = SolveInfo(ops.cast(status, "int32"), end.spent, residual, relative)
    return end.state, info


def _sum(field: Any) -> Any:
    return ops.sum(ops.square(field), axis=tuple(range(1, len(field.shape))))


def _open(now: Any, tolerance: float) -> Any:
    square, size = now[3], now[4]
    return ops.logical_not(square <= tolerance**2 * size)


def _block(problem: _Equation, now: _Progress, tolerance: float) -> _Progress:
    """A few steps and a check."""
    state, other = now.state, now.other
    for _ in range(CHECK_EVERY):
        state, other = problem.move(state, other)
    going = _open(now, tolerance)
    moving = ops.reshape(going, (-1, *[1] * (len(state.shape) - 1)))
    state = ops.where(moving, state, now.state)
    other = ops.where(moving, other, now.other)
    square = _sum(problem.residual(state))
    # Relative to the solution, or to the source where the solution is 0.
    size = ops.maximum(_sum(state), _sum(problem.activation(problem.source)))
    spent = now.spent + CHECK_EVERY * ops.cast(going, "int32")
    return _Progress(now.count + CHECK_EVERY, state, other, square, size, spent)


class EquilibriumOptions(NamedTuple):
    """How an equilibrium is solved and differentiated.

    Attributes:
        solver: `"peaceman_rachford"` (dense W) or `"forward_backward"`.
        adjoint: `"splitting"`, the same for the cotangent, or `"gmres"`.
        iterations: at most so many, of the equilibrium.
        tolerance: relative residual, in both directions.
        adjoint_iterations: at most so many, of the derivative.
    """

    solver: str = "peaceman_rachford"
    adjoint: str = "splitting"
    iterations: int = 2000
    tolerance: float = 1e-6
    adjoint_iterations: int = 2000


def equilibrium(
    operator: MonotoneOperator, source: Any, options: EquilibriumOptions
) -> tuple[Any, SolveInfo]:
    """Return z = relu(W z + c), once differentiable in W and c, and its certificate.

    Args:
        operator: W.
        source: c (B, ..., n).
        options: how to solve.
    """
    fixed = MonotoneOperator(
        ops.stop_gradient(operator.symmetric), ops.stop_gradient(operator.skew), operator.margin
    )
    still = ops.stop_gradient(source)
    problem = equation(fixed, still, ops.relu, options.solver, adjoint=False)
    state, info = solve_equation(problem, options.iterations, options.tolerance)
    state = ops.stop_gradient(state)
    before = operator.apply(state) + source
    rest = tuple(range(1, len(state.shape)))
    margin = ops.min(ops.abs(ops.stop_gradient(before)), axis=rest)
    return _attached(before, state, fixed, options), info._replace(kink_margin=margin)


def _attached(before: Any, state: Any, operator: MonotoneOperator, options: Any) -> Any:
    """The state, whose cotangent v goes on to W z + c as h."""

    @ops.custom_gradient
    def attach(before: Any, state: Any, symmetric: Any, skew: Any) -> tuple[Any, Any]:
        def gradient(*upstream: Any) -> tuple[Any, ...]:
            here = MonotoneOperator(symmetric, skew, operator.margin)
            found, _ = equilibrium_adjoint(here, state, upstream[0], options)
            found = once(found, upstream[0], before)
            return found, *(ops.zeros_like(tensor) for tensor in (state, symmetric, skew))

        return state + 0.0, gradient

    return attach(before, state, operator.symmetric, operator.skew)


def equilibrium_adjoint(
    operator: MonotoneOperator, state: Any, cotangent: Any, options: EquilibriumOptions
) -> tuple[Any, Any]:
    """Return h = D (W' h + v) and the certificate of its solve.

    An item whose residual stays above `tolerance` and 1 % is NaN: a wrong derivative shows.

    Args:
        operator: W.
        state: the equilibrium z.
        cotangent: v.
        options: how to solve.
    """
    active = ops.cast(state > 0, state.dtype)
    info: SolveInfo | LinearInfo
    if options.adjoint == "gmres":
        found, info = gmres(
            lambda h: h - active * operator.transposed(h),
            active * cotangent,
            tol=options.tolerance,
            max_iterations=options.adjoint_iterations,
        )
    else:
        problem = equation(operator, cotangent, lambda h: active * h, options.solver, adjoint=True)
        found, info = solve_equation(problem, options.adjoint_iterations, options.tolerance)
    solved = ops.logical_or(info.status == Status.OK.value, info.relative_residual <= 0.01)
    good = ops.reshape(solved, (-1, *[1] * (len(state.shape) - 1)))
    return ops.where(good, found, math.nan), info
