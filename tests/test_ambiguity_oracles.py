"""Label sets against general solvers on fresh random problems: HiGHS and Clarabel."""

from __future__ import annotations

import itertools

import cvxpy
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from keras_robustseg import labels

DISTANCES = {
    "euclidean": lambda d: np.sqrt((d**2).sum()),
    "sqeuclidean": lambda d: (d**2).sum(),
    "chebyshev": lambda d: np.abs(d).max(),
}


def random_problem(rng, shape, classes, hard, void=0.15):
    """Costs, labels and weights; a part of the pixels void, with costs that are NaN."""
    costs = rng.exponential(1.0, (*shape, classes))
    weights = rng.uniform(0.5, 2.0, shape) * (rng.random(shape) >= void)
    weights.flat[0] = 1.0
    costs[weights == 0] = np.nan
    if hard:
        return costs, rng.integers(0, classes, shape), weights
    soft = rng.dirichlet(np.ones(classes), shape) * (rng.random((*shape, classes)) < 0.7)
    soft[..., 0] += 1e-3
    return costs, soft / soft.sum(-1, keepdims=True), weights


def one_hot(given, classes):
    return given if given.dtype.kind == "f" else np.eye(classes)[given]


def transport(sign, gains, costs, fixed, radius):
    """max (sign 1) or min (-1) sum P gain  s.t.  sum P cost <= radius, and fixed sums of P.

    Args:
        sign: 1 or -1.
        gains, costs: (m,) of the moves.
        fixed: (row of each move, mass of each row).
        radius: budget.
    """
    rows, mass = fixed
    keep = np.isfinite(costs)
    sums = coo_matrix(
        (np.ones(keep.sum()), (rows[keep], np.arange(keep.sum()))), (len(mass), keep.sum())
    )
    found = linprog(
        -sign * gains[keep],
        A_ub=costs[keep][None],
        b_ub=[radius],
        A_eq=sums,
        b_eq=mass,
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return -sign * found.fun


def flips(costs, soft, shares, matrix):
    """Every move of the mass of (pixel, class k) to class l."""
    pixels, classes = soft.shape
    i, k, m = (x.ravel() for x in np.indices((pixels, classes, classes)))
    return costs[i, m], matrix[k, m], (i * classes + k, (shares[:, None] * soft).ravel())


def moves(costs, soft, valid, shares, window, metric, coupling):
    """Every move of the labels of pixel i (class k of them, in "joint") to a neighbour j."""
    places = [p for p in np.ndindex(valid.shape) if valid[p]]
    row, gain, price, mass = [], [], [], []
    for i in places:
        for k in range(soft.shape[-1]) if coupling == "joint" else [None]:
            mass.append(shares[i] * (1.0 if k is None else soft[(*i, k)]))
            for offset in itertools.product(range(-window, window + 1), repeat=len(i)):
                j = tuple(np.add(i, offset))
                if j in places:
                    row.append(len(mass) - 1)
                    # In "jitter" i receives the labels of j; in "joint" it sends its own to j.
                    gain.append(soft[j] @ costs[i] if k is None else costs[(*j, k)])
                    price.append(DISTANCES[metric](np.array(offset)))
    return np.array(gain), np.array(price), (np.array(row), np.array(mass))


def spread_of(costs):
    return np.nanmax(costs) - np.nanmin(costs)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("stance", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("budget", ["pixel", "image"])
def test_class_transport(rng, hard, stance, budget):
    sign = 1 if stance == "pessimistic" else -1
    for classes, radius in [(2, 0.1), (3, 0.0), (4, 0.4), (5, 3.0), (7, 0.3), (20, 0.2)]:
        costs, given, weights = random_problem(rng, (1, 3, 4), classes, hard)
        matrix = rng.uniform(0.2, 2.0, (classes, classes))
        matrix[rng.random((classes, classes)) < 0.2] = np.inf
        np.fill_diagonal(matrix, 0.0)
        ambiguity = labels.WassersteinAmbiguity(matrix, radius, budget=budget, stance=stance)
        found = np.asarray(ambiguity(costs, given, weights))[0]
        pixels = weights[0] > 0
        own, soft = costs[0][pixels], one_hot(given, classes)[0][pixels]
        if budget == "image":
            shares = weights[0][pixels] / weights[0].sum()
            expected = transport(sign, *flips(own, soft, shares, matrix), radius)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * spread_of(costs))
            continue
        expected = [
            transport(sign, *flips(own[[n]], soft[[n]], np.ones(1), matrix), radius)
            for n in range(len(own))
        ]
        np.testing.assert_allclose(found[pixels], expected, rtol=0, atol=1e-9 * spread_of(costs))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("stance", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("coupling", ["jitter", "joint"])
def test_spatial_transport(rng, hard, stance, coupling):
    sign = 1 if stance == "pessimistic" else -1
    for shape, classes, window, metric, radius in [
        ((4, 5), 3, 1, "euclidean", 0.1),
        ((5, 3), 2, 2, "sqeuclidean", 0.4),
        ((2, 3, 3), 2, 1, "chebyshev", 0.2),
        ((1, 6), 4, 3, "euclidean", 9.0),
        ((3, 3), 3, 1, "euclidean", 0.0),
    ]:
        costs, given, weights = random_problem(rng, (1, *shape), classes, hard)
        ambiguity = labels.SpatialWassersteinAmbiguity(
            window, radius, metric, coupling, stance=stance
        )
        found = float(np.asarray(ambiguity(costs, given, weights))[0])
        shares = weights[0] / weights[0].sum()
        soft = one_hot(given, classes)[0]
        gains, prices, fixed = moves(
            costs[0], soft, weights[0] > 0, shares, window, metric, coupling
        )
        expected = transport(sign, gains, prices, fixed, radius)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * spread_of(costs))


def convex_divergence(name, q, y):
    """D(q, y) for cvxpy; q may leave the support of y where D charges it finitely."""
    on = y > 0
    terms = {
        "kl": lambda: cvxpy.sum(cvxpy.rel_entr(q[on], y[on])),
        "reverse_kl": lambda: cvxpy.sum(cvxpy.rel_entr(y[on], q[on])),
        "chi2": lambda: cvxpy.sum(cvxpy.multiply(cvxpy.square(q[on] - y[on]), 1 / y[on])),
        # sum (q - y)^2 / q = sum y^2 / q - 1 for distributions.
        "neyman": lambda: cvxpy.sum(cvxpy.multiply(y[on] ** 2, cvxpy.inv_pos(q[on]))) - 1,
        "hellinger": lambda: 2 - 2 * cvxpy.sum(cvxpy.multiply(np.sqrt(y[on]), cvxpy.sqrt(q[on]))),
        "tv": lambda: 0.5 * cvxpy.norm1(q - y),
        "jeffreys": lambda: cvxpy.sum(cvxpy.rel_entr(q[on], y[on]) + cvxpy.rel_entr(y[on], q[on])),
    }
    return terms[name]()


def solved(objective, constraints):
    cvxpy.Problem(cvxpy.Maximize(objective), constraints).solve(
        solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
    )
    return objective.value


def simplex(q, y, name):
    outside = [q[np.flatnonzero(y == 0)] == 0] if name in ("kl", "chi2", "jeffreys") else []
    return [cvxpy.sum(q) == 1, q >= 0, *[c for c in outside if c.size]]


NAMES = ("kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys")


@pytest.mark.parametrize("name", NAMES)
def test_ball_of_soft_labels(rng, name):
    """Our labels are in the ball, pay the value, and are no worse than the solver's.

    Clarabel can stop inside the ball, short of the value, or outside by an excess: the value is
    concave in the radius, so that buys it spread excess / radius at most.
    """
    for classes, radius in [(2, 0.1), (4, 0.02), (4, 0.5), (7, 0.2), (20, 0.1)]:
        costs, given, _ = random_problem(rng, (1, 3), classes, hard=False, void=0.0)
        ambiguity, spread = labels.DivergenceAmbiguity(name, radius), spread_of(costs)
        found = np.asarray(ambiguity(costs, given))[0]
        chosen = np.asarray(ambiguity.worst_case_labels(costs, given))[0]
        for n, value in enumerate(found):
            q, y = cvxpy.Variable(classes), given[0, n]
            inside = convex_divergence(name, q, y) <= radius
            expected = solved(costs[0, n] @ q, [*simplex(q, y, name), inside])
            excess = max(convex_divergence(name, q, y).value - radius, 0.0)
            assert value >= expected - (1e-6 + excess / radius) * spread
            np.testing.assert_allclose(chosen[n] @ costs[0, n], value, rtol=0, atol=1e-9 * spread)
            assert convex_divergence(name, cvxpy.Constant(chosen[n]), y).value <= radius + 1e-9
            np.testing.assert_allclose(chosen[n].sum(), 1.0, rtol=0, atol=1e-12)
            assert np.all(chosen[n] >= 0)


@pytest.mark.parametrize("name", NAMES)
def test_penalty_of_soft_labels(rng, name):
    costs, given, _ = random_problem(rng, (1, 3), 4, hard=False, void=0.0)
    for weight in (0.1, 2.0):
        found = np.asarray(labels.DivergencePenaltyAmbiguity(name, weight)(costs, given))[0]
        for n, value in enumerate(found):
            q, y = cvxpy.Variable(4), given[0, n]
            objective = costs[0, n] @ q - weight * convex_divergence(name, q, y)
            expected = solved(objective, simplex(q, y, name))
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6 * spread_of(costs))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_budget_of_an_image(rng, name, hard):
    if hard and name in ("kl", "chi2", "jeffreys"):
        pytest.skip("holds hard labels")
    costs, given, weights = random_problem(rng, (1, 4), 3, hard)
    shares, soft = weights[0] / weights[0].sum(), one_hot(given, 3)[0]
    pixels = np.flatnonzero(shares)
    for radius in (0.03, 0.4):
        found = labels.DivergenceAmbiguity(name, radius, "image")(costs, given, weights)
        qs = [cvxpy.Variable(3) for _ in pixels]
        spent = sum(
            shares[i] * convex_divergence(name, q, soft[i]) for i, q in zip(pixels, qs, strict=True)
        )
        value = sum(shares[i] * (costs[0, i] @ q) for i, q in zip(pixels, qs, strict=True))
        limits = [c for i, q in zip(pixels, qs, strict=True) for c in simplex(q, soft[i], name)]
        expected = solved(value, [*limits, spent <= radius])
        np.testing.assert_allclose(
            np.asarray(found)[0], expected, rtol=0, atol=1e-6 * spread_of(costs)
        )
