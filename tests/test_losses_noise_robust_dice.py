"""Noise-robust Dice against its formula, SciPy, and its two ends."""

from __future__ import annotations

import float64
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import minkowski

from keras_robustseg import losses
from keras_robustseg.losses import noise_robust_dice_per_image


def ratio(p, q, gamma, weight=1.0):
    return (weight * np.abs(p - q) ** gamma).sum() / (weight * (p**2 + q**2)).sum()


def formula(gamma):
    """Mean over foreground classes that an image has, of each image, summed over images."""

    def images(log_p, y):
        p = np.exp(log_p)
        found = []
        for image, label in zip(p, y, strict=True):
            present = [c for c in range(1, y.shape[-1]) if label[..., c].max() >= 0.1]
            each = [ratio(image[..., c], label[..., c], gamma) for c in present]
            found.append(np.mean(each) if each else 0.0)
        return np.array(found)

    return images


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_value_and_gradient_are_those_of_the_formula(rng, gamma):
    def loss(log_p, y):
        return noise_robust_dice_per_image(tf.exp(log_p), y, gamma=gamma)[0]

    float64.agrees(loss, formula(gamma), rng)
    float64.holds_at_extremes(loss, formula(gamma), rng)


def test_distance_is_minkowskis(rng):
    p, q = (rng.dirichlet(np.ones(2), (1, 3, 4)).astype("float32") for _ in range(2))
    values, weight = noise_robust_dice_per_image(p, q, gamma=1.5)
    a, b = p[..., 1].ravel(), q[..., 1].ravel()
    expected = minkowski(a, b, 1.5) ** 1.5 / (a @ a + b @ b)
    assert float(values[0]) == pytest.approx(expected, rel=1e-5)
    assert float(weight[0]) == 12


def test_gamma_of_2_is_the_squared_dice_loss(rng):
    logits, mask = rng.normal(0, 2, (1, 6, 5, 2)), rng.integers(0, 2, (1, 6, 5))
    p, q = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1])), mask
    expected = 1 - 2 * (p * q).sum() / ((p**2).sum() + (q**2).sum())
    assert float(losses.NoiseRobustDice(2.0)(mask, logits)) == pytest.approx(expected, rel=1e-5)


def test_less_gamma_weighs_a_large_error_less_against_small_ones():
    q = np.zeros((1, 10, 2), "float32")
    q[..., 0] = 1
    q[:, :5] = [0, 1]
    share = []
    for gamma in (1.0, 1.5, 2.0):
        p = tf.Variable(np.where(q > 0, 0.9, 0.1).astype("float32"))
        p[0, 0].assign([0.9, 0.1])
        with tf.GradientTape() as tape:
            distance = tf.reduce_sum(tf.abs(p - q)[..., 1] ** gamma)
            value = noise_robust_dice_per_image(p, q, gamma=gamma)[0]
        size = float(tf.reduce_sum(p**2 + q**2, axis=(0, 1))[1])
        pull = tape.gradient(value, p).numpy()[0, :, 1]
        # Without the part through the denominator.
        pull += float(distance) / size**2 * 2 * p.numpy()[0, :, 1]
        share.append(abs(pull[0]) / np.abs(pull).sum())
    assert share[0] == pytest.approx(0.1, abs=1e-3)
    assert share[0] < share[1] < share[2]


@pytest.mark.parametrize("options", [{"gamma": 0.9}, {"gamma": 2.1}, {"empty": "drop"}])
def test_other_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        losses.NoiseRobustDice(**options)
