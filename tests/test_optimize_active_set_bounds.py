"""Derivatives on boxes and on the simplex by active sets, and smooth optima by their gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from keras_robustseg import optimize
from keras_robustseg.optimize import Status, box_vjp, simplex_vjp

FOLDER = Path(__file__).parent / "golden" / "implicit"


def quadratic(rng, n=7):
    root = rng.normal(size=(n, n))
    return root @ root.T / n + 0.3 * np.eye(n), rng.normal(size=n), rng.normal(size=n)


def box_solution(Q, c, low, high):
    """Projected gradients and then the linear system of the set they end on."""
    x, step = np.clip(np.zeros_like(c), low, high), 1.0 / np.linalg.norm(Q, 2)
    for _ in range(3000):
        x = np.clip(x - step * (Q @ x + c), low, high)
    free = (x > low) & (x < high)
    held = np.where(free, 0.0, x)
    x[free] = np.linalg.solve(Q[np.ix_(free, free)], -(c + Q @ held)[free])
    return x


def simplex_solution(Q, c, radius):
    x, step = np.full_like(c, radius / len(c)), 1.0 / np.linalg.norm(Q, 2)
    for _ in range(3000):
        z = np.sort(y := x - step * (Q @ x + c))[::-1]
        level = (np.cumsum(z) - radius) / np.arange(1, len(z) + 1)
        x = np.maximum(y - level[np.flatnonzero(z > level)[-1]], 0.0)
    free = np.flatnonzero(x > 0)
    k = len(free)
    system = np.block([[Q[np.ix_(free, free)], -np.ones((k, 1))], [np.ones((1, k)), 0.0]])
    x = np.zeros_like(c)
    x[free] = np.linalg.solve(system, [*-c[free], radius])[:k]
    return x


def slope(value, direction, step=1e-6):
    return (value(step * direction) - value(-step * direction)) / (2 * step)


@pytest.mark.parametrize("trial", range(3))
def test_box_against_finite_differences(trial, rng):
    Q, c, v = quadratic(rng)
    low, high = -rng.uniform(0.1, 0.6, 7), rng.uniform(0.1, 0.6, 7)
    x = box_solution(Q, c, low, high)
    assert np.any(x == low) or np.any(x == high)
    grads, info = box_vjp(Q, Q @ x + c, x, low, high, v)
    assert info.status == Status.OK
    assert info.residual < 1e-12
    for given, gradient in zip((c, Q, low, high), grads, strict=True):
        d = rng.normal(size=given.shape)
        d = d + d.T if d.ndim == 2 else d

        def value(change, given=given):
            moved = [a + change if a is given else a for a in (Q, c, low, high)]
            return v @ box_solution(*moved)

        np.testing.assert_allclose(np.sum(gradient * d), slope(value, d), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("trial", range(3))
def test_simplex_against_finite_differences(trial, rng):
    Q, c, v = quadratic(rng)
    radius = np.array(1.3)
    x = simplex_solution(Q, 2 * c, radius)
    assert np.any(x == 0)
    grads, info = simplex_vjp(Q, Q @ x + 2 * c, x, v)
    assert info.status == Status.OK
    assert info.residual < 1e-12
    for given, gradient in zip((2 * c, Q, radius), grads, strict=True):
        d = rng.normal(size=given.shape)
        d = d + d.T if d.ndim == 2 else d

        def value(change, given=given):
            moved = [given + change if a.shape == given.shape else a for a in (Q, 2 * c, radius)]
            return v @ simplex_solution(*moved)

        np.testing.assert_allclose(np.sum(gradient * d), slope(value, d), rtol=1e-6, atol=1e-8)


def test_the_projection_on_the_simplex_is_such_a_problem(rng):
    import tensorflow as tf

    y, v = tf.constant(rng.normal(size=9)), rng.normal(size=9)
    with tf.GradientTape() as tape:
        tape.watch(y)
        x = optimize.project_simplex(y)
        value = tf.reduce_sum(x * v)
    grads, _ = simplex_vjp(np.eye(9), x - y, x, v)
    np.testing.assert_allclose(-grads.linear, tape.gradient(value, y), atol=1e-12)


def test_dual_of_the_hinge_loss_golden_values():
    golden = np.load(FOLDER / "dev_svm.npz")
    X, y, C = golden["X"], golden["y"], golden["C"]
    free, at_bound = golden["free"].astype(bool), golden["at_bound"].astype(bool)
    alpha = np.where(at_bound, C, np.where(free, golden["alpha"], 0.0))
    Z = y[:, None] * X
    margins = golden["y_val"] * (golden["X_val"] @ golden["w"])
    pull = golden["y_val"] / (1 + np.exp(margins)) / len(margins)
    v = Z @ (-golden["X_val"].T @ pull)
    grads, info = box_vjp(Z @ Z.T, Z @ (Z.T @ alpha) - 1, alpha, 0.0, C, v)
    assert info.status == Status.OK
    np.testing.assert_allclose(grads.high, golden["dval_dC"], rtol=1e-6, atol=1e-9)


def test_kinks_and_singular_systems_are_told(rng):
    Q, _, v = quadratic(rng, 3)
    x = np.array([0.0, 0.5, 0.2])
    _, info = box_vjp(Q, np.zeros(3), x, 0.0, 1.0, v)  # at its bound without a multiplier
    assert info.status == Status.NEAR_KINK
    _, info = box_vjp(Q, np.array([0.5, 0.0, 0.0]), x, 0.0, 1.0, v)
    assert info.status == Status.OK
    x = np.array([0.0, 0.7, 0.3])
    assert simplex_vjp(Q, np.zeros(3), x, v)[1].status == Status.NEAR_KINK
    flat = np.ones((3, 3))
    grads, info = box_vjp(flat, np.zeros(3), np.full(3, 0.5), 0.0, 1.0, v)
    assert info.status == Status.SINGULAR
    assert np.isfinite(grads.linear).all()
    assert simplex_vjp(flat, np.zeros(3), np.full(3, 1 / 3), v)[1].status == Status.SINGULAR


def test_a_duplicated_column_of_the_golden_lasso_is_singular():
    golden = np.load(FOLDER / "dev_pathology.npz")
    X, y, weight = golden["dup_X"], golden["dup_y"], float(golden["dup_lambda"])
    w, step = np.zeros(5), len(y) / np.linalg.norm(X, 2) ** 2
    for _ in range(20000):
        z = w - step * X.T @ (X @ w - y) / len(y)
        w = np.sign(z) * np.maximum(np.abs(z) - step * weight, 0.0)
    grads, info = optimize.elastic_net_vjp(X, y, w, weight, 0.0, np.ones(5))
    assert info.status == Status.SINGULAR
    assert all(np.isfinite(each).all() for each in grads)


def test_multinomial_regression_as_a_root_golden_values():
    import tensorflow as tf

    golden = np.load(FOLDER / "dev_logistic.npz")
    X, Y = tf.constant(golden["X"]), tf.constant(golden["Y"])
    ridge = np.full((X.shape[1], 1), 1.0)
    ridge[-1] = 0.0
    floor = 1e-3 * (1 - ridge)

    def slope_of_fit(W, X, Y, lam, weights):
        off = weights[:, None] * (tf.nn.softmax(X @ W) * tf.reduce_sum(Y, 1, True) - Y)
        return tf.transpose(X) @ off / X.shape[0] + W * (ridge * lam + floor)

    given = (X, Y, tf.constant(golden["lam"]), tf.constant(golden["sample_weight"]))
    W, info = optimize.root(slope_of_fit, tf.zeros((7, 4), tf.float64), given)
    assert info.status == Status.OK
    np.testing.assert_allclose(W, golden["W"], atol=1e-6)
    p = softmax(golden["X_val"] @ W.numpy(), axis=1)
    v = golden["X_val"].T @ (p - golden["Y_val"]) / len(p)
    (_, to_y, to_lam, to_weights), info = optimize.root_vjp(slope_of_fit, W, given, v)
    assert info.status == Status.OK
    np.testing.assert_allclose(to_lam, golden["dval_dlam"], rtol=1e-6)
    np.testing.assert_allclose(to_weights, golden["dval_dsample_weight"], rtol=1e-5, atol=1e-9)
    off = to_y.numpy() - golden["dval_dY"]  # the golden one keeps the sum of a row apart
    np.testing.assert_allclose(off - off.mean(1, keepdims=True), 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hessian": np.ones((2, 3))}, r"`hessian` must have shape \(2, 2\)"),
        ({"gradient": np.ones(3)}, r"`gradient` must have shape \(2,\)"),
        ({"x": np.array([0.5, np.nan])}, "`x` must be finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"hessian": np.eye(2), "gradient": np.zeros(2), "x": np.full(2, 0.5)}
    with pytest.raises(ValueError, match=message):
        simplex_vjp(**{**given, **change}, cotangent=np.ones(2))


def test_a_smooth_problem_that_is_not_quadratic(rng):
    """min sum exp(x_i) - <theta, x> on a box, by an outside solver and finite differences."""
    theta, v, d = rng.uniform(0.3, 4, 5), rng.normal(size=5), rng.normal(size=5)

    def solution(theta):
        return minimize(
            lambda x: np.sum(np.exp(x)) - theta @ x,
            np.zeros(5),
            jac=lambda x: np.exp(x) - theta,
            bounds=[(-0.5, 0.5)] * 5,
            method="L-BFGS-B",
            options={"ftol": 1e-16, "gtol": 1e-12},
        ).x

    x = solution(theta)
    grads, info = box_vjp(np.diag(np.exp(x)), np.exp(x) - theta, x, -0.5, 0.5, v)
    assert info.residual < 1e-6
    expected = slope(lambda change: v @ solution(theta + change), d, 1e-4)
    np.testing.assert_allclose(-np.sum(grads.linear * d), expected, rtol=1e-4, atol=1e-6)
