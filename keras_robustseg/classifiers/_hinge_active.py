"""The active set of a support vector machine: the exact answer, and its derivative."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from keras_robustseg.classifiers._adjoint import Adjoint, certificate
from keras_robustseg.classifiers._hinge import Items, Point, interior_point
from keras_robustseg.optimize import SolveInfo, Status

# Corrections of an active set; the interior point leaves few to be made.
_ROUNDS = 10


class ActiveSet(NamedTuple):
    """Which classes attain the worst score of each item.

    Args:
        first: (n,) one of them.
        item: (m,) items with several.
        other: (m,) another class of that item.
        normals: (m, P K) x (e_other - e_first)^T: the answer keeps these scores equal.
    """

    first: np.ndarray
    item: np.ndarray
    other: np.ndarray
    normals: np.ndarray


class HingeAnswer(NamedTuple):
    """Answer of a quadratic program.

    Args:
        V: (P, K).
        dual: (C, n).
        active: the active set.
        info: certificate; its kink margin is that of strict complementarity.
    """

    V: np.ndarray
    dual: np.ndarray
    active: ActiveSet
    info: SolveInfo


def solve_hinge(items: Items, start: np.ndarray, max_iter: int) -> HingeAnswer:
    """Return the minimiser.

    Args:
        items: the problem.
        start: (P, K).
        max_iter: bound on the iterations.

    Example:
        `solve_hinge(items, np.zeros((3, 1)), 100).V`
    """
    point, iterations, gap = interior_point(items, start, max_iter)
    active, V, dual = _settled(items, active_set(items, point))
    value, reached = items.objective(point.V), items.objective(V)
    if not reached <= value + 1e-12 * (1.0 + abs(value)):
        V, dual, reached = point.V, point.dual, value
    below = _dual_value(items, V, dual)
    off = float((reached - below) / (1.0 + abs(reached)))
    status = Status.OK if min(gap, abs(off)) < 1e-8 else Status.NOT_CONVERGED
    if not np.isfinite(V).all():
        status = Status.DIVERGED
    margin = _margin(items, active, V, dual)
    info = SolveInfo(int(status), iterations, gap, off, reached - below, kink_margin=margin)
    return HingeAnswer(V, dual, active, info)


def _settled(items: Items, active: ActiveSet) -> tuple[ActiveSet, np.ndarray, np.ndarray]:
    """An active set that its own stationary point confirms, that point and its dual."""
    every = np.arange(len(items.own))
    for _ in range(_ROUNDS):
        V, dual = _exact(items, active)
        worst = items.away + items.scores(V)
        bound = worst[active.first, every]
        following = active_set(items, Point(V, bound, bound - worst, dual))
        pairs = zip(following[:3], active[:3], strict=True)
        if all(np.array_equal(after, before) for after, before in pairs):
            break
        active = following
    return active, *_exact(items, active)


def active_set(items: Items, point: Point) -> ActiveSet:
    """Return the active set near which an interior point is: where the dual outweighs the slack."""
    share = point.dual / items.cost
    first = share.argmax(axis=0)
    taken = share > point.slack
    taken[first, np.arange(len(first))] = False
    other, item = np.nonzero(taken)
    x = items.design.x[item]
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    x = np.hstack([x, np.ones((len(x), 1))]) if items.design.intercept else x
    classes = np.eye(items.classes)[:, -items.columns :]
    difference = classes[other] - classes[first[item]]
    normals = (x[:, :, None] * difference[:, None, :]).reshape(len(item), items.l2.size)
    return ActiveSet(first, item, other, normals)


def on_active_set(
    items: Items, active: ActiveSet, right: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool, float]:
    """Solve l2 U + N^T b = right, N U = levels; return U, b, whether singular, relative residual.

    Args:
        items: the problem.
        active: the normals N.
        right: (P K,).
        levels: (m,).
    """
    size, count = len(right), len(levels)
    matrix = np.zeros((size + count, size + count))
    matrix[:size, :size] = np.diag(items.l2.ravel()) + items.free()
    matrix[:size, size:], matrix[size:, :size] = active.normals.T, active.normals
    b = np.concatenate([right, levels])
    found, _, rank, _ = np.linalg.lstsq(matrix, b, rcond=1e-13)
    off = float(np.linalg.norm(matrix @ found - b)) / max(float(np.linalg.norm(b)), 1e-300)
    return found[:size], found[size:], _lacks(rank, active.normals), off


def _lacks(rank: int, normals: np.ndarray) -> bool:
    """Whether U is not unique, by the rank of its system; multipliers may be many."""
    count, size = normals.shape
    if rank == size + count:
        return False
    return bool(rank < size + np.linalg.matrix_rank(normals))


def _exact(items: Items, active: ActiveSet) -> tuple[np.ndarray, np.ndarray]:
    """Stationary point and dual of an active set."""
    dual = np.zeros((items.classes, len(items.own)))
    every = np.arange(len(items.own))
    dual[active.first, every] = items.cost
    own = (1.0 - items.away) * items.cost
    right = (items.pull(own - dual) - items.linear).ravel()
    first = active.first[active.item]
    levels = items.away[first, active.item] - items.away[active.other, active.item]
    V, multipliers, _, _ = on_active_set(items, active, right, levels)
    np.add.at(dual, (active.other, active.item), multipliers)
    np.subtract.at(dual, (first, active.item), multipliers)
    return V.reshape(items.l2.shape), dual


def _dual_value(items: Items, V: np.ndarray, dual: np.ndarray) -> float:
    """Lagrangian at V; the dual value where V is stationary for the dual and this is feasible."""
    return float(-0.5 * np.vdot(items.l2 * V, V) + (items.away * dual).sum())


def _margin(items: Items, active: ActiveSet, V: np.ndarray, dual: np.ndarray) -> float:
    """Least share of an active dual, and least distance from the worst score of the others."""
    worst = items.away + items.scores(V)
    gaps = worst.max(axis=0) - worst
    inside = np.zeros(gaps.shape, bool)
    inside[active.first, np.arange(len(active.first))] = True
    inside[active.other, active.item] = True
    shared = (dual / items.cost)[inside]
    return float(min(shared.min(), gaps[~inside].min(initial=np.inf)))


class HingeFit(NamedTuple):
    """One program, ready to be differentiated.

    Args:
        items: the problem.
        answer: its solution.
    """

    items: Items
    answer: HingeAnswer

    def adjoint(self, gradient: np.ndarray) -> Adjoint:
        """Return U: the validation gradient (P, K) in the metric of l2, kept off the normals."""
        active, margin = self.answer.active, float(self.answer.info.kink_margin)
        nothing = np.zeros(len(active.item))
        # More normals than coefficients: the multipliers, and with them the margin, are not unique.
        margin = margin if len(active.item) <= gradient.size else 0.0
        U, _, singular, off = on_active_set(self.items, active, gradient.ravel(), nothing)
        status = certificate(singular, off, margin)
        if self.answer.info.status != Status.OK:
            status = max(status, Status(int(self.answer.info.status)))
        info = SolveInfo(int(status), kink_margin=margin, adjoint_residual=off)
        return Adjoint(U.reshape(gradient.shape), info)

    def to_costs(self, scores: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the derivative (C, n) of <slope, along> to the cost of each class of a pixel.

        Args:
            scores: (K, n) of pixels.
            along: (K, n) scores of the adjoint.
        """
        missing = np.zeros((self.items.classes - len(scores), scores.shape[1]))
        scores, along = np.vstack([missing, scores]), np.vstack([missing, along])
        found = np.empty_like(scores)
        for own in range(self.items.classes):
            margins = np.ones((self.items.classes, 1))
            margins[own] = 0.0
            worst = (scores + margins).argmax(axis=0)
            found[own] = along[worst, np.arange(len(worst))] - along[own]
        return found
