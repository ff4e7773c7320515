"""Streaming Keras metrics against scikit-learn and the NumPy metrics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from keras_robustseg import metrics


def scores_of(ids, classes):
    """Logits whose largest entry is the id."""
    return 5.0 * np.eye(classes, dtype="float32")[ids]


def value(metric, *batch):
    metric.update_state(*batch)
    return np.asarray(metric.result())


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("classes", [2, 4])
def test_agree_with_scikit_learn(rng, shape, classes):
    pred, true = rng.integers(0, classes, (2, *shape))
    weight = rng.random(shape).astype("float32")
    flat = {"y_true": true.ravel(), "y_pred": pred.ravel(), "sample_weight": weight.ravel()}
    batch = true, scores_of(pred, classes), weight
    for kind, oracle in ((metrics.Dice, f1_score), (metrics.IoU, jaccard_score)):
        expected = oracle(**flat, average=None, labels=range(classes))
        np.testing.assert_allclose(value(kind(classes, per_class=True), *batch), expected, 1e-5)
        np.testing.assert_allclose(value(kind(classes), *batch), expected[1:].mean(), 1e-5)
    found = value(metrics.PixelAccuracy(classes), *batch)
    np.testing.assert_allclose(found, accuracy_score(**flat), 1e-5)


def test_absent_classes_are_undefined_and_leave_the_mean(rng):
    pred, true = rng.integers(0, 2, (2, 1, 6, 5))
    expected = metrics.dice(pred, true, 4)
    batch = true, scores_of(pred, 4)
    np.testing.assert_allclose(value(metrics.Dice(4, per_class=True), *batch), expected, 1e-6)
    np.testing.assert_allclose(value(metrics.Dice(4), *batch), expected[1], 1e-6)
    nothing = np.zeros_like(true)
    assert np.isnan(value(metrics.Dice(4), nothing, scores_of(nothing, 4)))


def test_readers_count_by_majority_and_soft_labels_by_their_largest(rng):
    readers = rng.integers(-1, 3, (2, 6, 5, 3))
    votes = (readers[..., None] == np.arange(3)).sum(axis=-2)
    majority = np.where(votes.any(-1), votes.argmax(-1), -1)
    scores = rng.normal(size=(2, 6, 5, 3)).astype("float32")
    expected = value(metrics.IoU(3, per_class=True), majority, scores)
    for truth in (readers, votes.astype("float32")):
        found = value(metrics.IoU(3, per_class=True), truth, scores)
        np.testing.assert_allclose(found, expected, 1e-6)


def test_meaningless_ids_show(rng):
    true = rng.integers(0, 3, (1, 6, 5))
    true[0, 0, 0] = 3
    for metric in (metrics.Dice(3), metrics.IoU(3), metrics.PixelAccuracy(3)):
        assert np.isnan(value(metric, true, scores_of(true % 3, 3)))


def test_names_and_bad_arguments():
    kinds = metrics.Dice, metrics.IoU, metrics.PixelAccuracy
    assert [kind(2).name for kind in kinds] == ["dice", "iou", "pixel_accuracy"]
    with pytest.raises(ValueError, match="2 or more"):
        metrics.Dice(1)


def test_values_of_each_class_go_through_fit(rng):
    image = keras.Input((6, 5, 1))
    model = keras.Model(image, keras.layers.Conv2D(3, 1)(image))
    model.compile(loss="mse", metrics=[metrics.Dice(3, per_class=True)], run_eagerly=True)
    x, y = rng.normal(size=(2, 6, 5, 1)), rng.integers(0, 3, (2, 6, 5))
    found = model.evaluate(x, scores_of(y, 3), verbose=0, return_dict=True)["dice"]
    expected = metrics.dice(model.predict(x, verbose=0).argmax(-1), y, 3)
    np.testing.assert_allclose(found, expected, 1e-5)
