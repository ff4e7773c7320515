"""Derivative of the solution of the relaxed Potts problem, by the system of its active set.

At the solution u with dual variables p, labels that are 0 and edges at their bound stay so. With
A the projector on {z : z_j = 0 where u_j = 0, sum of z over classes 0}, Q that on the directions
in which the dual variable of an edge is free, and S the compliance (delta for an edge inside its
bound, |K u| / lambda across the direction of p for an isotropic one at it),

    (Q K A K' Q + epsilon S) y = Q K A v,      w = A (v - K' y) / epsilon

gives, for a cotangent v, -w to the cost. It is symmetric, not negative and consistent, though
singular where edges close circles: conjugate gradients find the answer of least length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import backend, ops

from keras_robustseg.optimize._info import LinearInfo, Status
from keras_robustseg.optimize._potts_forward import Point, Potts, active_set
from keras_robustseg.optimize._potts_operators import (
    LEAST,
    Edges,
    differences,
    edge_dot,
    length,
    per_item,
)

# What rounding does to products with K, whose squared norm is at most 12.
_EPSILON = {"float32": 2e-6, "float64": 4e-15}


def _rounding(like: Any) -> float:
    return _EPSILON[backend.standardize_dtype(like.dtype)]


class _System(NamedTuple):
    """The linear system of a point: factors of A, Q and S, all as numbers of the field's type."""

    problem: Potts
    labels: Any
    count: Any
    free: Edges
    direction: Edges | None
    compliance: Any

    def tangent(self, field: Any) -> Any:
        """A z."""
        mean = ops.sum(self.labels * field, axis=0, keepdims=True) / self.count
        return self.labels * (field - mean)

    def project(self, edges: Edges) -> Edges:
        """Q y: 0 on edges at their bound; isotropic, only across the direction of p there."""
        if self.direction is None:
            return tuple(free * edge for free, edge in zip(self.free, edges, strict=True))
        along = sum(n * edge for n, edge in zip(self.direction, edges, strict=True))
        return tuple(edge - n * along for n, edge in zip(self.direction, edges, strict=True))

    def apply(self, edges: Edges) -> Edges:
        """(Q K A K' Q + epsilon S) y for y = Q y."""
        field = self.tangent(self.problem.divergence(edges))
        moved = self.problem.gradient(field)
        if self.compliance is not None:
            soft = self.problem.epsilon * self.compliance
            moved = tuple(m + soft * edge for m, edge in zip(moved, edges, strict=True))
        return self.project(moved)


def _system(problem: Potts, point: Point) -> _System:
    dtype = problem.cost.dtype
    active = active_set(problem, point)
    labels = ops.cast(active.labels, dtype)
    count = ops.maximum(ops.sum(labels, axis=0, keepdims=True), 1.0)
    fixed = tuple(ops.cast(edge, dtype) for edge in active.edges)
    free = tuple(1.0 - edge for edge in fixed)
    if not problem.isotropic:
        compliance = problem.smoothing or None
        return _System(problem, labels, count, free, None, compliance)
    # Where the bound is 0 no direction is free: a length of 0 would leave all of them.
    size = ops.maximum(problem.bounds[0], LEAST)
    direction = tuple(fixed[0] * p / size for p in point.dual)
    bend = length(problem.gradient(point.labels)) / size
    compliance = ops.where(fixed[0] > 0, bend, problem.smoothing)
    return _System(problem, labels, count, free, direction, compliance)


def solve_adjoint(
    problem: Potts, point: Point, cotangent: Any, iterations: int, tolerance: float
) -> tuple[Any, Edges, LinearInfo]:
    """Return w (C, B, *S), the multipliers y on edges, and the certificate of the linear solve."""
    system = _system(problem, point)
    target = system.tangent(cotangent)
    right = system.project(problem.gradient(target))
    # What rounding has left of the target is no right-hand side: its square may be 0.
    floor = _rounding(target) ** 2 * edge_dot((target,), (target,))
    multipliers, info = _conjugate_gradients(system, right, floor, iterations, tolerance)
    pulled = system.tangent(cotangent - problem.divergence(multipliers))
    return pulled / problem.epsilon, multipliers, info


class _Search(NamedTuple):
    """State of conjugate gradients: iterations, answer, residual, direction, figures of items."""

    count: Any
    answer: Edges
    residual: Edges
    direction: Edges
    square: Any
    spent: Any


def _conjugate_gradients(
    system: _System, right: Edges, floor: Any, iterations: int, tolerance: float
) -> tuple[Edges, LinearInfo]:
    """Solve from 0 until each item's residual is `tolerance` of its right-hand side.

    A residual whose square is at most `floor` is enough, too.
    """
    zero = tuple(ops.zeros_like(edge) for edge in right)
    size = edge_dot(right, right)
    enough = ops.maximum(tolerance**2 * size, floor)
    begin = _Search(
        ops.convert_to_tensor(0, "int32"),
        zero,
        right,
        right,
        size,
        ops.zeros_like(ops.cast(size, "int32")),
    )
    end = _Search(
        *ops.while_loop(
            lambda *now: ops.logical_and(now[0] < iterations, ops.any(now[4] > enough)),
            lambda *now: tuple(_search(system, _Search(*now), enough)),
            tuple(begin),
            maximum_iterations=iterations,
        )
    )
    return end.answer, _linear_info(system, right, end, enough, size)


def _search(system: _System, now: _Search, enough: Any) -> _Search:
    """One step; an item that is done, or finds no curvature but rounding, stands still."""
    moved = system.apply(now.direction)
    curvature = edge_dot(now.direction, moved)
    flat = _rounding(moved[0]) * edge_dot(now.direction, now.direction)
    going = ops.logical_and(now.square > enough, curvature > flat)
    length_ = ops.where(going, now.square / ops.where(going, curvature, 1.0), 0.0)
    along = per_item(length_, now.direction[0])
    answer = tuple(x + along * d for x, d in zip(now.answer, now.direction, strict=True))
    residual = tuple(r - along * m for r, m in zip(now.residual, moved, strict=True))
    square = ops.where(going, edge_dot(residual, residual), now.square)
    ratio = per_item(square / ops.maximum(now.square, LEAST), now.direction[0])
    direction = tuple(r + ratio * d for r, d in zip(residual, now.direction, strict=True))
    spent = now.spent + ops.cast(going, "int32")
    return _Search(now.count + 1, answer, residual, direction, square, spent)


def _linear_info(system: _System, right: Edges, end: _Search, enough: Any, size: Any) -> LinearInfo:
    moved = system.apply(end.answer)
    rest = tuple(b - a for a, b in zip(moved, right, strict=True))
    residual, norm = ops.sqrt(edge_dot(rest, rest)), ops.sqrt(size)
    status = ops.where(end.square <= enough, Status.OK.value, Status.NOT_CONVERGED.value)
    status = ops.where(ops.isfinite(residual), status, Status.DIVERGED.value)
    relative = ops.where(norm > 0, residual / ops.maximum(norm, LEAST), 0.0)
    return LinearInfo(ops.cast(status, "int32"), end.spent, residual, relative)


class Gradients(NamedTuple):
    """Derivatives of <v, u>: to the cost (C, B, *S), the class weights, epsilon, edge weights."""

    cost: Any
    class_weights: Any
    epsilon: Any
    edge_weights: Edges | None


def gradients(
    problem: Potts, point: Point, cotangent: Any, iterations: int, tolerance: float
) -> tuple[Gradients, LinearInfo]:
    """Return the derivatives of <v, u> at a solution, for a cotangent v (C, B, *S)."""
    pulled, multipliers, info = solve_adjoint(problem, point, cotangent, iterations, tolerance)
    by_class, by_edge = _weight_gradients(problem, point, pulled, multipliers)
    epsilon = -ops.sum(pulled * point.labels)
    return Gradients(-pulled, by_class, epsilon, by_edge), info


def _weight_gradients(
    problem: Potts, point: Point, pulled: Any, multipliers: Edges
) -> tuple[Any, Edges | None]:
    """Derivatives to class weights (C, B, 1, ...) and edge weights, before sums over items."""
    dtype, slopes = problem.cost.dtype, problem.gradient(pulled)
    fixed = [ops.cast(edge, dtype) for edge in active_set(problem, point).edges]
    units = _unit_duals(problem, point, fixed)
    moved = [unit * slope for unit, slope in zip(units, slopes, strict=True)]
    weights = problem.edge_weights
    outer = None if problem.isotropic else weights
    by_lambda = moved if outer is None else [w * m for w, m in zip(outer, moved, strict=True)]
    axes = tuple(range(2, len(problem.cost.shape)))
    by_class = -ops.sum(sum(by_lambda), axis=axes, keepdims=True)
    if weights is None:
        return by_class, None
    if problem.isotropic:
        return by_class, _inner_weight_gradients(point, pulled, multipliers)
    by_edge = [problem.class_weights * m for m in moved]
    return by_class, tuple(-ops.sum(edge, axis=0, keepdims=True) for edge in by_edge)


def _unit_duals(problem: Potts, point: Point, fixed: list[Any]) -> list[Any]:
    """What the dual variables at their bound gain per unit of the bound."""
    slopes = problem.gradient(point.labels)
    if problem.isotropic:
        positive = problem.bounds[0] > 0
        size, other = ops.maximum(problem.bounds[0], LEAST), ops.maximum(length(slopes), LEAST)
        return [
            fixed[0] * ops.where(positive, p / size, g / other)
            for p, g in zip(point.dual, slopes, strict=True)
        ]
    rows = zip(fixed, problem.bounds, point.dual, slopes, strict=True)
    return [edge * ops.sign(ops.where(bound > 0, p, g)) for edge, bound, p, g in rows]


def _inner_weight_gradients(point: Point, pulled: Any, multipliers: Edges) -> Edges:
    """K = W D varies with W in K' p and in K u: -(p D w + y D u), summed over classes."""
    rows = zip(point.dual, differences(pulled), multipliers, differences(point.labels), strict=True)
    found = (p * dw + y * du for p, dw, y, du in rows)
    return tuple(-ops.sum(edge, axis=0, keepdims=True) for edge in found)
