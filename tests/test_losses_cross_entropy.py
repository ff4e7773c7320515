"""Cross-entropy against Keras, scikit-learn, and its own parts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import log_loss

from keras_robustseg import losses


def draw(rng, *shape, classes=3):
    logits = rng.normal(0, 3, (*shape, classes)).astype("float32")
    return logits, rng.integers(0, classes, shape)


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equals_keras_and_scikit_learn(rng, shape, classes):
    logits, mask = draw(rng, *shape, classes=classes)
    mask[0, 0] = 255
    found = float(losses.CrossEntropy(ignore_class=255)(mask, logits))
    oracle = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    assert found == pytest.approx(float(oracle(mask, logits)), rel=1e-5)
    given = mask != 255
    p = np.asarray(ops.softmax(logits.astype("float64")))[given]
    expected = log_loss(mask[given], p, labels=range(classes))
    assert found == pytest.approx(expected, rel=1e-5)


def test_binary_equals_keras(rng):
    logits, mask = draw(rng, 2, 5, 6, classes=1)[0], rng.integers(0, 2, (2, 5, 6))
    expected = keras.losses.BinaryCrossentropy(from_logits=True)(mask[..., None], logits)
    assert float(losses.CrossEntropy()(mask, logits)) == pytest.approx(float(expected), rel=1e-5)
    # A float mask with one channel is P(class 1), so it may be soft.
    soft = rng.random((2, 5, 6, 1)).astype("float32")
    expected = keras.losses.BinaryCrossentropy(from_logits=True)(soft, logits)
    assert float(losses.CrossEntropy()(soft, logits)) == pytest.approx(float(expected), rel=1e-5)


def test_soft_labels_equal_keras(rng):
    logits, _ = draw(rng, 2, 5, 6)
    soft = rng.dirichlet(np.ones(3), (2, 5, 6)).astype("float32")
    expected = keras.losses.CategoricalCrossentropy(from_logits=True)(soft, logits)
    assert float(losses.CrossEntropy()(soft, logits)) == pytest.approx(float(expected), rel=1e-5)
    twice = losses.CrossEntropy()(2 * soft, logits)
    assert float(twice) == pytest.approx(float(expected), rel=1e-5)


def test_readers_are_the_mean_of_those_who_answered(rng):
    logits, _ = draw(rng, 1, 5, 6)
    readers = rng.integers(-1, 3, (1, 5, 6, 4))
    each = losses.CrossEntropy(reduction=None)
    by_reader = np.stack([each(readers[..., r], logits) for r in range(4)], axis=-1)
    answered = (readers >= 0).sum(axis=-1)
    expected = by_reader.sum(axis=-1) / np.maximum(answered, 1)
    np.testing.assert_allclose(each(readers, logits), expected, rtol=1e-5, atol=1e-6)
    mean = float(losses.CrossEntropy()(readers, logits))
    assert mean == pytest.approx(expected.sum() / (answered > 0).sum(), rel=1e-5)


def test_weighted_mean_divides_by_the_weights(rng):
    logits, mask = draw(rng, 3, 5, 6)
    weight = rng.random((3, 5, 6))
    pixels = np.asarray(losses.CrossEntropy(reduction=None)(mask, logits))
    expected = np.average(pixels, weights=weight)
    assert float(losses.CrossEntropy()(mask, logits, weight)) == pytest.approx(expected, rel=1e-5)


def test_sum_with_dice_is_the_sum(rng):
    logits, mask = draw(rng, 2, 5, 6)
    weight = rng.random((2, 5, 6))
    parts = [loss(mask, logits, weight) for loss in (losses.CrossEntropy(), losses.SoftDice())]
    both = losses.CrossEntropyDice(dice_weight=0.3)(mask, logits, weight)
    assert float(both) == pytest.approx(float(parts[0] + 0.3 * parts[1]), rel=1e-6)
    with pytest.raises(ValueError, match="dice_weight=-1"):
        losses.CrossEntropyDice(dice_weight=-1)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 6, 3), (2, 5, 6, 3, 1)])
def test_masks_of_no_known_form_are_refused(rng, shape):
    logits, _ = draw(rng, 2, 5, 6, classes=4)
    with pytest.raises(ValueError, match="fits no form of a mask for 4 classes"):
        losses.CrossEntropy()(np.zeros(shape, "float32"), logits)
