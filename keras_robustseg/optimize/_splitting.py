"""Splitting solvers: each is a fixed-point map of its problem, so `fixed_point` differentiates it.

Problem, solver and derivative are apart: a problem is a record of callables, a solver holds step
lengths and bounds, and `run` takes the adjoint. TensorFlow only, as `fixed_point` is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_robustseg.optimize._adjoint import Adjoint
from keras_robustseg.optimize._fixed_point import fixed_point
from keras_robustseg.optimize._info import SolveInfo
from keras_robustseg.optimize._iterate import FixedPointIteration
from keras_robustseg.optimize._linear import check_positive

Call = Callable[..., Any]


class Composite(NamedTuple):
    """min f(x) + g(x): `gradient(x, *params)` of f, `prox(x, step, *params)` of step times g."""

    gradient: Call
    prox: Call


class Sum(NamedTuple):
    """min f(x) + g(x): `prox_f(x, step, *params)` and `prox_g(x, step, *params)`."""

    prox_f: Call
    prox_g: Call


class SaddlePoint(NamedTuple):
    """min f(x) + g(K x), for the state (x, p).

    `prox_f(x, tau, *params)`, `prox_dual(p, sigma, *params)` of the conjugate of g,
    `operator(x, *params)` and `transpose(p, *params)` for K and its transpose.
    """

    prox_f: Call
    prox_dual: Call
    operator: Call
    transpose: Call


class Majorized(NamedTuple):
    """min f(x): `minimize(x, *params)` minimises a function above f that touches it at x."""

    minimize: Call


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Solver:
    tol: float | None = None
    max_iterations: int = 5000

    def __post_init__(self) -> None:
        check_positive(**{k: v for k, v in dataclasses.asdict(self).items() if k != "accelerated"})

    def _rule(self) -> FixedPointIteration:
        return FixedPointIteration(tol=self.tol, max_iterations=self.max_iterations)

    def _map(self, problem: Any) -> Call:
        raise NotImplementedError

    def _answer(self, problem: Any, state: Any, given: tuple[Any, ...]) -> Any:
        return state

    def run(
        self,
        problem: Any,
        x0: Any,
        params: tuple[Any, ...] | list[Any] = (),
        *,
        adjoint: Adjoint | None = None,
        batch_axes: int = 0,
    ) -> tuple[Any, SolveInfo]:
        """Return the answer, differentiable to `params`, and the certificate of the iteration.

        Args:
            problem: the record that the class names.
            x0: first state; see the class.
            params: tuple or list of tensors that the callables of the problem get.
            adjoint, batch_axes: as for `fixed_point`.

        Raises:
            ValueError: as `fixed_point`.
        """
        given = tuple(params)
        rule, mapping = self._rule(), self._map(problem)
        state, info = fixed_point(
            mapping, x0, given, solver=rule, adjoint=adjoint, batch_axes=batch_axes
        )
        return self._answer(problem, state, given), info


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardBackward(_Solver):
    """x <- prox_g(x - step grad f(x)), for a `Composite` (Combettes and Wajs 2005).

    Args:
        step: in (0, 2 / L), L the Lipschitz constant of the gradient.
        accelerated: extrapolate (Beck and Teboulle 2009); implicit derivatives stay those of the
            plain map, and unrolled ones are refused.
        tol, max_iterations: as for `FixedPointIteration`.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `ForwardBackward(step=0.5).run(Composite(gradient, prox), x0, (data, weight))`
    """

    step: float
    accelerated: bool = False

    def _rule(self) -> FixedPointIteration:
        momentum = "nesterov" if self.accelerated else 0.0
        return dataclasses.replace(super()._rule(), momentum=momentum)

    def _map(self, problem: Composite) -> Call:
        step = self.step
        return lambda x, *p: problem.prox(x - step * problem.gradient(x, *p), step, *p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DouglasRachford(_Solver):
    """z <- z + prox_g(2 x - z) - x with x = prox_f(z), for a `Sum` (Lions and Mercier 1979).

    Args:
        step: any positive number.
        tol, max_iterations: as for `FixedPointIteration`.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `DouglasRachford(step=1.0).run(Sum(prox_f, prox_g), z0, (data, weight))`
    """

    step: float = 1.0

    def _map(self, problem: Sum) -> Call:
        def step(z: Any, *p: Any) -> Any:
            x = problem.prox_f(z, self.step, *p)
            return z + problem.prox_g(2.0 * x - z, self.step, *p) - x

        return step

    def _answer(self, problem: Sum, state: Any, given: tuple[Any, ...]) -> Any:
        return problem.prox_f(state, self.step, *given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeacemanRachford(DouglasRachford):
    """z <- (2 prox_g - I)(2 prox_f - I) z, for a `Sum` of which one part is strongly convex.

    Faster than `DouglasRachford` where it converges: f smooth and strongly convex (Lions and
    Mercier 1979). Args and Raises are those of `DouglasRachford`.

    Example:
        `PeacemanRachford(step=1.0).run(Sum(prox_f, prox_g), z0, (data, weight))`
    """

    def _map(self, problem: Sum) -> Call:
        half = super()._map(problem)
        return lambda z, *p: 2.0 * half(z, *p) - z


@dataclasses.dataclass(frozen=True, kw_only=True)
class ADMM(_Solver):
    """x = prox_f(z - u), z <- prox_g(x + u), u <- u + x - z, for a `Sum` (Boyd et al. 2011).

    The state is the pair (z, u); the answer is z.

    Args:
        step: one over the penalty.
        tol, max_iterations: as for `FixedPointIteration`.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `ADMM(step=1.0).run(Sum(prox_f, prox_g), (z0, u0), (data, weight))`
    """

    step: float = 1.0

    def _map(self, problem: Sum) -> Call:
        def step(state: tuple[Any, Any], *p: Any) -> tuple[Any, Any]:
            z, u = state
            x = problem.prox_f(z - u, self.step, *p)
            z = problem.prox_g(x + u, self.step, *p)
            return z, u + x - z

        return step

    def _answer(self, problem: Sum, state: Any, given: tuple[Any, ...]) -> Any:
        return state[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChambollePock(_Solver):
    """x+ = prox_f(x - tau K' p), p <- prox_dual(p + sigma K (2 x+ - x)), for a `SaddlePoint`.

    Constant steps, tau sigma ||K||^2 <= 1 (Chambolle and Pock 2011). The state is the pair (x, p),
    the answer x. The dual must be unique for its derivative to exist; otherwise the adjoint is
    singular, and its smallest solution still gives the derivative of x where that exists.

    Args:
        tau, sigma: steps.
        tol, max_iterations: as for `FixedPointIteration`.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `ChambollePock(tau=0.3, sigma=0.3).run(SaddlePoint(...), (x0, p0), (data, weight))`
    """

    tau: float
    sigma: float

    def _map(self, problem: SaddlePoint) -> Call:
        def step(state: tuple[Any, Any], *p: Any) -> tuple[Any, Any]:
            x, dual = state
            new = problem.prox_f(x - self.tau * problem.transpose(dual, *p), self.tau, *p)
            dual = dual + self.sigma * problem.operator(2.0 * new - x, *p)
            return new, problem.prox_dual(dual, self.sigma, *p)

        return step

    def _answer(self, problem: SaddlePoint, state: Any, given: tuple[Any, ...]) -> Any:
        return state[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MajorizeMinimize(_Solver):
    """x <- argmin of a majorant of f at x, for a `Majorized` (Hunter and Lange 2004).

    Args:
        tol, max_iterations: as for `FixedPointIteration`.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `MajorizeMinimize().run(Majorized(minimize), x0, (data,))`
    """

    def _map(self, problem: Majorized) -> Call:
        return problem.minimize
