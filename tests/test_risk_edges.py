"""Balls in float32 where few losses keep mass, or the worst loss has next to none, against SciPy.

The witnesses are the dual problems in one variable, solved in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from keras_robustseg import risk

ROWS = 60


def least(function, low, high):
    """Least value of a convex function on an interval: on a grid, then around its best point."""
    grid = np.linspace(low, high, 201)
    best = int(np.argmin([function(x) for x in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, 200)]
    found = minimize_scalar(function, bounds=around, method="bounded", options={"xatol": 1e-12})
    return min(found.fun, function(around[0]), function(around[1]))


def by_kl_dual(losses, p, radius):
    """min over the price of price radius + price log sum p exp(l / price)."""
    return least(
        lambda log: np.exp(log) * (radius + logsumexp(losses / np.exp(log), b=p)), -25.0, 8.0
    )


def by_renyi_dual(losses, p, radius, order):
    """min over eta of eta + exp((k - 1) radius / k) (sum p (l - eta)_+^(k / (k - 1)))^((k - 1) / k)

    with log(max l - eta) as the variable.
    """
    dual = order / (order - 1.0)

    def value(log):
        eta = losses.max() - np.exp(log)
        norm = (p @ np.maximum(losses - eta, 0.0) ** dual) ** (1.0 / dual)
        return eta + np.exp(radius / dual) * norm

    return least(value, -25.0, 8.0)


def awkward_rows(rng, n):
    """Random rows; in half of them the greatest loss weighs 1e-6, in others many do."""
    losses = rng.normal(size=(ROWS, n))
    weights = rng.random((ROWS, n)) + 0.05
    top = losses.argmax(1)
    weights[np.arange(0, ROWS, 2), top[::2]] = 1e-6
    light = rng.random((ROWS, n)) < 0.3
    light[:, 0] = False
    weights[1::4][light[1::4]] = 1e-6
    return losses.astype("float32"), weights.astype("float32")


@pytest.mark.parametrize(
    ("divergence", "order"), [("kl", None), ("chi2", None), ("renyi", 3.0), ("renyi", 1.5)]
)
@pytest.mark.parametrize("n", [2, 7])
def test_light_losses_in_float32(rng, divergence, order, n):
    losses, weights = awkward_rows(rng, n)
    radii = np.exp(rng.uniform(np.log(1e-3), np.log(14.0), ROWS))
    if divergence == "chi2":
        radii = np.expm1(radii)
    measure = risk.DivergenceBall(divergence, radii, order)
    single = np.asarray(measure(losses, weights, axis=1))
    wide = losses.astype("float64"), weights.astype("float64")
    double = np.asarray(measure(*wide, axis=1))
    spread = np.ptp(wide[0], axis=1)
    for row, (row_losses, row_weights) in enumerate(zip(*wide, strict=True)):
        p, radius = row_weights / row_weights.sum(), radii[row]
        if divergence == "kl":
            expected = by_kl_dual(row_losses, p, radius)
        else:
            size = np.log1p(radius) if divergence == "chi2" else radius
            expected = by_renyi_dual(row_losses, p, size, order or 2.0)
        # Bounded search in one variable is good to this much.
        assert abs(double[row] - expected) <= 2e-6 * spread[row], row
        rounding = np.spacing(np.abs(losses[row]).max())
        assert abs(single[row] - expected) <= 1e-5 * spread[row] + rounding, row


@pytest.mark.parametrize("order", [1.5, 2.0, 3.0, 6.0])
def test_weights_of_a_renyi_ball_in_float32(rng, order):
    losses, weights = awkward_rows(rng, 7)
    for radius in (0.05, 0.4, 1.5, 6.0):
        measure = risk.DivergenceBall("renyi", radius, order)
        single = measure.worst_case_weights(losses, weights, axis=1)
        wide = losses.astype("float64"), weights.astype("float64")
        double = np.asarray(measure.worst_case_weights(*wide, axis=1))
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)
        p = wide[1] / wide[1].sum(1, keepdims=True)
        size = np.log((p * (double / p) ** order).sum(1)) / (order - 1.0)
        assert np.all(size <= radius * (1.0 + 1e-9) + 1e-12)


def test_a_ball_that_is_small_beside_the_rounding_of_its_divergence(rng):
    losses, weights = np.float32([[0.0, 1.0]]), np.float32([[1.0, 1e-6]])
    for radius in (1e-3, 1e-2):
        p = np.array([1.0, 1e-6]) / (1.0 + 1e-6)
        expected = by_kl_dual(np.array([0.0, 1.0]), p, radius)
        found = float(risk.DivergenceBall("kl", radius)(losses, weights))
        assert abs(found - expected) <= 1e-5
