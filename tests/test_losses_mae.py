"""Mean absolute error of probabilities against SciPy, its formula, and Ghosh's symmetry."""

from __future__ import annotations

import float64
import numpy as np
import pytest
from scipy.spatial.distance import cityblock

from keras_robustseg import losses
from keras_robustseg.losses import probability_mae


def formula(log_p, y):
    return 0.5 * np.abs(y - np.exp(log_p)).sum(-1)


def test_value_and_gradient_are_those_of_the_formula(rng):
    float64.agrees(probability_mae, formula, rng)
    float64.holds_at_extremes(probability_mae, formula, rng)


def test_is_half_the_city_block_distance(rng):
    p, y = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
    found = probability_mae(np.log(p)[None].astype("float32"), y[None].astype("float32"))
    assert float(found[0]) == pytest.approx(cityblock(p, y) / 2, rel=1e-5)


def test_is_1_minus_the_probability_of_a_hard_label(rng):
    logits, mask = rng.normal(0, 2, (1, 4, 5, 3)), rng.integers(0, 3, (1, 4, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = 1 - np.take_along_axis(p, mask[..., None], -1).mean()
    assert float(losses.ProbabilityMAE()(mask, logits)) == pytest.approx(expected, rel=1e-5)


def test_loss_of_all_labels_is_constant(rng):
    log_p = np.log(rng.dirichlet(np.ones(5), 20)).astype("float32")
    total = sum(
        np.asarray(probability_mae(log_p, np.eye(5, dtype="float32")[[k] * 20])) for k in range(5)
    )
    np.testing.assert_allclose(total, 4.0, rtol=1e-5)
