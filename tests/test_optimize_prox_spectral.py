"""Spectral proximal operators against reference values, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import prox_cases
import pytest
import tensorflow as tf
from prox_cases import pulled_back
from scipy.optimize import brentq

from keras_robustseg import optimize

each_type = pytest.mark.parametrize("dtype", ["float64", "float32"])
GOLDEN = prox_cases.golden("prox")


def agrees(dtype, call, names, cotangent, keys):
    inputs = tuple(np.asarray(GOLDEN[name], dtype) for name in names)
    found = pulled_back(call, inputs, GOLDEN[cotangent])
    values, derivatives = (1e-9, 1e-9) if dtype == "float64" else (1e-5, 1e-4)
    for i, key in enumerate(keys):
        bound = derivatives if i else values
        np.testing.assert_allclose(found[i], GOLDEN[key], rtol=bound, atol=bound)


@each_type
def test_nuclear(dtype):
    keys = ("nuc", "nuc_vjp", "nuc_dlam")
    agrees(dtype, optimize.prox_nuclear, ("nuc_x", "nuc_lam"), "nuc_cotangent", keys)


@each_type
@pytest.mark.parametrize("case", ["logdet", "logdet_rep"])
def test_log_determinant_with_signed_and_repeated_eigenvalues(case, dtype):
    names, keys = (f"{case}_x", "logdet_gamma"), (case, f"{case}_vjp")
    agrees(dtype, optimize.prox_neg_logdet, names, "logdet_cotangent", keys)


def test_log_determinant_with_its_other_terms():
    x, step = GOLDEN["logdet_x"], GOLDEN["logdet_gamma"]
    found = optimize.prox_neg_logdet(x, step, nuclear=GOLDEN["logdet_nuc_mu"])
    np.testing.assert_allclose(found, GOLDEN["logdet_nuc"], atol=1e-12)
    found = optimize.prox_neg_logdet(x, step, frobenius=GOLDEN["logdet_fro_mu"])
    np.testing.assert_allclose(found, GOLDEN["logdet_fro"], atol=1e-12)
    noisy = prox_cases.golden("glasso")
    scalars = noisy["specprox_a"][:, None, None]
    found = optimize.prox_neg_logdet(scalars, noisy["specprox_gamma"], sigma2=0.3)
    np.testing.assert_allclose(np.ravel(found), noisy["specprox"], atol=1e-12)


def test_projection_and_rank():
    np.testing.assert_allclose(optimize.project_psd(GOLDEN["logdet_x"]), GOLDEN["psd"], atol=1e-12)
    found = optimize.prox_rank(GOLDEN["nuc_x"], GOLDEN["rank_mu"])
    np.testing.assert_allclose(found, GOLDEN["rank_prox"], atol=1e-12)


def test_noise_term_over_sixteen_decades(rng):
    a = rng.choice([-1, 1], 300) * 10 ** rng.uniform(-8, 8, 300)
    step, sigma2, nuclear, frobenius = 10 ** rng.uniform(-4, 4, (4, 300))
    sigma2[:30] = 0.0
    found = optimize.prox_neg_logdet(
        a[:, None, None], step, nuclear=nuclear, frobenius=frobenius, sigma2=sigma2
    )
    for c, *numbers in zip(np.ravel(found), a, step, nuclear, frobenius, sigma2, strict=True):

        def slope(log_c, numbers=tuple(numbers)):
            a, g, mu, f, s = numbers
            c = np.exp(log_c)
            return (c - a) * c * (1 + s * c) + g * ((mu + f * c) * c * (1 + s * c) - 1)

        assert np.log(c) == pytest.approx(brentq(slope, -60, 40, xtol=1e-14), abs=1e-9)


def test_moreau_identity_of_the_nuclear_norm(rng):
    x = rng.normal(size=(3, 4, 6))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    in_ball = (left * np.minimum(values, 0.7)[:, None, :]) @ right
    np.testing.assert_allclose(optimize.prox_nuclear(x, 0.7) + in_ball, x, atol=1e-12)


@pytest.mark.parametrize("call", [optimize.prox_nuclear, optimize.prox_rank])
def test_repeated_and_zero_singular_values_have_derivatives(call, rng):
    left, right = np.linalg.qr(rng.normal(size=(5, 3)))[0], np.linalg.qr(rng.normal(size=(4, 3)))[0]
    x, v = 3.0 * left @ right.T, rng.normal(size=(5, 4))

    def along(*moved):
        return call(*moved, 0.8)

    _, gradient = pulled_back(along, (x,), v)
    expected, (direction,) = prox_cases.differences(along, (x,), v, rng)
    np.testing.assert_allclose(np.sum(gradient * direction), expected[0], rtol=1e-6)
    assert np.isfinite(pulled_back(along, (np.zeros((5, 4)),), v)[1]).all()


def test_penalty_zero_is_the_identity_with_its_derivative(rng):
    x, v = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 3))
    value, gradient = pulled_back(lambda x: optimize.prox_nuclear(x, 0.0), (x,), v)
    np.testing.assert_allclose(value, x, atol=1e-12)
    np.testing.assert_allclose(gradient, v, atol=1e-12)


def test_second_derivatives_are_refused():
    x = tf.constant(GOLDEN["logdet_x"])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = tf.reduce_sum(optimize.project_psd(x) ** 2)
        slope = inner.gradient(value, x)
    with pytest.raises(NotImplementedError, match="first order only"):
        outer.gradient(slope, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimize.project_psd([[1.0, 0.5], [0.0, 1.0]]), "symmetric.*0.5"),
        (lambda: optimize.prox_neg_logdet(np.ones((2, 3))), r"square.*\(2, 3\)"),
        (lambda: optimize.prox_neg_logdet(np.eye(2), 0.0), "`step` must be above 0"),
        (lambda: optimize.prox_neg_logdet(np.eye(2), sigma2=-1.0), "`sigma2` must be 0 or above"),
        (
            lambda: optimize.prox_neg_logdet(np.eye(2), trace=np.eye(3)),
            r"`trace`.*\(2, 2\).*\(3, 3\)",
        ),
        (lambda: optimize.prox_nuclear([1.0, 2.0], 1.0), "`x` must be a matrix"),
        (lambda: optimize.prox_nuclear(np.eye(2), [1.0, 2.0]), "`penalty`"),
        (lambda: optimize.project_capped_simplex(np.ones(3), 0.2), "sum of the caps"),
        (lambda: optimize.prox_kl(np.ones(3), 1.0, -np.ones(3)), "`data` must be 0 or above"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_capped_simplex_and_kl_reference_values():
    keys = ("capped", "capped_vjp")
    agrees("float64", optimize.project_capped_simplex, ("x", "capped_u"), "cotangent", keys)
    found = optimize.prox_kl(GOLDEN["x"], GOLDEN["kl_gamma"], GOLDEN["kl_data"])
    np.testing.assert_allclose(found, GOLDEN["kl_prox"], atol=1e-12)


@each_type
def test_capped_simplex_satisfies_its_optimality_conditions(dtype, rng):
    x = (rng.normal(size=(200, 12)) * 10 ** rng.uniform(-3, 3, (200, 1))).astype(dtype)
    cap = np.where(rng.random((200, 12)) < 0.8, rng.random((200, 12)), 0.0).astype(dtype)
    radius = cap.sum(-1) * rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], 200).astype(dtype)
    p = np.asarray(optimize.project_capped_simplex(x, cap, radius=radius), "float64")
    tolerance = 1e-11 if dtype == "float64" else 2e-3
    np.testing.assert_allclose(p.sum(-1), radius, atol=tolerance)
    assert np.all((p >= 0) & (p <= cap))
    # <p - x, q - p> is least at q = p: fill q greedily where p - x is smallest.
    slope = p - x
    for row in range(200):
        q, left = np.zeros(12), p[row].sum()
        for i in np.argsort(slope[row]):
            q[i] = min(cap[row, i], left)
            left -= q[i]
        assert slope[row] @ (p[row] - q) <= tolerance * (1 + np.abs(x[row]).max())
