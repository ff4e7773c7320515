"""The relaxed Potts problem solved by primal-dual steps, item by item, with a certificate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras import backend, ops

from keras_robustseg.optimize._info import SolveInfo, Status
from keras_robustseg.optimize._potts_operators import (
    Edges,
    adjoint_differences,
    clip_dual,
    differences,
    edge_dot,
    item_min,
    item_sum,
    length,
    per_item,
    project_simplex_classes,
)

CHECK_EVERY = 50


class Potts(NamedTuple):
    """A relaxed Potts problem with classes first.

    Attributes:
        cost: f (C, B, *S).
        class_weights: lambda (C, B or 1, 1, ...).
        edge_weights: w, a tensor (1, B, *S) per axis, or None for 1.
        epsilon: weight of the squares, ().
        smoothing: delta, dual weight of the squares.
        isotropic: whether the length of the gradient is penalised at each pixel.
    """

    cost: Any
    class_weights: Any
    edge_weights: Edges | None
    epsilon: Any
    smoothing: float
    isotropic: bool

    @property
    def inner_weights(self) -> Edges | None:
        """Weights inside the norm: those of edges, where the norm joins several edges."""
        return self.edge_weights if self.isotropic else None

    @property
    def bounds(self) -> Edges:
        """Largest dual variables, one tensor per spatial axis."""
        axes = len(self.cost.shape) - 2
        if self.isotropic or self.edge_weights is None:
            return (self.class_weights,) * axes
        return tuple(self.class_weights * weight for weight in self.edge_weights)

    def gradient(self, labels: Any) -> Edges:
        """K u."""
        return differences(labels, self.inner_weights)

    def divergence(self, dual: Edges) -> Any:
        """K' p."""
        return adjoint_differences(dual, self.inner_weights)


class Point(NamedTuple):
    """Labels u (C, B, *S) and dual variables p on the edges."""

    labels: Any
    dual: Edges


class ActiveSet(NamedTuple):
    """Labels above 0, and edges (or, isotropic, pixels) whose dual variable is at its bound."""

    labels: Any
    edges: Edges


def start(problem: Potts) -> Point:
    """Return the solution without edges, and dual variables 0."""
    labels = project_simplex_classes(-problem.cost / problem.epsilon)
    axes = len(problem.cost.shape) - 2
    return Point(labels, (ops.zeros_like(labels),) * axes)


def steps_of(problem: Potts) -> tuple[Any, Any]:
    """Return primal and dual step with tau sigma ||K||^2 <= 1, from ||K||^2 <= 4 axes max w^2."""
    axes = len(problem.cost.shape) - 2
    norm = ops.cast(2.0 * math.sqrt(axes), problem.cost.dtype)
    if problem.inner_weights is not None:
        largest = -item_min(-sum(ops.square(w) for w in problem.inner_weights) / axes)
        largest = ops.sqrt(ops.maximum(axes * largest, 1e-12))
        norm = norm * per_item(largest, problem.cost)
    return 1.0 / norm, 1.0 / norm


def step(problem: Potts, point: Point, steps: tuple[Any, Any]) -> Point:
    """One step of Chambolle and Pock (2011, algorithm 1) with theta = 1."""
    tau, sigma = steps
    labels = point.labels - tau * (problem.divergence(point.dual) + problem.cost)
    labels = project_simplex_classes(labels / (1.0 + tau * problem.epsilon))
    ahead = problem.gradient(2.0 * labels - point.labels)
    scale = 1.0 / (1.0 + sigma * problem.smoothing)
    dual = tuple((p + sigma * g) * scale for p, g in zip(point.dual, ahead, strict=True))
    return Point(labels, clip_dual(dual, problem.bounds, problem.isotropic))


def repeat(problem: Potts, point: Point, count: int) -> Point:
    """`count` steps, a static number, that reverse differentiation can go back through."""
    steps = steps_of(problem)
    if backend.backend() == "jax":  # whose while_loop has no reverse derivative
        return ops.fori_loop(0, count, lambda _, now: step(problem, now, steps), point)
    done = ops.while_loop(
        lambda k, *_: k < count,
        lambda k, labels, dual: (k + 1, *step(problem, Point(labels, dual), steps)),
        (ops.convert_to_tensor(0), *point),
        maximum_iterations=count,
    )
    return Point(*done[1:])


def active_set(problem: Potts, point: Point) -> ActiveSet:
    """Return which labels and edges are active at a point.

    Within rounding of its bound a dual variable is at it: where labels are equal it is not unique
    and may come to rest there, one step in and one step out.
    """
    near = 1.0 - 16.0 * rounding(problem.cost)
    sizes = [length(point.dual)] if problem.isotropic else [ops.abs(p) for p in point.dual]
    pairs = zip(sizes, problem.bounds[: len(sizes)], strict=True)
    return ActiveSet(point.labels > 0, tuple(size >= bound * near for size, bound in pairs))


def rounding(tensor: Any) -> float:
    """Distance from 1 to the next number of a tensor's type."""
    return 2.0**-52 if backend.standardize_dtype(tensor.dtype) == "float64" else 2.0**-23


def changes(first: ActiveSet, second: ActiveSet) -> Any:
    """How many labels and edges differ between two sets, item by item, int32."""
    pairs = [(first.labels, second.labels), *zip(first.edges, second.edges, strict=True)]
    return sum(item_sum(ops.cast(ops.not_equal(a, b), "int32")) for a, b in pairs)


def duality_gap(problem: Potts, point: Point) -> Any:
    """Primal minus dual value, item by item: a sum of terms that are each 0 or above, (B,)."""
    slopes, labels = problem.gradient(point.labels), point.labels
    penalty = sum(item_sum(term) for term in _penalties(problem, slopes))
    edges = penalty - edge_dot(point.dual, slopes)
    edges = edges + problem.smoothing / 2.0 * edge_dot(point.dual, point.dual)
    reduced = problem.cost + problem.divergence(point.dual)
    best = project_simplex_classes(-reduced / problem.epsilon)
    squares = problem.epsilon / 2.0 * (ops.square(labels) - ops.square(best))
    return edges + item_sum(reduced * (labels - best) + squares)


def _penalties(problem: Potts, slopes: Edges) -> list[Any]:
    """bound |g|, or Huber's function where it is smoothed, edge by edge or pixel by pixel."""
    sizes = [length(slopes)] if problem.isotropic else [ops.abs(slope) for slope in slopes]
    pairs = zip(sizes, problem.bounds[: len(sizes)], strict=True)
    if not problem.smoothing:
        return [bound * size for size, bound in pairs]
    delta = problem.smoothing
    duals = [(size, ops.minimum(size / delta, bound)) for size, bound in pairs]
    return [dual * size - delta / 2.0 * ops.square(dual) for size, dual in duals]


def objective(problem: Potts, labels: Any) -> Any:
    """Primal value, item by item, (B,)."""
    penalty = sum(item_sum(term) for term in _penalties(problem, problem.gradient(labels)))
    squares = problem.epsilon / 2.0 * ops.square(labels)
    return item_sum(problem.cost * labels + squares) + penalty


def kink_margin(problem: Potts, point: Point) -> Any:
    """Smallest positive label and smallest jump of labels across an edge, item by item, (B,).

    Both are unique, unlike dual variables, whose distance from their bounds tells nothing. Jumps
    of rounding size are none.
    """
    far, slopes = ops.ones_like(problem.cost), problem.gradient(point.labels)
    sizes = [length(slopes)] if problem.isotropic else [ops.abs(slope) for slope in slopes]
    least = 10.0 * rounding(problem.cost)
    margins = [ops.where(point.labels > 0, point.labels, far)]
    margins += [ops.where(size > least, size, far) for size in sizes]
    return ops.min(ops.stack([item_min(margin) for margin in margins]), axis=0)


class _Progress(NamedTuple):
    """State of the loop: iterations done, the point, its set, and figures of each item."""

    count: Any
    point: Point
    active: ActiveSet
    done: Any
    iterations: Any
    gap: Any
    changed: Any


def solve(problem: Potts, iterations: int, tolerance: float) -> tuple[Point, SolveInfo]:
    """Return the solution and its certificate; an item that is solved stands still.

    An item is solved when its gap is at most `tolerance` times pixels times the size of its costs
    and its active set is the one of `CHECK_EVERY` steps before.
    """
    scale = _scale(problem)
    first = start(problem)
    zero = ops.zeros_like(scale)
    count = ops.cast(zero, "int32")
    begin = _Progress(
        ops.convert_to_tensor(0, "int32"),
        first,
        active_set(problem, first),
        zero > 1.0,
        count,
        zero,
        count,
    )
    blocks = -(-iterations // CHECK_EVERY)
    end = _Progress(
        *ops.while_loop(
            lambda *now: ops.logical_and(now[0] < iterations, ops.any(ops.logical_not(now[3]))),
            lambda *now: tuple(_block(problem, _Progress(*now), iterations, tolerance * scale)),
            tuple(begin),
            maximum_iterations=blocks,
        )
    )
    figures = (end.iterations, end.gap, end.changed)
    return end.point, _certificate(problem, end.point, end.done, figures, scale)


def _scale(problem: Potts) -> Any:
    """Number of pixels times (1 + the mean spread of costs), item by item, (B,)."""
    spread = ops.max(problem.cost, axis=0) - ops.min(problem.cost, axis=0)
    return item_sum(1.0 + spread[None])


def _block(problem: Potts, now: _Progress, iterations: int, enough: Any) -> _Progress:
    """Steps up to the next check, and the check."""
    target = ops.minimum(now.count + CHECK_EVERY, iterations)
    steps = steps_of(problem)
    _, *moved = ops.while_loop(
        lambda k, *_: k < target,
        lambda k, labels, dual: (k + 1, *step(problem, Point(labels, dual), steps)),
        (now.count, *now.point),
        maximum_iterations=CHECK_EVERY,
    )
    point = _unless(now.done, Point(*now.point), Point(*moved))
    active = active_set(problem, point)
    changed = ops.where(now.done, now.changed, changes(ActiveSet(*now.active), active))
    gap = duality_gap(problem, point)
    solved = ops.logical_and(gap <= enough, changed == 0)
    spent = ops.where(now.done, now.iterations, target)
    done = ops.logical_or(now.done, solved)
    return _Progress(target, point, active, done, spent, gap, changed)


def _unless(done: Any, old: Point, new: Point) -> Point:
    """The old point of items that are done and the new one of the others."""
    still = per_item(done, new.labels)
    dual = tuple(ops.where(still, a, b) for a, b in zip(old.dual, new.dual, strict=True))
    return Point(ops.where(still, old.labels, new.labels), dual)


def measured(problem: Potts, point: Point, iterations: int, tolerance: float) -> SolveInfo:
    """Return the certificate of a point that so many steps gave; its set was not watched."""
    point = Point(ops.stop_gradient(point.labels), tuple(map(ops.stop_gradient, point.dual)))
    gap, scale = duality_gap(problem, point), _scale(problem)
    count = ops.zeros_like(ops.cast(gap, "int32"))
    figures = (ops.full_like(count, iterations), gap, ops.full_like(count, -1))
    return _certificate(problem, point, gap <= tolerance * scale, figures, scale)


def _certificate(
    problem: Potts, point: Point, solved: Any, figures: tuple[Any, Any, Any], scale: Any
) -> SolveInfo:
    """The certificate of a point, given (iterations, gap, changes of the set)."""
    margin, iterations, gap, changed = kink_margin(problem, point), *figures
    again = step(problem, point, steps_of(problem))
    moved = tuple(a - b for a, b in zip(again.dual, point.dual, strict=True))
    square = item_sum(ops.square(again.labels - point.labels)) + edge_dot(moved, moved)
    near = ops.where(
        margin <= 10.0 * rounding(problem.cost), Status.NEAR_KINK.value, Status.OK.value
    )
    status = ops.where(solved, near, Status.NOT_CONVERGED.value)
    status = ops.where(ops.isfinite(square), status, Status.DIVERGED.value)
    return SolveInfo(
        status=ops.cast(status, "int32"),
        iterations=iterations,
        residual=ops.sqrt(square),
        relative_residual=gap / scale,
        duality_gap=gap,
        active_set_changes=changed,
        kink_margin=margin,
    )
