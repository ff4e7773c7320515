"""T-loss against SciPy's multivariate t, its formula, its limits, and the sizes of images."""

from __future__ import annotations

import float64
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal, multivariate_t

from keras_robustseg import losses
from keras_robustseg.losses import (
    image_errors,
    likeliest_nu,
    student_t_loss,
    student_t_normalizer,
)


def errors_of(log_p, y):
    axes = tuple(range(1, y.ndim - 1))
    return 0.5 * ((y - np.exp(log_p)) ** 2).sum(-1).mean(axes)


def formula(nu, dimension):
    def images(log_p, y):
        m = errors_of(log_p, y)
        return (nu + dimension) / (2 * dimension) * np.log1p(dimension * m / nu)

    return images


@pytest.mark.parametrize(("nu", "dimension"), [(1.0, 256), (0.1, 16), (50.0, 2)])
def test_value_and_gradient_are_those_of_the_formula(rng, nu, dimension):
    def loss(log_p, y):
        errors, _ = image_errors(log_p, y, tf.ones(y.shape[:-1]))
        return student_t_loss(errors, nu, dimension=dimension)

    float64.agrees(loss, formula(nu, dimension), rng)
    float64.holds_at_extremes(loss, formula(nu, dimension), rng)


def binary_image(rng, *shape):
    """Probabilities of the foreground, and a mask."""
    return rng.uniform(0, 1, shape), rng.integers(0, 2, shape)


@pytest.mark.parametrize("nu", [0.05, 1.0, 30.0])
def test_is_the_likelihood_of_a_whole_image_under_a_t_distribution(rng, nu):
    p, mask = binary_image(rng, 4, 6)
    density = multivariate_t(np.zeros(24), np.eye(24), df=nu)
    expected = (density.logpdf(np.zeros(24)) - density.logpdf((mask - p).ravel())) / 24
    logits = np.log(p / (1 - p))[None, ..., None].astype("float32")
    found = losses.TLoss(nu, dimension=24)(mask[None], logits)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimension", [2, 24, 250])
def test_normalizer_is_that_of_the_t_distribution(dimension):
    origin, gaussian = np.zeros(dimension), multivariate_normal(np.zeros(dimension))
    for nu in (0.02, 1.0, 700.0):
        density = multivariate_t(origin, np.eye(dimension), df=nu)
        expected = (gaussian.logpdf(origin) - density.logpdf(origin)) / dimension
        found = student_t_normalizer(tf.constant(nu), dimension=dimension)
        assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_likeliest_nu_maximises_scipys_likelihood(rng):
    for d, count in ((4, 3), (16, 1), (60, 5)):
        residuals = rng.normal(0, rng.uniform(0.02, 0.6, (count, 1)), (count, d))
        weights = rng.uniform(0.5, 2, count)

        def cost(log_nu, residuals=residuals, weights=weights, d=d):
            density = multivariate_t(np.zeros(d), np.eye(d), df=np.exp(log_nu))
            return -weights @ np.atleast_1d(density.logpdf(residuals))

        best = minimize_scalar(
            cost, bounds=np.log([1e-2, 1e4]), method="bounded", options={"xatol": 1e-8}
        )
        errors = (residuals**2).mean(-1).astype("float32")
        found = likeliest_nu(tf.constant(errors), weights.astype("float32"), dimension=d)
        if 0.011 < found < 9e3:
            assert float(found) == pytest.approx(np.exp(best.x), rel=1e-3)
        assert cost(np.log(float(found))) <= best.fun + 1e-5 * abs(best.fun)


def test_likelihood_has_one_peak_over_nu(rng):
    """What the search for the likeliest nu supposes."""
    grid = np.exp(np.linspace(np.log(1e-2), np.log(1e4), 2000))
    for d in (4, 16, 64, 256):
        constant = np.array([-np.log1p(np.arange(0, d, 2) / nu).sum() for nu in grid])
        for _ in range(20):
            m = 10 ** rng.uniform(-5, 0, rng.integers(1, 6))
            terms = (grid + d) / 2 * np.log1p(d * m[:, None] / grid)
            change = np.diff(terms.mean(0) + constant)
            signs = np.sign(change[np.abs(change) > 1e-9])
            assert (np.diff(signs) != 0).sum() <= 1


def test_loss_at_the_likeliest_nu_is_the_least_over_nu(rng):
    logits, mask = rng.normal(0, 2, (3, 6, 5, 3)), rng.integers(0, 3, (3, 6, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    m, d = errors_of(np.log(p), np.eye(3)[mask]), 16

    def value(log_nu):
        nu = np.exp(log_nu)
        constants = [-np.log1p(np.arange(0, d, 2) / v).sum() / d for v in (nu, 1e-2)]
        profile = (nu + d) / (2 * d) * np.log1p(d * m / nu)
        return profile.mean() + constants[0] - constants[1]

    best = minimize_scalar(value, bounds=np.log([1e-2, 1e4]), method="bounded")
    found = losses.TLoss("likeliest", dimension=d)(mask, logits)
    assert float(found) == pytest.approx(best.fun, rel=1e-4)


def test_many_degrees_of_freedom_are_the_squared_error(rng):
    logits, mask = rng.normal(0, 2, (2, 6, 5, 3)), rng.integers(0, 3, (2, 6, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = ((np.eye(3)[mask] - p) ** 2).sum(-1).mean() / 4
    assert float(losses.TLoss(1e7)(mask, logits)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("nu", [0.5, "likeliest"])
def test_value_does_not_depend_on_the_size_of_the_image(rng, nu):
    logits, mask = rng.normal(0, 2, (2, 4, 5, 3)), rng.integers(-1, 3, (2, 4, 5))
    loss = losses.TLoss(nu)
    expected = float(loss(mask, logits))
    found = float(loss(np.tile(mask, (1, 3, 2)), np.tile(logits, (1, 3, 2, 1))))
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 <= expected < 10


def test_an_image_that_is_all_wrong_loses_its_pull(rng):
    mask = rng.integers(0, 2, (2, 8, 8))
    given = mask.copy()
    given[1] = 1 - given[1]
    z = tf.Variable(np.where(mask[..., None] == [0, 1], 1.0, -1.0).astype("float32"))
    pulls = {}
    for nu in (0.1, 1e7):
        with tf.GradientTape() as tape:
            value = losses.TLoss(nu)(given, z)
        size = np.abs(tape.gradient(value, z).numpy()).sum((1, 2, 3))
        pulls[nu] = size[1] / size[0]
    assert pulls[0.1] < 0.2 * pulls[1e7]


@pytest.mark.parametrize(
    "options", [{"nu": 0.0}, {"nu": "best"}, {"nu": np.inf}, {"dimension": 3}, {"dimension": 0}]
)
def test_other_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        losses.TLoss(**options)
