"""Bootstrapping against its formula, its entropy form, and cross-entropy with the mixture."""

from __future__ import annotations

import float64
import numpy as np
import pytest
from scipy.special import entr

from keras_robustseg import losses
from keras_robustseg.losses import bootstrapping, cross_entropy


def soft(trust):
    """w CE + (1 - w) H(p), by SciPy's entropy."""
    return lambda log_p, y: -trust * (y * log_p).sum(-1) + (1 - trust) * entr(np.exp(log_p)).sum(-1)


def hard(trust):
    """w CE - (1 - w) log of the largest probability."""
    return lambda log_p, y: -trust * (y * log_p).sum(-1) - (1 - trust) * log_p.max(-1)


@pytest.mark.parametrize(("belief", "formula"), [("soft", soft), ("hard", hard)])
@pytest.mark.parametrize("trust", [0.3, 0.95, 1.0])
def test_value_and_gradient_are_those_of_the_formula(rng, belief, formula, trust):
    def loss(log_p, y):
        return bootstrapping(log_p, y, trust=trust, belief=belief)

    float64.agrees(loss, formula(trust), rng)
    float64.holds_at_extremes(loss, formula(trust), rng)


def test_is_cross_entropy_against_the_mixture(rng):
    p, y = rng.dirichlet(np.ones(3), 20).astype("float32"), np.eye(3, dtype="float32")[[0, 1] * 10]
    for belief, own in (("soft", p), ("hard", np.eye(3, dtype="float32")[p.argmax(-1)])):
        found = bootstrapping(np.log(p), y, trust=0.6, belief=belief)
        expected = cross_entropy(np.log(p), 0.6 * y + 0.4 * own)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_full_trust_is_cross_entropy(rng):
    logits, mask = rng.normal(0, 2, (2, 5, 4, 3)), rng.integers(-1, 3, (2, 5, 4))
    expected = float(losses.CrossEntropy()(mask, logits))
    for belief in ("soft", "hard"):
        found = float(losses.Bootstrapping(belief, trust=1.0)(mask, logits))
        assert found == pytest.approx(expected, rel=1e-6)


def test_defaults_are_those_of_the_paper():
    assert losses.Bootstrapping().trust == 0.95
    assert losses.Bootstrapping("hard").trust == 0.8


@pytest.mark.parametrize("options", [{"belief": "firm"}, {"trust": 0.0}, {"trust": 1.1}])
def test_other_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        losses.Bootstrapping(**options)
