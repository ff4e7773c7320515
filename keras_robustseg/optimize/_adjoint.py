"""How a derivative goes through the answer of a fixed-point problem: four ways to choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robustseg.optimize._gmres import gmres
from keras_robustseg.optimize._info import LinearInfo, Status, warn_unless_ok
from keras_robustseg.optimize._krylov import bicgstab, cg, normal_cg
from keras_robustseg.optimize._linear import check_positive
from keras_robustseg.optimize._problem import Problem, Tensors, in_graph, vjp
from keras_robustseg.optimize._series import anderson, neumann

LINEAR_SOLVERS: dict[str, Callable[..., Any]] = {
    "gmres": gmres,
    "cg": cg,
    "bicgstab": bicgstab,
    "normal_cg": normal_cg,
    "anderson": anderson,
    "neumann": neumann,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implicit:
    """dx/dtheta by the implicit function theorem: memory does not grow with the iterations.

    The cotangent v is carried through (I - J_x^T) w = v, then J_theta^T w, at the answer. For
    nonsmooth T this is an element of the conservative Jacobian wherever I - J_x is invertible for
    every element J_x (Bolte, Le, Pauwels, Silveti-Falls, NeurIPS 2021). Right to every order.

    Args:
        solver: "gmres", "bicgstab", "normal_cg", "anderson", "neumann", "cg" (only where J_x is
            symmetric), or a callable (matvec, b, tol=, max_iterations=, batch_axes=) -> (x, info).
        tol: relative residual of the adjoint; by default 1e-6 in float32, 1e-12 in float64.
        max_iterations: bound on its iterations.
        on_failure: what an adjoint that was not solved does: "warn" (outside compiled functions),
            or "nan": the gradient of the item is NaN, also in compiled functions, for a finite
            guard to catch.
        probe: solve one more adjoint, of a fixed cotangent, along with the forward problem, and
            look for a kink within rounding distance; the certificate then has `adjoint_residual`,
            and the status can be SINGULAR or NEAR_KINK.

    Raises:
        ValueError: an unknown solver, or a number out of its range.

    Example:
        `fixed_point(T, x0, params, adjoint=Implicit(solver="bicgstab", probe=True))`
    """

    solver: str | Callable[..., Any] = "gmres"
    tol: float | None = None
    max_iterations: int = 500
    on_failure: str = "warn"
    probe: bool = False

    def __post_init__(self) -> None:
        check_positive(tol=self.tol, max_iterations=self.max_iterations)
        if isinstance(self.solver, str) and self.solver not in LINEAR_SOLVERS:
            raise ValueError(
                f"`solver` must be one of {sorted(LINEAR_SOLVERS)} or a callable. "
                f"Received: {self.solver!r}."
            )
        if self.on_failure not in ("warn", "nan"):
            raise ValueError(
                f'`on_failure` must be "warn" or "nan". Received: {self.on_failure!r}.'
            )


@dataclasses.dataclass(frozen=True)
class Neumann:
    """dx/dtheta by the first `terms` + 1 terms of the Neumann series: opt-in, and approximate.

    Its relative error is about rho^(terms + 1), rho the contraction; it diverges for rho > 1. The
    certificate's `adjoint_residual` says how much is missing for a fixed cotangent.

    Args:
        terms: applications of J_x^T, at least 0.

    Raises:
        ValueError: `terms` is negative.

    Example:
        `fixed_point(T, x0, params, adjoint=Neumann(10))`
    """

    terms: int

    def __post_init__(self) -> None:
        if self.terms < 0:
            raise ValueError(f"`terms` must be at least 0. Received: {self.terms!r}.")


@dataclasses.dataclass(frozen=True)
class OneStep:
    """dx/dtheta of one application of T, "Jacobian-free": `Neumann(0)`.

    Off by a relative error of about the contraction of T: right only where T contracts strongly
    (Bolte, Pauwels, Vaiter, NeurIPS 2023).

    Example:
        `fixed_point(T, x0, params, adjoint=OneStep())`
    """

    terms: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """dx/dtheta of a fixed number of iterations from x0, by automatic differentiation.

    Converges to the implicit derivative, at the rate of the iterates, where every element of the
    Jacobian of T contracts in one norm (Bolte, Pauwels, Vaiter, NeurIPS 2022). Momentum is not
    covered, and is refused.

    Args:
        steps: iterations, all of which are run.
        checkpoint: keep only every so manieth iterate and compute the others again; memory is
            then steps / checkpoint + checkpoint iterates instead of `steps`.
        force_momentum: unroll through momentum all the same; the status is FORBIDDEN_MOMENTUM.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `fixed_point(T, x0, params, adjoint=Unrolled(100, checkpoint=10))`
    """

    steps: int
    checkpoint: int | None = None
    force_momentum: bool = False

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, checkpoint=self.checkpoint)


Adjoint = Implicit | Neumann | OneStep | Unrolled


def solve_adjoint(
    problem: Problem, adjoint: Implicit, xs: Tensors, ps: Tensors, vs: Tensors
) -> tuple[Tensors, LinearInfo]:
    """Solve (I - J_x^T) w = v at a point; not differentiable itself."""
    n, m = len(xs), len(ps)

    def solve(*tensors: Any) -> tuple[Any, LinearInfo]:
        points, given, right = tensors[:n], list(tensors[n : n + m]), tensors[n + m :]

        def matvec(u: Any) -> Any:
            cotangents = problem.unpack(u, points)
            back = vjp(lambda *at: problem.function(list(at), given), points, cotangents)
            return u - problem.pack(back)

        return linear_solve(adjoint, matvec, problem.pack(right))

    w, info = in_graph(solve, *xs, *ps, *vs)
    warn_of_adjoint(adjoint, info)
    return problem.unpack(w, xs), info


def warn_of_adjoint(adjoint: Implicit, info: LinearInfo) -> None:
    """Warn of a linear system that was not solved, outside compiled functions."""
    if adjoint.on_failure == "warn":
        warn_unless_ok(info, "An adjoint system was not solved, so a gradient is not exact", 4)


def linear_solve(
    adjoint: Implicit, matvec: Callable[[Any], Any], right: Any
) -> tuple[Any, LinearInfo]:
    """Solve with the solver that an `Implicit` names, for (items, unknowns)."""
    solver = adjoint.solver
    solver = LINEAR_SOLVERS[solver] if isinstance(solver, str) else solver
    bounds = {"tol": adjoint.tol, "max_iterations": adjoint.max_iterations}
    w, info = solver(matvec, right, batch_axes=1, **bounds)
    if adjoint.on_failure == "nan":
        failed = (info.status != int(Status.OK))[:, None]
        return tf.where(failed, tf.constant(float("nan"), w.dtype), w), info
    return w, info


def attach(
    problem: Problem, adjoint: Implicit | Neumann | OneStep, xs: Tensors, ps: Tensors
) -> Tensors:
    """Return the answer `xs` with the derivative to `ps` that the adjoint defines.

    The values are those of `xs`. The backward pass calls this function again on the way, so that
    it can be differentiated in its turn.
    """
    count = len(xs)

    @tf.custom_gradient
    def answer(*tensors: Any) -> Any:
        points, parameters = list(tensors[:count]), list(tensors[count:])

        def backward(*cotangents: Any) -> Any:
            rule = _implicit if isinstance(adjoint, Implicit) else _truncated
            return [None] * count + rule(problem, adjoint, points, parameters, list(cotangents))

        return [tf.identity(point) for point in points], backward

    return list(answer(*[tf.stop_gradient(x) for x in xs], *ps))


def _implicit(problem: Problem, adjoint: Any, xs: Tensors, ps: Tensors, vs: Tensors) -> Tensors:
    fixed = [[tf.stop_gradient(t) for t in group] for group in (xs, ps, vs)]
    ws, _ = solve_adjoint(problem, adjoint, *fixed)
    # w is itself the fixed point of w = v + J_x^T w: that is its derivative.
    xs = attach(problem, adjoint, xs, ps)
    n, m = len(xs), len(ps)

    def recursion(points: Tensors, given: Tensors) -> Tensors:
        at, parameters, right = given[:n], given[n : n + m], given[n + m :]
        back = vjp(lambda *x: problem.function(list(x), parameters), at, points)
        return [v + j for v, j in zip(right, back, strict=True)]

    adjoint_problem = dataclasses.replace(problem, function=recursion)
    ws = attach(adjoint_problem, adjoint, ws, [*xs, *ps, *vs])
    return vjp(lambda *p: problem.function(xs, list(p)), ps, ws)


def _truncated(problem: Problem, adjoint: Any, xs: Tensors, ps: Tensors, vs: Tensors) -> Tensors:
    ws, _ = neumann_sum(problem, xs, ps, vs, adjoint.terms)
    return _refuse_second_order(vjp(lambda *p: problem.function(xs, list(p)), ps, ws))


def neumann_sum(
    problem: Problem, xs: Tensors, ps: Tensors, vs: Tensors, terms: int
) -> tuple[Tensors, Tensors]:
    """Return sum over j <= terms of (J^T)^j v, and the last term."""

    def step(count: Any, total: Any, term: Any) -> Any:
        term = vjp(lambda *points: problem.function(list(points), ps), xs, term)
        return count + 1, [s + t for s, t in zip(total, term, strict=True)], term

    start = (tf.constant(0), list(vs), list(vs))
    _, total, term = tf.while_loop(
        lambda count, *_: count < terms, step, start, maximum_iterations=terms
    )
    return total, term


@tf.custom_gradient
def _identity_once(*tensors: Any) -> Any:
    def refuse(*cotangents: Any) -> Any:
        raise ValueError(
            "OneStep and Neumann have no second derivative: what they leave out of the first "
            "would be missing in it. Use `adjoint=Implicit()`, which is right to every order."
        )

    return [tf.identity(t) for t in tensors], refuse


def _refuse_second_order(tensors: Tensors) -> Tensors:
    return list(_identity_once(*tensors)) if tensors else []
