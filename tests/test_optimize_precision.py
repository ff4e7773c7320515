"""The graphical lasso and its robust form against reference values, scikit-learn and identities."""

from __future__ import annotations

import numpy as np
import prox_cases
import pytest
import tensorflow as tf
from prox_cases import differences, pulled_back
from sklearn.covariance import graphical_lasso as oracle

from keras_robustseg import optimize
from keras_robustseg.optimize import graphical_lasso, robust_precision

GOLDEN = prox_cases.golden("glasso")
OFF = 1.0 - np.eye(8)


def covariance(rng, size=6, samples=40, batch=()):
    x = rng.normal(size=(*batch, samples, size)) @ rng.normal(size=(size, size))
    return np.swapaxes(x, -1, -2) @ x / samples


def objective(C, S, sigma2, nuclear, l1):
    """The formula of the docstring, from determinants and inverses."""
    eye = np.eye(len(S))
    fit = np.linalg.slogdet(np.linalg.inv(C) + sigma2 * eye)[1]
    fit += np.trace(np.linalg.inv(eye + sigma2 * C) @ C @ S)
    return fit + nuclear * np.trace(C) + np.sum(l1 * np.abs(C) * (1 - eye))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_reference_values_and_derivatives_of_the_graphical_lasso(dtype):
    S, l1 = GOLDEN["S"].astype(dtype), GOLDEN["lam"].astype(dtype)
    bounds = (1e-6, 1e-6) if dtype == "float64" else (2e-3, 1e-2)
    for prefix, diagonal in (("offdiag", False), ("diag", True)):

        def validation(l1, prefix=prefix, diagonal=diagonal):
            C, info = graphical_lasso(S, l1, penalize_diagonal=diagonal)
            assert optimize.worst_status(info) is optimize.Status.OK
            np.testing.assert_allclose(C, GOLDEN[f"{prefix}_X"], atol=bounds[0])
            return -tf.linalg.logdet(C) + tf.reduce_sum(GOLDEN["S_val"].astype(dtype) * C)

        value, slope = pulled_back(validation, (l1,), np.ones(()))
        np.testing.assert_allclose(value, GOLDEN[f"{prefix}_val"], rtol=bounds[0])
        np.testing.assert_allclose(slope, GOLDEN[f"{prefix}_dval_dlam"], rtol=bounds[1])


def test_reference_values_of_the_robust_form():
    arguments = [GOLDEN[f"mm_{name}"] for name in ("Sy", "sigma2", "mu0", "mu1")]
    C, info = robust_precision(*arguments)
    np.testing.assert_allclose(C, GOLDEN["mm_C"], atol=1e-7)
    assert info.residual < 1e-8
    assert optimize.Status(int(info.status)) is optimize.Status.OK
    np.testing.assert_allclose(objective(np.asarray(C), *arguments), GOLDEN["mm_obj"], rtol=1e-12)


def test_scikit_learn_agrees_on_a_batch(rng):
    S = covariance(rng, batch=(2, 3)) * np.array([1e-3, 1.0, 1e3])[:, None, None]
    l1 = 0.1 * np.mean(np.diagonal(S, axis1=-2, axis2=-1), -1)
    C, info = graphical_lasso(S, l1)
    assert info.status.shape == (2, 3)
    assert np.all(info.duality_gap < 1e-7)
    for i in np.ndindex(2, 3):
        expected = oracle(S[i], l1[i], tol=1e-10, enet_tol=1e-12, max_iter=500)[1]
        np.testing.assert_allclose(C[i], expected, atol=1e-6 * np.abs(expected).max())


def test_without_noise_the_robust_form_is_the_graphical_lasso(rng):
    S = covariance(rng)
    expected, _ = graphical_lasso(S, 0.2)
    for sigma2 in (0.0, tf.constant(0.0, tf.float64)):
        C, info = robust_precision(S, sigma2, 0.0, 0.2)
        np.testing.assert_allclose(C, expected, atol=1e-7)
        assert info.residual < 1e-8 * np.trace(S)


def test_without_penalties_the_graphical_lasso_is_the_inverse(rng):
    S = covariance(rng, 4)
    np.testing.assert_allclose(graphical_lasso(S, 0.0)[0], np.linalg.inv(S), rtol=1e-6)


def test_answers_are_stationary_and_the_objective_falls(rng):
    sigma2 = 0.3
    S = covariance(rng, 7, samples=20)
    values = []
    for steps in (1, 2, 4):
        with pytest.warns(RuntimeWarning, match="NOT_CONVERGED"):
            C, _ = robust_precision(S, sigma2, 0.05, 0.1, max_iterations=steps)
        values.append(objective(np.asarray(C), S, sigma2, 0.05, 0.1))
    assert np.all(np.diff(values) <= 1e-9 * np.abs(values[0]))
    C, info = robust_precision(S, sigma2, 0.05, 0.1)
    C = np.asarray(C)
    assert info.relative_residual < 1e-8
    np.testing.assert_array_equal(C, C.T)
    assert np.linalg.eigvalsh(C)[0] > 0
    least = objective(C, S, sigma2, 0.05, 0.1)
    for _ in range(20):
        step = rng.normal(size=C.shape) * 1e-4
        assert objective(C + step + step.T, S, sigma2, 0.05, 0.1) > least - 1e-10


def test_derivatives_are_those_of_finite_differences(rng):
    S, v = covariance(rng, 5, batch=(2,)), rng.normal(size=(2, 5, 5))
    inputs = (S, np.array([0.1, 0.4]), np.array(0.05), np.array([0.1, 0.3]))

    def call(S, *numbers):
        return robust_precision((S + np.swapaxes(S, -1, -2)) / 2, *numbers, tol=1e-12)[0]

    def traced(S, *numbers):
        return robust_precision((S + tf.linalg.matrix_transpose(S)) / 2, *numbers, tol=1e-12)[0]

    _, *gradients = pulled_back(traced, inputs, v)
    expected, directions = differences(call, inputs, v, rng, 1e-5)
    along = [np.sum(g * d) for g, d in zip(gradients, directions, strict=True)]
    np.testing.assert_allclose(along, expected, rtol=1e-5)


def test_weights_of_entries(rng):
    S = covariance(rng, 4)
    weights = np.full((4, 4), 0.1)
    weights[0, 1] = weights[1, 0] = 1e3
    C, _ = graphical_lasso(S, weights)
    assert C[0, 1] == C[1, 0] == 0.0
    np.testing.assert_allclose(
        graphical_lasso(S, np.full((4, 4), 0.1))[0], graphical_lasso(S, 0.1)[0], atol=1e-10
    )


def test_a_problem_without_solution_is_reported():
    with pytest.warns(RuntimeWarning, match="NOT_CONVERGED|DIVERGED"):
        _, info = graphical_lasso(np.diag([1.0, 0.0]), 0.1, max_iterations=5)
    assert optimize.worst_status(info) in (
        optimize.Status.NOT_CONVERGED,
        optimize.Status.DIVERGED,
    )


@pytest.mark.slow
def test_inside_a_graph_and_under_xla(rng):
    S = covariance(rng, 5, batch=(2,))
    expected, _ = robust_precision(S, 0.2, 0.05, 0.1)

    def call(S):
        with tf.GradientTape() as tape:
            tape.watch(S)
            C, info = robust_precision(S, 0.2, 0.05, 0.1)
            total = tf.reduce_sum(C**2)
        return C, info.status, tape.gradient(total, S)

    slopes = [call(tf.constant(S))[2]]
    for xla in (False, True):
        C, status, slope = tf.function(call, jit_compile=xla)(tf.constant(S))
        np.testing.assert_allclose(C, expected, atol=1e-6)
        np.testing.assert_array_equal(status, 0)
        slopes.append(slope)
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-6)
    np.testing.assert_allclose(slopes[2], slopes[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda S: graphical_lasso(S + np.triu(np.ones((3, 3)), 1), 0.1), "`S` must be symmetric"),
        (lambda S: graphical_lasso(S[:2], 0.1), r"`S` must hold square.*\(2, 3\)"),
        (lambda S: graphical_lasso(np.nan * S, 0.1), "`S` must be finite"),
        (lambda S: graphical_lasso(-S, 0.1), "`S` must be a covariance"),
        (lambda S: graphical_lasso(S, -0.1), "`l1` must be 0 or above"),
        (lambda S: robust_precision(S, -1.0, 0.0, 0.1), "`sigma2` must be 0 or above"),
        (lambda S: robust_precision(S, 1.0, -1.0, 0.1), "`nuclear` must be 0 or above"),
        (lambda S: robust_precision(S, 1.0, 0.0, np.ones(4)), "`l1`"),
        (lambda S: graphical_lasso(S, 0.1, tol=0.0), "`tol` must be positive"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.eye(3))
