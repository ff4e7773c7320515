"""Support vector machines as quadratic programs: an interior point, then the exact active set.

    minimise over V   <linear, V> + 1/2 sum l2 V^2 + sum_i c_i max_k (1[k != y_i] + s_ik - s_iy)

for items i of class y_i and cost c_i, with scores s_i = V^T x_i. With one column of V the first of
two classes has score 0, which makes it the hinge loss c max(0, 1 - s) or c max(0, 1 + s); with C
columns it is the loss of Crammer and Singer (JMLR 2001). The dual has a simplex of size c_i for
each item.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_robustseg.classifiers._design import BLOCK, Design
from keras_robustseg.classifiers._linear import Solve, factor

# Relative gap at which the active set is read off and the interior point ends.
_GAP = 1e-12
# Share of the way to the boundary that a step goes.
_INSIDE = 0.995


class Items(NamedTuple):
    """What is to be classified.

    Args:
        design: features (n, F).
        own: (n,) index of the class.
        cost: (n,) positive.
        l2: (P, K).
        classes: C.
        linear: (P, K), or 0.
    """

    design: Design
    own: np.ndarray
    cost: np.ndarray
    l2: np.ndarray
    classes: int
    linear: np.ndarray | float = 0.0

    @property
    def columns(self) -> int:
        """Number K of scores."""
        return self.l2.shape[1]

    @property
    def away(self) -> np.ndarray:
        """1 for every class but the own one, (C, n)."""
        return (np.arange(self.classes)[:, None] != self.own).astype(np.float64)

    def scores(self, V: np.ndarray) -> np.ndarray:
        """Return the scores of all classes, (C, n)."""
        found = self.design.scores(V)
        missing = self.classes - self.columns
        return np.vstack([np.zeros((missing, found.shape[1])), found]) if missing else found

    def pull(self, residual: np.ndarray) -> np.ndarray:
        """Return the sum of x residual^T (P, K) from (C, n)."""
        return self.design.pull(residual[-self.columns :])

    def objective(self, V: np.ndarray) -> float:
        """Return the value at V."""
        scores = self.scores(V)
        own = scores[self.own, np.arange(scores.shape[1])]
        worst = (self.away + scores).max(axis=0) - own
        return float((V * (self.linear + 0.5 * self.l2 * V)).sum() + self.cost @ worst)

    def free(self) -> np.ndarray:
        """Return a matrix (P K, P K) that fixes what several scores leave free; see `gauge`."""
        alike = (self.l2 == 0).all(axis=1) if self.columns > 1 else np.zeros(len(self.l2), bool)
        ones = np.full((self.columns, self.columns), 1.0 / self.columns)
        return np.kron(np.diag(alike * max(float(self.l2.max()), 1e-8)), ones)


class Point(NamedTuple):
    """A primal and dual point.

    Args:
        V: (P, K).
        bound: (n,) the worst score with its margin, or more.
        slack: (C, n) bound minus score and margin, positive.
        dual: (C, n) positive, of sum c_i.
    """

    V: np.ndarray
    bound: np.ndarray
    slack: np.ndarray
    dual: np.ndarray

    def moved(self, by: Point, length: float) -> Point:
        """Return the point after a step."""
        return Point(*(x + length * d for x, d in zip(self, by, strict=True)))


class Residuals(NamedTuple):
    """What is missing of the optimality conditions: of V, of the slacks, of the dual sums."""

    of_V: np.ndarray
    of_slack: np.ndarray
    of_sum: np.ndarray


def interior_point(items: Items, start: np.ndarray, max_iter: int) -> tuple[Point, int, float]:
    """Return a point near the answer, the iterations, and its relative gap.

    Mehrotra's predictor and corrector. The Newton system is reduced to the coefficients (Ferris
    and Munson, SIAM J. Optim. 2002): (P K)^2 numbers, whatever the number of items.

    Args:
        items: the problem.
        start: (P, K).
        max_iter: bound on the iterations.

    Example:
        `point, iterations, gap = interior_point(items, np.zeros((3, 1)), 100)`
    """
    shifted = items.away + items.scores(start)
    bound = shifted.max(axis=0) + 1.0
    dual = np.tile(items.cost / items.classes, (items.classes, 1))
    point = Point(start, bound, bound - shifted, dual)
    gap, before = np.inf, np.inf
    for iteration in range(1, max_iter + 1):
        residuals = _residuals(items, point)
        scale = 1.0 + abs(items.objective(point.V))
        gap = max(np.vdot(point.dual, point.slack) / scale, np.abs(residuals.of_V).max() / scale)
        stalled = gap < 1e-8 and gap > 0.5 * before
        if gap < _GAP or stalled or not np.isfinite(gap):
            return point, iteration, float(gap)
        before = gap
        point = _step(items, point, residuals)
    return point, max_iter, float(gap)


def _residuals(items: Items, point: Point) -> Residuals:
    own = (1.0 - items.away) * items.cost
    return Residuals(
        items.linear + items.l2 * point.V + items.pull(point.dual - own),
        point.slack - (point.bound - items.away - items.scores(point.V)),
        point.dual.sum(axis=0) - items.cost,
    )


def _step(items: Items, point: Point, residuals: Residuals) -> Point:
    ratio = point.dual / point.slack
    solve = _reduced(items, ratio)
    product = point.dual * point.slack
    mean = product.mean()
    probe = _direction(items, point, residuals, ratio, solve, product)
    length = _longest(point, probe)
    ahead = (point.dual + length * probe.dual) * (point.slack + length * probe.slack)
    target = mean * (ahead.mean() / mean) ** 3
    corrected = product + probe.dual * probe.slack - target
    step = _direction(items, point, residuals, ratio, solve, corrected)
    return point.moved(step, min(1.0, _INSIDE * _longest(point, step)))


def _reduced(items: Items, ratio: np.ndarray) -> Solve:
    """Solution map of the Newton system in V: the Hessian of a softmax with these masses."""
    rows, columns = items.l2.shape
    mass = ratio.sum(axis=0)
    share = (ratio / mass)[-columns:]
    found = np.zeros((rows, columns, rows, columns))
    for begin in range(0, len(items.own), BLOCK):
        part = slice(begin, begin + BLOCK)
        design = items.design._replace(x=items.design.x[part])
        for k in range(columns):
            for other in range(k + 1):
                weight = mass[part] * share[k, part] * ((k == other) - share[other, part])
                found[:, k, :, other] += design.gram(weight)
    for k in range(columns):
        for other in range(k):
            found[:, other, :, k] = found[:, k, :, other]
    square = found.reshape(items.l2.size, items.l2.size)
    return factor(square + np.diag(items.l2.ravel()) + items.free())[0]


def _direction(
    items: Items,
    point: Point,
    residuals: Residuals,
    ratio: np.ndarray,
    solve: Solve,
    product: np.ndarray,
) -> Point:
    """Newton step to dual x slack = dual x slack - product, and residuals of 0."""
    mass = ratio.sum(axis=0)
    share = ratio / mass
    constant = ratio * residuals.of_slack - product / point.slack
    missing = residuals.of_sum + constant.sum(axis=0)
    fixed = constant - share * missing
    right = -(residuals.of_V + items.pull(fixed))
    V = solve(right.ravel()).reshape(right.shape)
    scores = items.scores(V)
    common = (share * scores).sum(axis=0)
    bound = missing / mass + common
    return Point(V, bound, bound - scores - residuals.of_slack, fixed + ratio * (scores - common))


def _longest(point: Point, step: Point) -> float:
    """Length of the step at which a slack or a dual becomes 0; infinite if none does."""
    found = np.inf
    for value, change in ((point.slack, step.slack), (point.dual, step.dual)):
        falling = change < 0
        if falling.any():
            found = min(found, float((-value[falling] / change[falling]).min()))
    return min(found, 1.0 / _INSIDE)
