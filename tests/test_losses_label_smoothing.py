"""Label smoothing against Keras' own, its formula, and what it says of random labels."""

from __future__ import annotations

import float64
import keras
import numpy as np
import pytest

from keras_robustseg import losses
from keras_robustseg.losses import cross_entropy, label_smoothing


def formula(epsilon):
    def pixels(log_p, y):
        mixed = (1 - epsilon) * y + epsilon / y.shape[-1]
        return -(mixed * log_p).sum(-1)

    return pixels


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.6])
def test_value_and_gradient_are_those_of_the_formula(rng, epsilon):
    def loss(log_p, y):
        return label_smoothing(log_p, y, epsilon=epsilon)

    float64.agrees(loss, formula(epsilon), rng)
    float64.holds_at_extremes(loss, formula(epsilon), rng)


def test_is_keras_label_smoothing_on_a_mask_without_void(rng):
    logits, mask = rng.normal(0, 2, (2, 5, 4, 3)).astype("float32"), rng.integers(0, 3, (2, 5, 4))
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.15)
    expected = float(keras_loss(np.eye(3)[mask], logits))
    assert float(losses.LabelSmoothing(0.15)(mask, logits)) == pytest.approx(expected, rel=1e-5)


def test_is_the_mean_cross_entropy_of_labels_redrawn_at_random(rng):
    log_p, y = (
        np.log(rng.dirichlet(np.ones(4), 7)).astype("float32"),
        np.eye(4)[[0, 1, 2, 3, 0, 1, 2]],
    )
    redrawn = np.mean(
        [cross_entropy(log_p, np.eye(4, dtype="float32")[[k] * 7]) for k in range(4)], 0
    )
    expected = 0.7 * np.asarray(cross_entropy(log_p, y.astype("float32"))) + 0.3 * redrawn
    found = label_smoothing(log_p, y.astype("float32"), epsilon=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_other_shares_are_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be in"):
        losses.LabelSmoothing(epsilon)
