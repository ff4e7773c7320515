"""Generalised cross-entropy against SciPy's Box-Cox transform, its formula and its limits."""

from __future__ import annotations

import float64
import numpy as np
import pytest
from scipy.special import boxcox

from keras_robustseg import losses
from keras_robustseg.losses import generalized_cross_entropy


def formula(q):
    """L_q(p) is minus the Box-Cox transform of p."""
    return lambda log_p, y: -(y * boxcox(np.exp(log_p), q)).sum(-1)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.7, 1.0])
def test_value_and_gradient_are_those_of_the_formula(rng, q):
    def loss(log_p, y):
        return generalized_cross_entropy(log_p, y, q=q)

    float64.agrees(loss, formula(q), rng)
    float64.holds_at_extremes(loss, formula(q), rng)


def mask_and_logits(rng):
    return rng.integers(-1, 3, (2, 5, 4)), rng.normal(0, 2, (2, 5, 4, 3))


def test_small_q_is_cross_entropy(rng):
    mask, logits = mask_and_logits(rng)
    expected = float(losses.CrossEntropy()(mask, logits))
    found = float(losses.GeneralizedCrossEntropy(1e-6)(mask, logits))
    assert found == pytest.approx(expected, rel=1e-5)


def test_q_of_1_is_the_mean_absolute_error(rng):
    mask, logits = mask_and_logits(rng)
    expected = float(losses.ProbabilityMAE()(mask, logits))
    assert float(losses.GeneralizedCrossEntropy(1.0)(mask, logits)) == pytest.approx(
        expected, rel=1e-5
    )


def test_gradient_is_that_of_cross_entropy_times_a_power_of_p(rng):
    logits, y = rng.normal(0, 2, (1, 6, 4)), np.eye(4)[rng.integers(0, 4, (1, 6))]
    _, plain = float64.value_and_gradient(losses.cross_entropy, logits, y)
    _, found = float64.value_and_gradient(
        lambda log_p, y: generalized_cross_entropy(log_p, y, q=0.7), logits, y
    )
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weight = (p * y).sum(-1, keepdims=True) ** 0.7
    np.testing.assert_allclose(found, plain * weight, rtol=1e-4, atol=1e-7)


def test_several_readers_cost_the_mean_of_what_each_costs(rng):
    masks, logits = rng.integers(0, 3, (2, 5, 4, 3)), rng.normal(0, 2, (2, 5, 4, 3))
    loss = losses.GeneralizedCrossEntropy()
    each = [float(loss(masks[..., r], logits)) for r in range(3)]
    assert float(loss(masks, logits)) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.01, float("nan")])
def test_other_exponents_are_refused(q):
    with pytest.raises(ValueError, match="`q` must be in"):
        losses.GeneralizedCrossEntropy(q)
    with pytest.raises(ValueError, match="`q` must be in"):
        losses.TruncatedGCE(q)
