"""Risk measures that are known by two names are one; solvers of other people agree."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from risk_cases import N, close, sample
from scipy import optimize, special

from keras_robustseg import risk


def test_limits(rng):
    losses, weights = sample(rng)
    mean, top = np.average(losses, axis=1, weights=weights), losses.max(1)
    for measure in (
        risk.Expectation(),
        risk.CVaR(1.0),
        risk.EVaR(1.0),
        risk.MeanSemideviation(0.0),
        risk.MeanDeviation(0.0),
        risk.SpectralRisk(np.full(9, 1 / 9)),
        risk.WassersteinBall(1.0 - np.eye(N), 0.0),
        *(risk.DivergenceBall(d, 0.0) for d in ("kl", "chi2", "tv", "jeffreys", "neyman")),
    ):
        close(measure(losses, weights, axis=1), mean, atol=1e-11)
    for measure in (
        risk.CVaR(1e-9),
        risk.EVaR(1e-9),
        risk.WassersteinBall(1.0 - np.eye(N), 1.0),
        risk.DivergenceBall("tv", 1.0),
        risk.DivergenceBall("hellinger", 2.0),
        risk.DivergenceBall("chi2", 1e4),
        risk.DivergenceBall("renyi", 20.0, order=2.5),
    ):
        close(measure(losses, weights, axis=1), top, atol=1e-11)


def test_members_that_are_the_same(rng):
    x = sample(rng)
    kl = risk.DivergenceBall("kl", -np.log(0.2))
    moved = 0.3 * x[0].max(1) + 0.7 * risk.CVaR(0.7)(*x, axis=1)
    for one, two in (
        (risk.EVaR(0.2)(*x, axis=1), kl(*x, axis=1)),
        (risk.DivergenceBall("tv", 0.3)(*x, axis=1), moved),
        (risk.DivergencePenalty("kl", 0.7)(*x, axis=1), risk.EntropicRisk(0.7)(*x, axis=1)),
        (
            risk.DivergenceBall("renyi", np.log1p(0.4), order=2.0)(*x, axis=1),
            risk.DivergenceBall("chi2", 0.4)(*x, axis=1),
        ),
        (
            risk.DivergenceBall("renyi", -2 * np.log1p(-0.1), order=0.5)(*x, axis=1),
            risk.DivergenceBall("hellinger", 0.2)(*x, axis=1),
        ),
        (
            risk.DivergenceBall("chi2", 0.001)(*x, axis=1),
            risk.MeanDeviation(np.sqrt(0.001))(*x, axis=1),
        ),
        (risk.OCE(ops.expm1, 0.7)(*x, axis=1), risk.EntropicRisk(0.7)(*x, axis=1)),
        (
            risk.SpectralRisk([0.0] * 3 + [0.5] * 2)(x[0], axis=1),
            risk.CVaR(0.4)(x[0], axis=1),
        ),
        (
            risk.WassersteinBall(1.0 - np.eye(N), 0.3)(*x, axis=1),
            risk.DivergenceBall("tv", 0.3)(*x, axis=1),
        ),
    ):
        close(one, two, atol=1e-11)


def test_penalties_of_a_divergence_and_of_its_conjugate_are_the_same(rng):
    infinite = float("inf")
    conjugates = {
        "reverse_kl": lambda s: ops.where(s < 1, -ops.log(ops.maximum(1 - s, 1e-300)), infinite),
        "chi2": lambda s: ops.where(s > -2, s + s * s / 4, -1.0),
        "hellinger": lambda s: ops.where(s < 1, s / (1 - s), infinite),
    }
    losses, weights = sample(rng, 2)
    for name, conjugate in conjugates.items():
        for kind in (risk.DivergenceBall, risk.DivergencePenalty):
            expected = kind(name, 0.3)(losses, weights, axis=1)
            found = kind(conjugate, 0.3)(losses, weights, axis=1)
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_balls_against_a_general_solver(rng):
    losses, p = rng.exponential(size=5), rng.dirichlet(np.full(5, 3.0))
    divergences = {
        "kl": lambda q: special.rel_entr(q, p).sum(),
        "reverse_kl": lambda q: special.rel_entr(p, q).sum(),
        "chi2": lambda q: ((q - p) ** 2 / p).sum(),
        "neyman": lambda q: ((q - p) ** 2 / q).sum(),
        "hellinger": lambda q: ((np.sqrt(q) - np.sqrt(p)) ** 2).sum(),
        "jeffreys": lambda q: ((q - p) * np.log(q / p)).sum(),
    }
    for name, divergence in divergences.items():
        solved = optimize.minimize(
            lambda q: -(q @ losses),
            p,
            method="SLSQP",
            bounds=[(1e-9, 1)] * 5,
            constraints=[
                {"type": "eq", "fun": lambda q: q.sum() - 1},
                {"type": "ineq", "fun": lambda q, d=divergence: 0.1 - d(q)},
            ],
            options={"ftol": 1e-14, "maxiter": 300},
        )
        measure = risk.DivergenceBall(name, 0.1)
        assert float(measure(losses, p)) == pytest.approx(-solved.fun, abs=1e-6)
        q = np.asarray(measure.worst_case_weights(losses, p))
        assert divergence(q) == pytest.approx(0.1, rel=1e-9)


def test_cvar_against_its_linear_program(rng):
    losses = rng.integers(0, 4, 12).astype("float64")
    p = rng.dirichlet(np.ones(12))
    for alpha in (0.07, 0.33, 0.9):
        bounds = [(0, share / alpha) for share in p]
        solved = optimize.linprog(-losses, A_eq=np.ones((1, 12)), b_eq=[1], bounds=bounds)
        assert float(risk.CVaR(alpha)(losses, p)) == pytest.approx(-solved.fun, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_chi2_ball_is_reached_where_few_losses_keep_a_weight(dtype, rng):
    losses = (-3.0 * rng.exponential(size=(2000, N))).astype(dtype)
    weights = (rng.random((2000, N)) + 0.05).astype(dtype)
    p = weights.astype("float64") / weights.sum(1, keepdims=True, dtype="float64")
    reached = np.where(losses == losses.max(1, keepdims=True), p, 0.0).sum(1)
    for radius in (0.3, 0.7, 1.5, 3.0):
        ball = risk.DivergenceBall("chi2", radius)
        q = np.asarray(ball.worst_case_weights(losses, weights, axis=1), "float64")
        expected = np.minimum(radius, 1.0 / reached - 1.0)
        np.testing.assert_allclose(((q - p) ** 2 / p).sum(1), expected, rtol=1e-4)
