"""The answer of x = T(x, theta), and its derivative to theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robustseg.optimize._adjoint import (
    Adjoint,
    Implicit,
    Neumann,
    OneStep,
    Unrolled,
    attach,
    neumann_sum,
    solve_adjoint,
)
from keras_robustseg.optimize._info import SolveInfo, Status, warn_unless_ok, worse
from keras_robustseg.optimize._iterate import FixedPointIteration, Iteration, iterate, report
from keras_robustseg.optimize._linear import TINY, default_tol, epsilon, norm
from keras_robustseg.optimize._problem import (
    Problem,
    Tensors,
    in_graph,
    make_problem,
    require_tensorflow,
    vjp,
)
from keras_robustseg.optimize._trace import refuse_closures
from keras_robustseg.optimize._unroll import check_unrollable, unroll

# A truncated adjoint that misses more than this of a fixed cotangent is not passed over in silence.
TOLERATED_TRUNCATION = 0.1


def fixed_point(
    T: Callable[..., Any],
    x0: Any,
    params: Any = (),
    *,
    solver: Iteration | None = None,
    adjoint: Adjoint | None = None,
    active_set: Callable[[Any], Any] | None = None,
    batch_axes: int = 0,
) -> tuple[Any, SolveInfo]:
    """Return x with x = T(x, *params), differentiable to `params`, and its certificate.

    Problem (T), solver and derivative are separate: any solver may find x, and the derivative is
    that of the solution map, not of the solver (but for `Unrolled`). T must be piecewise smooth and
    locally Lipschitz (everything made of relu, clip, sort, norms, proximal operators is).

    TensorFlow only; in eager mode, `tf.function`, with XLA, inside layers and SavedModels.

    Args:
        T: (x, *params) -> x, of the structure, shapes and type of `x0`; where `params` is neither a
            tuple nor a list, (x, params) -> x. It may use no other tensors or variables.
        x0: first point: a float32 or float64 tensor, or a structure of them.
        params: tensors that T depends on: a tuple or list, which T gets as so many arguments, or
            one tensor or dictionary, which T gets as one.
        solver: `FixedPointIteration` (the default), or `AndersonIteration`.
        adjoint: `Implicit` (the default), `Unrolled`, `OneStep` or `Neumann`.
        active_set: x -> bool tensor, shape (*batch, ...), to count its changes by.
        batch_axes: how many leading axes of every tensor of `x0` number separate problems, each of
            which stops by itself and has its own figures. 0: all is one problem.

    Returns:
        x, of the structure of `x0`, and `SolveInfo` whose figures have the shape of the batch axes.
        A status that is not OK warns outside compiled functions.

    Raises:
        ValueError: T uses tensors that are not its arguments, or changes shapes; input is not
            finite; momentum would be unrolled.

    Example:
        >>> x, info = fixed_point(lambda x, a: 0.5 * x + a, tf.zeros(3), tf.ones(3))  # [2, 2, 2]
    """
    require_tensorflow("fixed_point")
    rule, adjoint = solver or FixedPointIteration(), adjoint or Implicit()
    _check_types(rule, adjoint)
    problem, xs, ps = make_problem(T, x0, params, batch_axes)
    refuse_closures(problem.function, xs, ps, "T")
    pattern = _pattern(active_set, problem, xs, x0)
    if isinstance(adjoint, Unrolled):
        points, info = _unrolled(problem, rule, adjoint, xs, ps)
    else:
        fixed_xs, fixed_ps = [tf.stop_gradient(x) for x in xs], [tf.stop_gradient(p) for p in ps]
        points, info = _solve(problem, rule, fixed_xs, fixed_ps, pattern)
        points, info = differentiable(problem, adjoint, points, ps, info)
    info = in_batch_shape(problem, info, xs)
    warn_unless_ok(info, "fixed_point", 3)
    return tf.nest.pack_sequence_as(x0, points), info


def _solve(
    problem: Problem, rule: Iteration, xs: Tensors, ps: Tensors, pattern: Any
) -> tuple[Tensors, SolveInfo]:
    def solve(*tensors: Any) -> tuple[Tensors, SolveInfo]:
        points, given = list(tensors[: len(xs)]), list(tensors[len(xs) :])
        state = iterate(rule, problem.mapping(points, given), problem.pack(points), pattern)
        return problem.unpack(state.tx, points), report(rule, state, pattern is not None)

    return in_graph(solve, *xs, *ps)


def _check_types(rule: Any, adjoint: Any) -> None:
    if not isinstance(rule, Iteration):
        raise TypeError(
            f"`solver` must be a FixedPointIteration or AndersonIteration. Received: {rule!r}."
        )
    if not isinstance(adjoint, Adjoint):
        raise TypeError(
            f"`adjoint` must be Implicit, Unrolled, OneStep or Neumann. Received: {adjoint!r}."
        )


def in_batch_shape(problem: Problem, info: SolveInfo, xs: Tensors) -> SolveInfo:
    """Return the certificate with every figure, measured or not, in the shape of the batch."""

    def shaped(value: Any) -> Any:
        value = tf.convert_to_tensor(value)
        if value.shape.rank == 0:  # not measured
            kind = info.residual.dtype if value.dtype.is_floating else tf.int32
            value = tf.fill(tf.shape(info.status), tf.cast(value, kind))
        return tf.stop_gradient(problem.figure(value, xs))

    return SolveInfo(*(shaped(value) for value in info))


def _pattern(active_set: Any, problem: Problem, xs: Tensors, x0: Any) -> Any:
    if active_set is None:
        return None

    def flags(packed: Any) -> Any:
        found = active_set(tf.nest.pack_sequence_as(x0, problem.unpack(packed, xs)))
        return tf.reshape(tf.cast(found, "bool"), (tf.shape(packed)[0], -1))

    return flags


def differentiable(
    problem: Problem,
    adjoint: Implicit | Neumann | OneStep,
    points: Tensors,
    ps: Tensors,
    info: SolveInfo,
) -> tuple[Tensors, SolveInfo]:
    """Return the answer with its derivative, and the certificate with that of the adjoint."""
    points = [tf.stop_gradient(x) for x in points]
    fixed = [tf.stop_gradient(p) for p in ps]
    if isinstance(adjoint, Implicit):
        if adjoint.probe:
            info = _probe(problem, adjoint, points, fixed, info)
    else:
        info = _probe_truncation(problem, adjoint, points, fixed, info)
    return (attach(problem, adjoint, points, ps) if ps else points), info


def _cotangent(problem: Problem, points: Tensors) -> Any:
    """Return a fixed direction (items, unknowns) with no zeros and no symmetry."""
    packed = problem.pack(points)
    count = tf.range(1, packed.shape[1] + 1, dtype=packed.dtype)
    return tf.zeros_like(packed) + 1.5 + tf.cos(1.7 * count * count)


def _probe(
    problem: Problem, adjoint: Implicit, points: Tensors, ps: Tensors, info: SolveInfo
) -> SolveInfo:
    """Return the certificate with the residual of one adjoint, and what kinks are near."""
    direction = _cotangent(problem, points)
    _, linear = solve_adjoint(problem, adjoint, points, ps, problem.unpack(direction, points))
    failed = (linear.status != int(Status.OK))[:, None]
    status = worse(info.status, tf.where(failed, int(Status.SINGULAR), int(Status.OK)))
    kink = tf.logical_or(_near_kink(problem, points, ps), _bends(problem, points, ps))
    kinked = tf.where(kink, int(Status.NEAR_KINK), int(Status.OK))
    return info._replace(
        status=worse(status, kinked), adjoint_residual=linear.relative_residual[:, None]
    )


def _near_kink(problem: Problem, points: Tensors, ps: Tensors) -> Any:
    """Return whether J^T changes by more than rounding within rounding distance, (items, 1)."""
    packed, direction = problem.pack(points), _cotangent(problem, points)
    reach = epsilon(packed) ** 0.5
    # The cosine makes signs that differ from entry to entry.
    shift = reach * _size_of_items(packed) * (direction - 1.5)

    def back(at: Any) -> Any:
        at, cotangents = problem.unpack(at, points), problem.unpack(direction, points)
        return problem.pack(vjp(lambda *x: problem.function(list(x), ps), at, cotangents))

    jump = norm(back(packed + shift) - back(packed - shift))
    return jump > 100.0 * reach * norm(direction)


def _bends(problem: Problem, points: Tensors, ps: Tensors) -> Any:
    """Return whether T bends within rounding distance of point and parameters, (items, 1).

    A kink in a parameter leaves J_x as it is. Where T is smooth the second difference over a step
    h is of the size of h^2, and at a kink of that of h.
    """
    packed = problem.pack(points)
    reach = epsilon(packed) ** 0.5
    size = _size_of_items(packed)
    shifts = [_pattern_like(p) * reach for p in ps]
    along = reach * size * (_cotangent(problem, points) - 1.5)

    def image(sign: float) -> Any:
        given = [p + sign * shift for p, shift in zip(ps, shifts, strict=True)]
        return problem.mapping(points, given)(packed + sign * along)

    bend = norm(image(1.0) + image(-1.0) - 2.0 * image(0.0))
    return bend > 0.02 * reach * size


def _size_of_items(packed: Any) -> Any:
    """The largest entry of each item, (items, 1), and 1 for an item that is 0."""
    size = tf.reduce_max(tf.abs(packed), axis=1, keepdims=True)
    return tf.where(size > 0, size, tf.ones_like(size))


def _pattern_like(tensor: Any) -> Any:
    """Numbers of the tensor's size with signs that differ from entry to entry."""
    count = tf.cast(tf.range(1, tf.size(tensor) + 1), tensor.dtype)
    size = tf.reduce_max(tf.abs(tensor))
    size = tf.where(size > 0, size, tf.ones_like(size))
    return size * tf.reshape(tf.cos(1.3 * count * count), tf.shape(tensor))


def _probe_truncation(
    problem: Problem, adjoint: Neumann | OneStep, points: Tensors, ps: Tensors, info: SolveInfo
) -> SolveInfo:
    """Return the certificate with what the truncated series leaves out of a fixed cotangent."""
    direction = _cotangent(problem, points)
    cotangents = problem.unpack(direction, points)
    _, last = neumann_sum(problem, points, ps, cotangents, adjoint.terms + 1)
    missing = norm(problem.pack(last)) / norm(direction)
    status = tf.where(missing > TOLERATED_TRUNCATION, int(Status.NOT_CONVERGED), int(Status.OK))
    status = tf.where(missing < 1.0, status, int(Status.DIVERGED))
    return info._replace(status=worse(info.status, status), adjoint_residual=missing)


def _unrolled(
    problem: Problem, rule: Iteration, adjoint: Unrolled, xs: Tensors, ps: Tensors
) -> tuple[Tensors, SolveInfo]:
    check_unrollable(rule, adjoint)
    assert isinstance(rule, FixedPointIteration)
    points = unroll(problem, rule, adjoint, xs, ps)
    fixed = [tf.stop_gradient(x) for x in points]
    mapping = problem.mapping(fixed, [tf.stop_gradient(p) for p in ps])
    x = problem.pack(fixed)
    image = mapping(x)
    residual, following = norm(image - x), norm(mapping(image) - image)
    relative = residual / tf.maximum(norm(x), TINY)
    relative = tf.where(residual > 0, relative, tf.zeros_like(relative))
    solved = relative <= (default_tol(x) if rule.tol is None else rule.tol)
    status = tf.where(solved, int(Status.OK), int(Status.NOT_CONVERGED))
    status = tf.where(tf.math.is_finite(residual), status, int(Status.DIVERGED))
    if not rule.is_plain:
        status = tf.fill(tf.shape(status), int(Status.FORBIDDEN_MOMENTUM))
    return points, SolveInfo(
        status,
        iterations=tf.fill(tf.shape(status), adjoint.steps),
        residual=residual,
        relative_residual=relative,
        contraction=tf.math.divide_no_nan(following, residual),
    )
