"""The Dice loss: its value on hard masks, its semimetric on soft ones, and its empty rule."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import braycurtis

from keras_robustseg import losses, metrics
from keras_robustseg.losses import soft_dice, soft_dice_per_image


def one_hot(ids, classes=3):
    return np.eye(classes, dtype="float32")[ids]


def soft(rng, *shape, classes=3):
    return rng.dirichlet(np.ones(classes), shape).astype("float32")


def test_of_hard_masks_is_one_minus_dice(rng):
    pred, true = rng.integers(0, 3, (2, 4, 7, 8))
    values, _ = soft_dice_per_image(one_hot(pred), one_hot(true))
    expected = [1 - metrics.dice(p, t, 3)[1:].mean() for p, t in zip(pred, true, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    pooled = soft_dice(one_hot(pred), one_hot(true), pooled="batch", include_background=True)
    assert float(pooled) == pytest.approx(1 - metrics.dice(pred, true, 3).mean(), rel=1e-5)


def test_of_soft_masks_is_scipys_bray_curtis_dissimilarity(rng):
    p, q = soft(rng, 1, 6, 5), soft(rng, 1, 6, 5)
    weight = rng.random((1, 6, 5)).astype("float32")
    each = [braycurtis(p[..., c].ravel(), q[..., c].ravel(), weight.ravel()) for c in (1, 2)]
    assert float(soft_dice(p, q, weight)) == pytest.approx(np.mean(each), rel=1e-5)


def test_is_a_semimetric_on_soft_labels(rng):
    q = soft(rng, 1, 6, 5)
    assert float(soft_dice(q, q)) == pytest.approx(0, abs=1e-6)
    for size in (0.01, 0.1, 1.0):
        p = (1 - size) * q + size * soft(rng, 1, 6, 5)
        assert float(soft_dice(p, q)) > 0
        assert float(soft_dice(p, q)) == pytest.approx(float(soft_dice(q, p)), rel=1e-5)
    # The product form prefers a hard prediction to the soft truth itself.
    hard = one_hot(q.argmax(-1))
    products = [1 - 2 * (p * q).sum() / (p + q).sum() for p in (hard, q)]
    assert products[0] < products[1]
    assert float(soft_dice(hard, q)) > 0.1


def test_gradient_points_from_the_prediction_to_the_soft_label(rng):
    q, p = soft(rng, 1, 6, 5), tf.Variable(soft(rng, 1, 6, 5))
    with tf.GradientTape() as tape:
        value = soft_dice(p, q)
    gradient = tape.gradient(value, p).numpy()[..., 1:]
    axes = (1, 2)
    size = (p.numpy() + q)[..., 1:].sum(axes)
    distance = np.abs(p.numpy() - q)[..., 1:].sum(axes)
    expected = (np.sign(p.numpy() - q)[..., 1:] - distance / size) / size / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_classes_that_the_mask_lacks_leave_the_mean(rng):
    q = one_hot(rng.integers(0, 2, (2, 6, 5)))
    q[1] = one_hot(np.zeros((6, 5), int))
    p = soft(rng, 2, 6, 5)
    values, weight = soft_dice_per_image(p, q)
    np.testing.assert_array_equal(weight, [30, 0])
    expected = braycurtis(p[0, ..., 1].ravel(), q[0, ..., 1].ravel())
    assert float(values[0]) == pytest.approx(expected, rel=1e-5)
    assert float(soft_dice(p, q)) == pytest.approx(expected, rel=1e-5)
    assert float(soft_dice(p[1:], q[1:])) == 0.0


def test_tails_of_a_softmax_do_not_make_a_class_present(rng):
    q = np.full((1, 6, 5, 3), 5e-5, "float32")
    q[..., 0] = 1 - 1e-4
    assert float(soft_dice(soft(rng, 1, 6, 5), q)) == 0.0
    q[0, 2, 3] = [0.75, 0.25, 0.0]
    _, weight = soft_dice_per_image(soft(rng, 1, 6, 5), q)
    assert float(weight[0]) == 30


def test_penalised_empty_masks_cost_smoothly_from_0_to_almost_1():
    q = one_hot(np.zeros((1, 20, 20), int), classes=2)
    costs = []
    for foreground in (0.0, 0.001, 0.01, 0.1, 1.0):
        p = np.stack([np.full((1, 20, 20), f) for f in (1 - foreground, foreground)], -1)
        costs.append(float(soft_dice(p.astype("float32"), q, empty="penalise")))
    expected = [f / (f + 0.01) for f in (0.0, 0.001, 0.01, 0.1, 1.0)]
    np.testing.assert_allclose(costs, expected, rtol=1e-4)
    assert costs[0] == 0.0


def test_penalised_gradient_at_the_right_answer_is_finite():
    q = one_hot(np.zeros((1, 20, 20), int), classes=2)
    logits = tf.constant(np.stack([np.full((1, 20, 20), v) for v in (60.0, -60.0)], -1))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = losses.SoftDice(empty="penalise")(q, logits)
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(tape.gradient(value, logits).numpy()).all()


def test_pooled_over_the_batch_is_one_large_image(rng):
    p, q = soft(rng, 4, 6, 5), one_hot(rng.integers(0, 3, (4, 6, 5)))
    together = soft_dice(p.reshape(1, 24, 5, 3), q.reshape(1, 24, 5, 3))
    assert float(soft_dice(p, q, pooled="batch")) == pytest.approx(float(together), rel=1e-5)


def test_images_weigh_as_much_as_their_pixels(rng):
    p, mask = soft(rng, 3, 6, 5), rng.integers(0, 3, (3, 6, 5))
    mask[1, :3] = -1
    mask[2] = -1
    loss = losses.SoftDice(from_logits=False)
    alone = [float(loss(mask[i : i + 1], p[i : i + 1])) for i in range(2)]
    expected = (30 * alone[0] + 15 * alone[1]) / 45
    assert float(loss(mask, p)) == pytest.approx(expected, rel=1e-4)
    weight = np.array([1.0, 4.0, 1.0])
    expected = (30 * alone[0] + 60 * alone[1]) / 90
    assert float(loss(mask, p, weight)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("option", [{"pooled": "volume"}, {"empty": "ignore"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match="must be one of"):
        losses.SoftDice(**option)
