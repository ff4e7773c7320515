"""Symmetric cross-entropy against its formula and the losses it joins."""

from __future__ import annotations

import float64
import numpy as np
import pytest

from keras_robustseg import losses
from keras_robustseg.losses import reverse_cross_entropy, symmetric_cross_entropy


def formula(alpha, beta, log_zero):
    def pixels(log_p, y):
        with np.errstate(divide="ignore"):
            log_y = np.maximum(np.log(y), log_zero)
        return -alpha * (y * log_p).sum(-1) - beta * (np.exp(log_p) * log_y).sum(-1)

    return pixels


@pytest.mark.parametrize("options", [(0.1, 1.0, -4.0), (6.0, 0.1, -9.2), (0.0, 1.0, -1.0)])
def test_value_and_gradient_are_those_of_the_formula(rng, options):
    names = dict(zip(("alpha", "beta", "log_zero"), options, strict=True))

    def loss(log_p, y):
        return symmetric_cross_entropy(log_p, y, **names)

    float64.agrees(loss, formula(*options), rng)
    float64.holds_at_extremes(loss, formula(*options), rng)


def test_is_cross_entropy_plus_scaled_mean_absolute_error_on_hard_labels(rng):
    mask, logits = rng.integers(-1, 4, (2, 5, 4)), rng.normal(0, 2, (2, 5, 4, 4))
    plain = float(losses.CrossEntropy()(mask, logits))
    error = float(losses.ProbabilityMAE()(mask, logits))
    found = float(losses.SymmetricCrossEntropy(0.5, 2.0, log_zero=-3.0)(mask, logits))
    assert found == pytest.approx(0.5 * plain + 2.0 * 3.0 * error, rel=1e-5)


def test_reverse_cross_entropy_of_all_labels_is_constant(rng):
    log_p = np.log(rng.dirichlet(np.ones(5), 20)).astype("float32")
    total = sum(
        np.asarray(reverse_cross_entropy(log_p, np.eye(5, dtype="float32")[[k] * 20]))
        for k in range(5)
    )
    np.testing.assert_allclose(total, 4.0 * 4, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"alpha": -1}, {"alpha": 0, "beta": 0}, {"log_zero": 0.0}, {"log_zero": -1e3}]
)
def test_other_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        losses.SymmetricCrossEntropy(**options)
