"""Truncated and gated cross-entropy: closed form, gates, readers who are missing, a training."""

from __future__ import annotations

import float64
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import boxcox, expit

from keras_robustseg import losses
from keras_robustseg.losses import gated_gce, truncated_gce, trusted_labels


def formula(q, threshold):
    def pixels(log_p, y):
        return (y * np.minimum(-boxcox(np.exp(log_p), q), -boxcox(threshold, q))).sum(-1)

    return pixels


@pytest.mark.parametrize(("q", "threshold"), [(0.7, 0.5), (0.1, 0.2), (1.0, 0.05)])
def test_value_and_gradient_are_those_of_the_formula(rng, q, threshold):
    def loss(log_p, y):
        return truncated_gce(log_p, y, q=q, threshold=threshold)

    float64.agrees(loss, formula(q, threshold), rng)
    float64.holds_at_extremes(loss, formula(q, threshold), rng)


def test_closed_form_is_the_least_over_all_gates(rng):
    q, k = 0.6, 0.4
    p = rng.uniform(0.02, 0.98, 50).astype("float32")
    log_p = np.log(np.stack([p, 1 - p], -1))
    y = np.tile(np.array([1, 0], "float32"), (50, 1))
    gates = np.linspace(0, 1, 11, dtype="float32")[:, None, None]
    costs = np.asarray(gated_gce(log_p[None], gates * y, q=q, threshold=k))
    np.testing.assert_allclose(truncated_gce(log_p, y, q=q, threshold=k), costs.min(0), rtol=1e-5)
    assert (costs.argmin(0) == np.where(p > k, 10, 0)).all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("q", [0.1, 0.7])
def test_gates_turn_where_p_is_the_threshold(q, classes):
    """By default at 1/C, for any q."""
    loss = losses.TruncatedGCE(q, gate="pixel", readers=1)
    for p, closes in ((1 / classes - 0.02, True), (1 / classes + 0.02, False)):
        rest = [np.log((1 - p) / (classes - 1))] * (classes - 1)
        packed = tf.Variable(np.array([[[np.log(p), *rest, 0.3]]], "float32"))
        with tf.GradientTape() as tape:
            value = loss(np.array([[0]]), packed)
        assert (tape.gradient(value, packed).numpy()[0, 0, -1] > 0) == closes


def by_hand(masks, packed, gate, q, k, readers):
    """Loss of one image, pixel by pixel and reader by reader."""
    scores, gates = packed[..., :-readers], packed[..., -readers:]
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    seen = (masks >= 0).any(-1)
    g = expit(gates[seen].mean(0) * np.ones_like(gates)) if gate == "image" else expit(gates)
    pixels = []
    for i in np.argwhere(seen):
        i = tuple(i)
        each = []
        for r in range(readers):
            if masks[i][r] >= 0:
                own = -boxcox(p[i][masks[i][r]], q)
                each.append(g[i][r] * own - (1 - g[i][r]) * boxcox(k, q))
        pixels.append(np.mean(each))
    return np.mean(pixels)


@pytest.mark.parametrize("gate", ["image", "pixel"])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)])
def test_gated_value_and_gradient_with_missing_readers(rng, gate, shape):
    masks, packed = rng.integers(-1, 3, (1, *shape, 2)), rng.normal(0, 1, (1, *shape, 5))
    masks[0, 0, ..., 0] = -1
    loss = losses.TruncatedGCE(0.7, 0.4, gate=gate, readers=2)
    z = tf.constant(packed, "float32")
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(masks, z)

    def cost(z):
        return by_hand(masks[0], z[0], gate, 0.7, 0.4, 2)

    assert float(value) == pytest.approx(cost(packed), rel=1e-5)
    expected = float64.differences(cost, packed)
    np.testing.assert_allclose(tape.gradient(value, z), expected, rtol=2e-4, atol=2e-6)


def test_an_image_weighs_the_same_however_many_readers_answered(rng):
    packed = rng.normal(0, 1, (1, 4, 4, 5)).astype("float32")
    masks = np.repeat(rng.integers(0, 2, (1, 4, 4, 1)), 3, -1)
    packed[..., -3:] = 0.7
    loss = losses.TruncatedGCE(gate="pixel", readers=3)
    expected = loss(masks, packed)
    for absent in ([0], [0, 2]):
        fewer = masks.copy()
        fewer[..., absent] = -1
        np.testing.assert_allclose(loss(fewer, packed), expected, rtol=1e-6)


def test_open_and_closed_gates(rng):
    packed = rng.normal(0, 1, (2, 4, 4, 5)).astype("float32")
    masks = rng.integers(0, 3, (2, 4, 4, 2))
    loss = losses.TruncatedGCE(0.5, 0.3, gate="pixel", readers=2)
    packed[..., -2:] = 60.0
    plain = losses.GeneralizedCrossEntropy(0.5)(masks, packed[..., :3])
    np.testing.assert_allclose(loss(masks, packed), plain, rtol=1e-5)
    packed[..., -2:] = -60.0
    assert float(loss(masks, packed)) == pytest.approx(-boxcox(0.3, 0.5), rel=1e-5)


def test_gated_loss_reads_no_void_pixel(rng):
    packed, masks = rng.normal(0, 1, (2, 5, 4, 5)), rng.integers(0, 3, (2, 5, 4, 2))
    masks[:, :2] = -1
    broken, weight = packed.copy(), np.ones((2, 5, 4), "float32")
    broken[:, :3] = np.nan
    weight[:, 2] = 0
    for gate in ("image", "pixel"):
        loss = losses.TruncatedGCE(gate=gate, readers=2)
        z = tf.constant(broken, "float32")
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(masks, z, weight)
        gradient = tape.gradient(value, z).numpy()
        expected = loss(masks[:, 3:], packed[:, 3:])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.isfinite(gradient).all()
        assert not gradient[:, :3].any()
        assert float(loss(np.full_like(masks, -1), packed)) == 0.0


def test_trusted_labels_are_the_mean_over_those_who_answered():
    labels = np.eye(3, dtype="float32")[[[0, 2, 1]]]
    answered = np.array([[1, 0, 1]], "float32")
    found = trusted_labels(labels, answered, np.array([0.5, 0.9, 1.0], "float32"))
    np.testing.assert_allclose(found, [[0.25, 0.5, 0.0]])


def test_binary_output_and_one_reader(rng):
    logit, gate = rng.normal(0, 1, (1, 4, 4, 1)), rng.normal(0, 1, (1, 4, 4, 1))
    mask = rng.integers(-1, 2, (1, 4, 4))
    loss = losses.TruncatedGCE(gate="pixel", readers=1)
    pair = np.concatenate([np.zeros_like(logit), logit, gate], -1)
    found = loss(mask, np.concatenate([logit, gate], -1))
    np.testing.assert_allclose(found, loss(mask[..., None], pair), rtol=1e-6)


@pytest.mark.parametrize("eager", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_trains_by_fit_and_closes_the_gate_of_a_reader_who_is_wrong(eager):
    image = np.zeros((4, 8, 8, 1), "float32")
    image[:, 2:6, 2:6] = 1
    truth = image[..., 0].astype("int32")
    masks = np.stack([truth, truth, 1 - truth], -1)
    masks[0, ..., 1] = -1
    inputs = keras.Input((8, 8, 1))
    gates = keras.layers.Conv2D(3, 1)(inputs)
    model = keras.Model(
        inputs, keras.layers.Concatenate()([keras.layers.Conv2D(2, 1)(inputs), gates])
    )
    loss = losses.TruncatedGCE(0.7, gate="image", readers=3)
    model.compile(keras.optimizers.Adam(0.3), loss=loss, run_eagerly=eager, jit_compile=False)
    model.fit(image, masks, epochs=25, batch_size=4, verbose=0)
    packed = np.asarray(model(image))
    np.testing.assert_array_equal(packed[..., :2].argmax(-1), truth)
    reliability = expit(packed[..., 2:].mean((1, 2)))
    assert (reliability[:, :2] > 0.8).all()
    assert (reliability[:, 2] < 0.2).all()


def test_config_of_a_gate_survives():
    loss = losses.TruncatedGCE(0.5, 0.3, gate="image", readers=4)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"gate": "map", "readers": 2},
        {"gate": "image"},
        {"readers": 2},
        {"gate": "pixel", "readers": 0},
    ],
)
def test_other_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        losses.TruncatedGCE(**options)


def test_masks_of_another_number_of_readers_are_refused(rng):
    loss = losses.TruncatedGCE(gate="pixel", readers=3)
    for mask in (np.zeros((1, 4, 4, 2), int), np.zeros((1, 4, 4), int), np.zeros((1, 4, 4, 3))):
        with pytest.raises(ValueError, match="integer ids of 3 readers"):
            loss(mask, np.zeros((1, 4, 4, 5)))
