"""Risks and Wasserstein balls in a classifier's objective agree with conic programs."""

from __future__ import annotations

import numpy as np
import pytest
from classifier_cases import difference, problem
from numpy.testing import assert_allclose
from scipy import sparse

from keras_robustseg import risk
from keras_robustseg.classifiers import PixelLogisticRegression, PixelSVM
from keras_robustseg.optimize import Status

cp = pytest.importorskip("cvxpy")


def unknowns(X: np.ndarray, y: np.ndarray):
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    return w, b, cp.multiply(2 * y - 1, X @ w + b)


def solved(objective, constraints=()):
    found = cp.Problem(cp.Minimize(objective), list(constraints))
    found.solve(solver=cp.CLARABEL)
    return found.value


def value(model, measure, losses, weight, l2):
    assert model.solve_info_.status == Status.OK
    return float(measure(losses, weight)) + 0.5 * l2 * (model.coef_**2).sum()


@pytest.mark.slow
def test_logistic_regression_over_a_kl_ball(rng):
    X, y = problem(rng, 60, 3, 2)
    weight, l2, radius = rng.uniform(0.5, 2.0, 60), 0.05, 0.2
    measure = risk.DivergenceBall("kl", radius)
    model = PixelLogisticRegression(l2, risk=measure, reduction="weighted_mean")
    model.fit(X, y, weight)
    losses = np.logaddexp(0.0, -(2 * y - 1) * model.decision_function(X))
    w, b, margin = unknowns(X, y)
    u, z, scale, level = cp.Variable(60), cp.Variable(60), cp.Variable(), cp.Variable()
    cone = cp.ExpCone(u - level, scale * np.ones(60), z)
    limits = [u >= cp.logistic(-margin), cone, (weight / weight.sum()) @ z <= scale]
    least = solved(level + radius * scale + 0.5 * l2 * cp.sum_squares(w), limits)
    found = value(model, measure, losses, weight, l2)
    assert_allclose(found, least, rtol=2e-6)
    # The cone program stops early: what it found is no better than ours.
    theirs = np.logaddexp(0.0, -(2 * y - 1) * (X @ w.value + b.value))
    assert found <= float(measure(theirs, weight)) + 0.5 * l2 * (w.value**2).sum() + 1e-9
    assert_allclose(model.coef_[0], w.value, atol=1e-3)
    assert model.hyperparameters_ == ()


def cvar(losses, weight, alpha, level):
    return level + weight @ cp.pos(losses - level) / (alpha * weight.sum())


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_logistic_regression_by_cvar(alpha, rng):
    X, y = problem(rng, 60, 3, 2)
    weight, l2, measure = rng.uniform(0.5, 2.0, 60), 0.05, risk.CVaR(alpha)
    model = PixelLogisticRegression(l2, risk=measure, reduction="weighted_mean", max_iter=1000)
    model.fit(X, y, weight)
    losses = np.logaddexp(0.0, -(2 * y - 1) * model.decision_function(X))
    w, _, margin = unknowns(X, y)
    least = solved(
        cvar(cp.logistic(-margin), weight, alpha, cp.Variable()) + 0.5 * l2 * cp.sum_squares(w)
    )
    found = value(model, measure, losses, weight, l2)
    assert_allclose(found, least, rtol=1e-6)
    assert found - least <= model.solve_info_.duality_gap + 1e-8


@pytest.mark.parametrize(("alpha", "as_sparse"), [(0.05, False), (0.3, True), (0.9, False)])
def test_hinge_by_cvar_is_exact(alpha, as_sparse, rng):
    X, y = problem(rng, 80, 3, 2)
    weight, l2, measure = rng.uniform(0.5, 2.0, 80), 0.05, risk.CVaR(alpha)
    model = PixelSVM("hinge", l2, risk=measure, reduction="weighted_mean")
    model.fit(sparse.csr_array(X) if as_sparse else X, y, weight)
    losses = np.maximum(0.0, 1.0 - (2 * y - 1) * model.decision_function(X))
    w, _, margin = unknowns(X, y)
    least = solved(
        cvar(cp.pos(1 - margin), weight, alpha, cp.Variable()) + l2 / 2 * cp.sum_squares(w)
    )
    assert_allclose(value(model, measure, losses, weight, l2), least, rtol=1e-7)
    assert_allclose(model.coef_[0], w.value, atol=1e-5)


def test_easy_pixels_make_the_level_of_the_cvar_zero(rng):
    X, y = problem(rng, 60, 2, 2)
    X = X + 4.0 * (2 * y - 1)[:, None]
    model = PixelSVM("hinge", 1e-3, risk=risk.CVaR(0.9)).fit(X, y)
    w, _, margin = unknowns(X, y)
    ones = np.ones(60)
    solved(cvar(cp.pos(1 - margin), ones, 0.9, cp.Variable()) + 5e-4 * cp.sum_squares(w))
    assert_allclose(model.coef_[0], w.value, atol=1e-5)


def test_the_mean_as_risk_is_no_risk(rng):
    X, y = problem(rng, 80, 3, 3)
    weight = rng.uniform(0.5, 2.0, 80)
    for plain in (
        PixelLogisticRegression(0.02, class_weight="balanced"),
        PixelLogisticRegression(2.0, reduction="sum"),
        PixelSVM("squared_hinge", 0.02),
    ):
        coef = plain.fit(X, y, weight).coef_
        plain.set_params(risk=risk.Expectation()).fit(X, y, weight)
        assert_allclose(plain.coef_, coef, atol=1e-6)


def test_by_blocks_it_is_the_same(rng):
    X, y = problem(rng, 80, 3, 3)
    weight = rng.uniform(0.5, 2.0, 80)
    both = PixelLogisticRegression(0.02, risk=risk.EntropicRisk(0.5))
    whole = both.fit(X, y, weight).coef_
    parts = [(X[:30], y[:30], weight[:30]), (X[30:], y[30:], weight[30:])]
    assert_allclose(both.fit_blocks(parts).coef_, whole, atol=1e-6)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_wasserstein_ball_of_features(norm, dual, rng):
    X, y = problem(rng, 80, 4, 2)
    model = PixelLogisticRegression(0.0, wasserstein_radius=0.02, wasserstein_norm=norm).fit(X, y)
    w, b, margin = unknowns(X, y)
    solved(cp.sum(cp.logistic(-margin)) / 80 + 0.02 * cp.norm(w, dual))
    assert_allclose(model.coef_[0], w.value, atol=2e-5)
    assert_allclose(model.intercept_[0], b.value, atol=2e-5)
    validation = problem(rng, 40, 4, 2)
    found = model.hypergradient(*validation, names=["wasserstein_radius"])

    def moved(radius):
        again = PixelLogisticRegression(0.0, wasserstein_norm=norm, wasserstein_radius=radius)
        return again.fit(X, y).validation_loss(*validation)

    expected = difference(moved, 0.02, np.array(1.0))
    assert_allclose(found["wasserstein_radius"], expected, rtol=1e-5)


def test_what_does_not_fit_is_refused(rng):
    X, y = problem(rng, 30, 3, 3)
    with pytest.raises(ValueError, match="one row of coefficients"):
        PixelLogisticRegression(wasserstein_radius=0.1).fit(X, y)
    with pytest.raises(ValueError, match="Expected wasserstein_norm"):
        PixelLogisticRegression(wasserstein_norm="l7").fit(X, y)
    with pytest.raises(ValueError, match="wasserstein_radius of 0 or more"):
        PixelLogisticRegression(wasserstein_radius=-1.0).fit(X, y)
    with pytest.raises(ValueError, match="l2 penalty alone"):
        PixelLogisticRegression(l1=0.1, risk=risk.CVaR(0.5)).fit(X, y)
    with pytest.raises(TypeError, match="Expected risk to be a measure"):
        PixelLogisticRegression(risk=0.5).fit(X, y)
    with pytest.raises(ValueError, match="has no risk"):
        PixelSVM("hinge", risk=risk.CVaR(0.5)).fit(X, y)
    with pytest.raises(ValueError, match="no hypergradient"):
        PixelSVM("squared_hinge", risk=risk.Expectation()).fit(X, y).hypergradient(X, y)
