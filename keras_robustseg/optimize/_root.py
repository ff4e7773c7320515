"""The answer of F(x, theta) = 0, its derivative, and the derivative rules as plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robustseg.optimize._adjoint import (
    Implicit,
    linear_solve,
    solve_adjoint,
    warn_of_adjoint,
)
from keras_robustseg.optimize._fixed_point import differentiable, in_batch_shape
from keras_robustseg.optimize._gmres import gmres
from keras_robustseg.optimize._info import LinearInfo, SolveInfo, Status, warn_unless_ok
from keras_robustseg.optimize._linear import TINY, check_positive, default_tol, norm
from keras_robustseg.optimize._problem import (
    Problem,
    Tensors,
    as_tensors,
    in_graph,
    jvp,
    make_problem,
    require_tensorflow,
    vjp,
)
from keras_robustseg.optimize._trace import refuse_closures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newton:
    """Newton's method with GMRES on Jacobian-vector products and a halved step where it overshoots.

    For nonsmooth F it is the semismooth Newton method (Qi and Sun 1993).

    Args:
        tol: stop at ||F(x)|| <= tol * max(||F(x0)||, ||x||); by default 1e-6 in float32, 1e-12 in
            float64.
        max_iterations: bound on the Newton steps.
        linear_iterations: bound on applications of the Jacobian per step.
        halvings: bound on the halvings of a step.

    Raises:
        ValueError: a number that is not positive.

    Example:
        `root(F, x0, params, solver=Newton(max_iterations=30))`
    """

    tol: float | None = None
    max_iterations: int = 50
    linear_iterations: int = 200
    halvings: int = 12

    def __post_init__(self) -> None:
        check_positive(**dataclasses.asdict(self))

    def solve(self, function: Callable[[Any], Any], x: Any) -> tuple[Any, SolveInfo]:
        """Return the root of a function of (items, unknowns) and its certificate."""
        tol = default_tol(x) if self.tol is None else self.tol
        first = norm(function(x))

        def open_items(x: Any, now: Any, before: Any, stuck: Any, k: Any) -> Any:
            return tf.logical_and(now > tol * tf.maximum(first, norm(x)), tf.logical_not(stuck))

        def step(x: Any, now: Any, before: Any, stuck: Any, k: Any) -> tuple[Any, ...]:
            go = open_items(x, now, before, stuck, k)
            moved, after = self._search(function, x, self._direction(function, x), now, go)
            better = tf.logical_and(go, after < now)
            stuck = tf.logical_or(stuck, tf.logical_and(go, tf.logical_not(better)))
            x, new = tf.where(better, moved, x), tf.where(better, after, now)
            return x, new, tf.where(better, now, before), stuck, k + tf.cast(go, tf.int32)

        state = (x, first, first, first < 0, tf.zeros_like(first, dtype=tf.int32))
        x, now, before, _, k = tf.while_loop(
            lambda *s: tf.reduce_any(open_items(*s)),
            step,
            state,
            maximum_iterations=self.max_iterations,
        )
        relative = now / tf.maximum(tf.maximum(first, norm(x)), TINY)
        status = tf.where(relative <= tol, int(Status.OK), int(Status.NOT_CONVERGED))
        status = tf.where(tf.math.is_finite(now), status, int(Status.DIVERGED))
        ratio = tf.math.divide_no_nan(now, before)
        figures = {"residual": now, "relative_residual": relative, "contraction": ratio}
        return x, SolveInfo(status, iterations=k, **figures)

    def _direction(self, function: Callable[[Any], Any], x: Any) -> Any:
        value = function(x)
        # Where F(x) is not finite there is no direction, and the item stops.
        sound = tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))
        step, _ = gmres(
            lambda u: jvp(function, [x], [u]),
            -sound,
            max_iterations=self.linear_iterations,
            restart=min(self.linear_iterations, 50),
            batch_axes=1,
        )
        return step

    def _search(
        self, function: Callable[[Any], Any], x: Any, step: Any, now: Any, go: Any
    ) -> tuple[Any, Any]:
        """Halve the step of each item until ||F|| falls."""

        def too_long(scale: Any, after: Any) -> Any:
            return tf.logical_and(go, tf.logical_not(after < now))

        def halve(scale: Any, after: Any) -> tuple[Any, Any]:
            scale = tf.where(too_long(scale, after), 0.5 * scale, scale)
            return scale, norm(function(x + scale * step))

        start = (tf.ones_like(now), norm(function(x + step)))
        scale, after = tf.while_loop(
            lambda *s: tf.reduce_any(too_long(*s)), halve, start, maximum_iterations=self.halvings
        )
        return x + scale * step, after


def root(
    F: Callable[..., Any],
    x0: Any,
    params: Any = (),
    *,
    solver: Newton | None = None,
    adjoint: Implicit | None = None,
    batch_axes: int = 0,
) -> tuple[Any, SolveInfo]:
    """Return x with F(x, *params) = 0, differentiable to `params`, and its certificate.

    dx/dtheta = -F_x^-1 F_theta, also where F is piecewise smooth. TensorFlow only.

    Args:
        F: (x, *params) -> value of the structure, shapes and type of `x0`.
        x0, params, batch_axes: as for `fixed_point`.
        solver: `Newton`.
        adjoint: `Implicit`.

    Returns and Raises are those of `fixed_point`.

    Example:
        >>> x, info = root(lambda x, a: x**3 - a, tf.ones(2), tf.constant([8.0, 27.0]))  # [2, 3]
    """
    require_tensorflow("root")
    newton, adjoint = solver or Newton(), adjoint or Implicit()
    if not isinstance(newton, Newton) or not isinstance(adjoint, Implicit):
        raise TypeError(
            f"`solver` must be a Newton, `adjoint` an Implicit. Received: {solver!r}, {adjoint!r}."
        )
    problem, xs, ps = _residual_problem(F, x0, params, batch_axes)
    refuse_closures(problem.function, xs, ps, "F")
    fixed_xs, fixed_ps = [tf.stop_gradient(x) for x in xs], [tf.stop_gradient(p) for p in ps]

    def solve(*tensors: Any) -> tuple[Any, SolveInfo]:
        mapping = problem.mapping(tensors[: len(xs)], list(tensors[len(xs) :]))
        return newton.solve(lambda x: x - mapping(x), problem.pack(tensors[: len(xs)]))

    x, info = in_graph(solve, *fixed_xs, *fixed_ps)
    points, info = differentiable(problem, adjoint, problem.unpack(x, xs), ps, info)
    info = in_batch_shape(problem, info, xs)
    warn_unless_ok(info, "root", 3)
    return tf.nest.pack_sequence_as(x0, points), info


def _residual_problem(
    F: Callable[..., Any], x0: Any, params: Any, batch_axes: int
) -> tuple[Problem, Tensors, Tensors]:
    """Return F(x) = 0 as the fixed-point problem x = x - F(x), so that I - J is F_x."""
    problem, xs, ps = make_problem(F, x0, params, batch_axes)

    def shifted(points: Tensors, given: Tensors) -> Tensors:
        return [x - f for x, f in zip(points, problem.function(points, given), strict=True)]

    return dataclasses.replace(problem, function=shifted), xs, ps


def fixed_point_vjp(
    T: Callable[..., Any],
    x: Any,
    params: Any,
    cotangent: Any,
    *,
    adjoint: Implicit | None = None,
    batch_axes: int = 0,
) -> tuple[Any, LinearInfo]:
    """Return J^T v of the solution map theta -> x of x = T(x, *params), at a known x.

    Args:
        T, params, batch_axes: as for `fixed_point`.
        x: the answer.
        cotangent: v, of the structure of `x`.
        adjoint: `Implicit`, how the linear system is solved.

    Returns:
        The cotangents, of the structure of `params`, and the certificate of the linear solve.

    Raises:
        ValueError: as `fixed_point`.

    Example:
        >>> back, info = fixed_point_vjp(T, x, (a, b), v)
    """
    require_tensorflow("fixed_point_vjp")
    return _vjp(make_problem(T, x, params, batch_axes), params, cotangent, adjoint)


def root_vjp(
    F: Callable[..., Any],
    x: Any,
    params: Any,
    cotangent: Any,
    *,
    adjoint: Implicit | None = None,
    batch_axes: int = 0,
) -> tuple[Any, LinearInfo]:
    """Return J^T v of the solution map theta -> x of F(x, *params) = 0, at a known x.

    Args, Returns and Raises are those of `fixed_point_vjp`, with F for T.

    Example:
        >>> back, info = root_vjp(F, x, (a, b), v)
    """
    require_tensorflow("root_vjp")
    return _vjp(_residual_problem(F, x, params, batch_axes), params, cotangent, adjoint)


def _vjp(
    problem_at: tuple[Problem, Tensors, Tensors], params: Any, cotangent: Any, adjoint: Any
) -> tuple[Any, LinearInfo]:
    problem, xs, ps = problem_at
    refuse_closures(problem.function, xs, ps, "The map")
    vs = _like("cotangent", cotangent, xs)
    ws, info = solve_adjoint(problem, adjoint or Implicit(), xs, ps, vs)
    back = vjp(lambda *given: problem.function(xs, list(given)), ps, ws)
    return tf.nest.pack_sequence_as(params, back), _shaped(problem, info, xs)


def fixed_point_jvp(
    T: Callable[..., Any],
    x: Any,
    params: Any,
    tangents: Any,
    *,
    adjoint: Implicit | None = None,
    batch_axes: int = 0,
) -> tuple[Any, LinearInfo]:
    """Return J u of the solution map theta -> x of x = T(x, *params), at a known x.

    `tf.autodiff.ForwardAccumulator` does not see through custom gradients; this does.

    Args:
        T, params, batch_axes: as for `fixed_point`.
        x: the answer.
        tangents: u, of the structure of `params`.
        adjoint: `Implicit`, how the linear system is solved.

    Returns:
        The tangent, of the structure of `x`, and the certificate of the linear solve.

    Raises:
        ValueError: as `fixed_point`.

    Example:
        >>> tangent, info = fixed_point_jvp(T, x, (a, b), (da, db))
    """
    require_tensorflow("fixed_point_jvp")
    return _jvp(make_problem(T, x, params, batch_axes), x, tangents, adjoint)


def root_jvp(
    F: Callable[..., Any],
    x: Any,
    params: Any,
    tangents: Any,
    *,
    adjoint: Implicit | None = None,
    batch_axes: int = 0,
) -> tuple[Any, LinearInfo]:
    """Return J u of the solution map theta -> x of F(x, *params) = 0, at a known x.

    Args, Returns and Raises are those of `fixed_point_jvp`, with F for T.

    Example:
        >>> tangent, info = root_jvp(F, x, (a, b), (da, db))
    """
    require_tensorflow("root_jvp")
    return _jvp(_residual_problem(F, x, params, batch_axes), x, tangents, adjoint)


def _jvp(
    problem_at: tuple[Problem, Tensors, Tensors], x: Any, tangents: Any, adjoint: Any
) -> tuple[Any, LinearInfo]:
    problem, xs, ps = problem_at
    refuse_closures(problem.function, xs, ps, "The map")
    us = _like("tangents", tangents, ps)
    right = jvp(lambda *given: problem.function(xs, list(given)), ps, us)
    point = problem.pack(xs)

    def matvec(u: Any) -> Any:
        return u - jvp(problem.mapping(xs, ps), [point], [u])

    adjoint = adjoint or Implicit()
    tangent, info = linear_solve(adjoint, matvec, problem.pack(right))
    warn_of_adjoint(adjoint, info)
    tangent = tf.nest.pack_sequence_as(x, problem.unpack(tangent, xs))
    return tangent, _shaped(problem, info, xs)


def _like(name: str, given: Any, tensors: Tensors) -> Tensors:
    found = as_tensors(name, given)
    expected, received = ([tuple(t.shape) for t in group] for group in (tensors, found))
    if received != expected:
        raise ValueError(f"`{name}` must have the shapes {expected}. Received: {received}.")
    return [tf.cast(f, t.dtype) for f, t in zip(found, tensors, strict=True)]


def _shaped(problem: Problem, info: LinearInfo, xs: Tensors) -> LinearInfo:
    return LinearInfo(*(problem.figure(figure, xs) for figure in info))
