"""The relaxed Potts problem as a function that differentiates."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops, tree

from keras_robustseg.optimize import _potts_adjoint as _adjoint
from keras_robustseg.optimize._arguments import invalid_argument
from keras_robustseg.optimize._info import LinearInfo, SolveInfo, is_concrete, warn_unless_ok
from keras_robustseg.optimize._potts_forward import (
    Point,
    Potts,
    measured,
    objective,
    repeat,
    solve,
    start,
)
from keras_robustseg.optimize._potts_operators import (
    Edges,
    classes_first,
    classes_last,
    without_border,
)

ADJOINTS = ("implicit", "unrolled", "one_step", "neumann")


class PottsOptions(NamedTuple):
    """How a relaxed Potts problem is posed, solved and differentiated, besides its tensors.

    Attributes:
        smoothing: delta >= 0, dual weight of the squares (Huber's function of that width).
        isotropic: whether the length of the gradient is penalised, and not each axis.
        iterations: at most so many primal-dual steps; exactly so many where they are unrolled.
        tolerance: duality gap per pixel, relative to 1 + the spread of its costs, of a solution.
        adjoint: `"implicit"`, `"unrolled"`, `"neumann"` or `"one_step"`.
        adjoint_iterations: at most so many steps of conjugate gradients, or terms of Neumann.
        adjoint_tolerance: relative residual at which these stop.

    Example:
        `relaxed_potts(cost, 0.3, options=PottsOptions(isotropic=True))`
    """

    smoothing: float = 0.0
    isotropic: bool = False
    iterations: int = 1000
    tolerance: float = 1e-6
    adjoint: str = "implicit"
    adjoint_iterations: int = 300
    adjoint_tolerance: float = 1e-6


def relaxed_potts(
    cost: Any,
    class_weights: Any,
    edge_weights: Any = None,
    epsilon: Any = 0.5,
    *,
    options: PottsOptions | None = None,
) -> tuple[Any, SolveInfo]:
    """Return the labelling of least cost and perimeter, relaxed to the simplex, differentiably.

        u*  =  argmin over u_i in the simplex   <f, u> + epsilon/2 ||u||^2
                                                + sum_k lambda_k sum_e w_e |(D u_k)_e|

    over the edges e between neighbouring pixels; isotropic, the last sum is over pixels and the
    length of their vector of w_e (D u_k)_e. epsilon > 0 makes u* unique, and what tends to it as
    epsilon does to 0 is the relaxation of Chambolle, Cremers and Pock (SIAM J. Imaging Sci. 2012).
    With `smoothing` delta, |t| is Huber's function with dual weight delta; the problem is then
    strongly monotone in u and in its dual, which is what the theorems of Bolte, Pauwels and
    Silveti-Falls (SIAM J. Optim. 2024) on derivatives of such solutions ask for.

    Solved by Chambolle and Pock's method with constant steps, each item until its duality gap is
    small and its active set has come to rest. The implicit derivative solves the linear system of
    the active set; it is exact once that set is, and wrong before, however small the residual:
    see `active_set_changes` of the certificate. Memory does not grow with the iterations.

    Runs on TensorFlow and JAX, compiled or not. First derivatives only; a second one raises.

    Args:
        cost: f (B, *S, C), floating; S of 1 to 3 axes, 2 classes or more.
        class_weights: lambda >= 0: a scalar, (C,) or (B, C).
        edge_weights: w >= 0, (B, *S, axes of S): at pixel i the weight of the edge to the next
            pixel along each axis; entries at the far border are not used. None means 1.
        epsilon: above 0, a scalar.
        options: how to solve and to differentiate, by default `PottsOptions()`.

    Returns:
        u (B, *S, C), and a `SolveInfo` with a figure (B,) for each item.

    Raises:
        ValueError: shapes that do not fit, a negative weight, a number out of its range, costs
            that are not finite (where they can be read: not inside a compiled function).

    Example:
        `u, info = optimize.relaxed_potts(-logits, [0.2, 0.4, 0.3])`
    """
    options = PottsOptions() if options is None else options
    check_options(options)
    warn_of_one_step(options, stacklevel=3)
    tensors = potts_tensors(cost, class_weights, edge_weights, epsilon)
    _check_values(*tensors)
    labels, info = potts_solution(options, *tensors)
    warn_unless_ok(info, "The relaxed Potts problem was not solved")
    return labels, info


def potts_objective(
    labels: Any,
    cost: Any,
    class_weights: Any,
    edge_weights: Any = None,
    epsilon: Any = 0.5,
    *,
    options: PottsOptions | None = None,
) -> Any:
    """Return the value of the relaxed Potts problem at labels u (B, *S, C), one per item (B,).

    Args:
        labels: u (B, *S, C), on the simplex or not.
        cost: as in `relaxed_potts`, and so are the others.
        class_weights: lambda.
        edge_weights: w.
        epsilon: weight of the squares.
        options: `smoothing` and `isotropic` count.

    Example:
        `optimize.potts_objective(u, -logits, 0.3)`
    """
    options = PottsOptions() if options is None else options
    problem = _problem(options, *potts_tensors(cost, class_weights, edge_weights, epsilon))
    return objective(problem, classes_first(ops.cast(labels, problem.cost.dtype)))


def potts_vjp(
    cost: Any,
    class_weights: Any,
    edge_weights: Any = None,
    epsilon: Any = 0.5,
    *,
    cotangent: Any,
    options: PottsOptions | None = None,
) -> tuple[dict[str, Any], SolveInfo, LinearInfo]:
    """Return the derivatives of <v, u*> with the certificates of both solves.

    Args:
        cost: as in `relaxed_potts`, and so are the others.
        class_weights: lambda.
        edge_weights: w.
        epsilon: weight of the squares.
        cotangent: v (B, *S, C).
        options: how to solve.

    Returns:
        Derivatives `"cost"`, `"class_weights"`, `"edge_weights"` (None without) and `"epsilon"`,
        each of the shape of its argument; the certificate of the solution; that of the adjoint.

    Example:
        `found, info, adjoint = optimize.potts_vjp(-logits, 0.3, cotangent=v)`
    """
    options = PottsOptions() if options is None else options
    check_options(options)
    tensors = potts_tensors(cost, class_weights, edge_weights, epsilon)
    _check_values(*tensors)
    problem = _problem(options, *tensors)
    point, info = solve(problem, options.iterations, options.tolerance)
    back = classes_first(ops.cast(cotangent, problem.cost.dtype))
    found, linear = _pulled_back(options, problem, point, back)
    named = dict(zip(("cost", "class_weights", "epsilon", "edge_weights"), found, strict=False))
    shapes = {"class_weights": class_weights, "epsilon": epsilon}
    for name, given in shapes.items():
        named[name] = _reduced(named[name], ops.shape(ops.convert_to_tensor(given)))
    return {"edge_weights": None, **named}, info, linear


def potts_tensors(
    cost: Any, class_weights: Any, edge_weights: Any, epsilon: Any
) -> tuple[Any, ...]:
    """Return the tensors of a problem in one type: f, lambda (1 or B, C), epsilon, and w."""
    cost = ops.convert_to_tensor(cost)
    kind = backend.standardize_dtype(cost.dtype)
    kind = "float64" if kind == "float64" else "float32"
    cost = ops.cast(cost, kind)
    axes = len(cost.shape) - 2
    if not 1 <= axes <= 3 or cost.shape[-1] is None or cost.shape[-1] < 2:
        raise invalid_argument("cost", "shape (B, *S, C) with 1 to 3 axes S and C >= 2", cost.shape)
    weights = ops.convert_to_tensor(class_weights, dtype=kind)
    if len(weights.shape) > 2 or (len(weights.shape) and weights.shape[-1] != cost.shape[-1]):
        raise invalid_argument(
            "class_weights", f"a scalar, (C,) or (B, C), C={cost.shape[-1]}", weights
        )
    weights = ops.broadcast_to(weights, (*_rows(weights), cost.shape[-1]))
    epsilon = ops.reshape(ops.convert_to_tensor(epsilon, dtype=kind), ())
    edges = () if edge_weights is None else (_edge_tensor(edge_weights, cost, axes),)
    return (cost, weights, epsilon, *edges)


def _rows(weights: Any) -> tuple[int, ...]:
    return (ops.shape(weights)[0],) if len(weights.shape) == 2 else (1,)


def _edge_tensor(edge_weights: Any, cost: Any, axes: int) -> Any:
    edges = ops.convert_to_tensor(edge_weights, dtype=cost.dtype)
    expected = (*cost.shape[:-1], axes)
    pairs = zip(edges.shape, expected, strict=False)
    fits = all(None in (have, want) or have == want for have, want in pairs)
    if len(edges.shape) != len(expected) or not fits:
        raise invalid_argument("edge_weights", f"shape (B, *S, axes) = {expected}", edges.shape)
    return edges


def _check_values(cost: Any, weights: Any, epsilon: Any, *edges: Any) -> None:
    """Refuse numbers out of range where they can be read."""
    rules: list[tuple[str, str, Any, Any]] = [
        ("cost", "finite numbers", cost, np.isfinite),
        ("class_weights", "finite weights >= 0", weights, lambda x: np.isfinite(x) & (x >= 0)),
        ("epsilon", "a finite number > 0", epsilon, lambda x: np.isfinite(x) & (x > 0)),
    ]
    rules += [("edge_weights", "finite weights >= 0", w, rules[1][3]) for w in edges]
    for name, expected, value, good in rules:
        # By NumPy: inside a compiled function a constant can be read, but not what ops make of it.
        if is_concrete(value) and not np.all(good(ops.convert_to_numpy(value))):
            raise invalid_argument(name, expected, value)


def check_options(options: PottsOptions) -> None:
    """Refuse options out of their range."""
    if options.adjoint not in ADJOINTS:
        raise invalid_argument("adjoint", f"one of {ADJOINTS}", options.adjoint)
    for name in ("iterations", "adjoint_iterations"):
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise invalid_argument(name, "a whole number >= 1", value)
    for name in ("smoothing", "tolerance", "adjoint_tolerance"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value >= 0):
            raise invalid_argument(name, "a finite number >= 0", value)


def warn_of_one_step(options: PottsOptions, stacklevel: int) -> None:
    """Say so where the derivative will be far off."""
    if options.adjoint == "one_step":
        warnings.warn(
            "adjoint='one_step' takes one step's derivative for that of the solution, which is "
            "far off for this problem: use 'implicit'.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def _problem(options: PottsOptions, cost: Any, weights: Any, epsilon: Any, *edges: Any) -> Potts:
    """The problem with classes first."""
    axes = len(cost.shape) - 2
    by_class = ops.reshape(ops.transpose(weights), (cost.shape[-1], -1, *[1] * axes))
    by_edge = _split(edges[0]) if edges else None
    return Potts(
        classes_first(cost), by_class, by_edge, epsilon, options.smoothing, options.isotropic
    )


def _split(edges: Any) -> Edges:
    """(B, *S, axes) to a tensor (1, B, *S) for each axis, 0 at the far border.

    A negative weight becomes NaN, which shows, where a compiled function cannot refuse it.
    """
    edges = ops.where(edges >= 0, edges, math.nan)
    fields = (edges[None, ..., axis] for axis in range(edges.shape[-1]))
    return tuple(without_border(field, axis) for axis, field in enumerate(fields, 2))


def potts_solution(options: PottsOptions, *tensors: Any) -> tuple[Any, SolveInfo]:
    """Return u and its certificate, differentiable as `options.adjoint` says."""
    if options.adjoint == "implicit":
        labels, *figures = _implicit(options, *tensors)
        return labels, SolveInfo(*figures)
    problem = _problem(options, *tensors)
    if options.adjoint == "unrolled":
        point = repeat(problem, start(problem), options.iterations)
        return classes_last(point.labels), measured(
            problem, point, options.iterations, options.tolerance
        )
    fixed = _problem(options, *(ops.stop_gradient(tensor) for tensor in tensors))
    point, info = solve(fixed, options.iterations, options.tolerance)
    point = Point(ops.stop_gradient(point.labels), tuple(map(ops.stop_gradient, point.dual)))
    terms = options.adjoint_iterations if options.adjoint == "neumann" else 0
    return classes_last(repeat(problem, point, terms + 1).labels), info


def _implicit(options: PottsOptions, *tensors: Any) -> tuple[Any, ...]:
    """(u, *certificate), with the derivative of the active set."""

    @ops.custom_gradient
    def solution(*tensors: Any) -> tuple[tuple[Any, ...], Any]:
        problem = _problem(options, *tensors)
        point, info = solve(problem, options.iterations, options.tolerance)

        def gradient(*upstream: Any) -> tuple[Any, ...]:
            back = classes_first(tree.flatten(upstream)[0])
            return tuple(_once(options, problem, point, back, tensors))

        return (classes_last(point.labels), *info), gradient

    return solution(*tensors)


def _pulled_back(
    options: PottsOptions, problem: Potts, point: Point, back: Any
) -> tuple[list[Any], LinearInfo]:
    """Derivatives in the order and the shapes of the tensors, and the certificate."""
    limits = options.adjoint_iterations, options.adjoint_tolerance
    found, linear = _adjoint.gradients(problem, point, back, *limits)
    rows = ops.transpose(ops.squeeze(found.class_weights, tuple(range(2, len(back.shape)))))
    if problem.class_weights.shape[1] == 1:
        rows = ops.sum(rows, axis=0, keepdims=True)
    edges = found.edge_weights
    by_edge = [] if edges is None else [ops.stack([edge[0] for edge in edges], axis=-1)]
    return [classes_last(found.cost), rows, found.epsilon, *by_edge], linear


def _once(options: PottsOptions, problem: Potts, point: Point, back: Any, tensors: Any) -> Any:
    """The derivatives, whose own derivative is refused: it would be silently wrong."""

    def refuse(*_: Any) -> Any:
        raise NotImplementedError(
            "The solution of a relaxed Potts problem has first derivatives only. Expected one "
            "derivative through it. Received: a second one; use adjoint='unrolled'."
        )

    @ops.custom_gradient
    def once(back: Any, *_: Any) -> Any:
        return tuple(_pulled_back(options, problem, point, back)[0]), refuse

    return once(back, *tensors)


def _reduced(gradient: Any, shape: tuple[int, ...]) -> Any:
    """The sum of a derivative over what an argument of a smaller shape was spread over."""
    while len(gradient.shape) > len(shape):
        gradient = ops.sum(gradient, axis=0)
    return gradient
