"""Reading the forms of a mask, and log-probabilities."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_expit, log_softmax

from keras_robustseg.labels import label_distribution, log_probabilities, num_classes_of
from keras_robustseg.labels._masks import base_weights, has_one_id_per_pixel


def read(mask, classes=3, **options):
    labels, valid = label_distribution(np.asarray(mask), classes, rank=4, **options)
    assert labels.dtype == valid.dtype == "float32"
    return labels.numpy(), valid.numpy()


def reference(ids, classes):
    """One-hot rows by a plain loop; void rows are 0."""
    rows = np.zeros((*ids.shape, classes))
    for place, value in np.ndenumerate(ids):
        if value >= 0:
            rows[*place, value] = 1
    return rows


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "float64"])
def test_ids_of_every_type_are_one_hot(rng, dtype):
    ids = rng.integers(-1, 3, (2, 4, 5))
    for mask in (ids, ids[..., None]):
        labels, valid = read(mask.astype(dtype))
        np.testing.assert_array_equal(labels, reference(ids, 3))
        np.testing.assert_array_equal(valid, ids >= 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_unsigned_ids_have_void_by_name(rng, dtype):
    ids = rng.integers(0, 2, (1, 4, 5))
    labels, valid = read(ids.astype(dtype), 2)
    np.testing.assert_array_equal(labels, reference(ids, 2))
    assert valid.all()
    if dtype != "bool":
        labels, valid = read(np.where(ids == 1, 255, 0).astype(dtype), 2, ignore_class=255)
        np.testing.assert_array_equal(valid, ids == 0)
        assert not labels[ids == 1].any()


def test_readers_share_a_pixel_and_silence_is_void(rng):
    readers = rng.integers(-1, 3, (2, 4, 5, 4))
    readers[0, 0] = -1
    labels, valid = read(readers)
    answered = (readers >= 0).sum(-1)
    np.testing.assert_array_equal(valid, answered > 0)
    expected = reference(readers, 3).sum(-2) / np.maximum(answered, 1)[..., None]
    np.testing.assert_allclose(labels, expected, rtol=1e-6)
    ignored, _ = read(np.where(readers < 0, 9, readers), ignore_class=9)
    np.testing.assert_array_equal(ignored, labels)


def test_soft_rows_are_normalised_and_empty_ones_are_void(rng):
    rows = rng.random((1, 4, 5, 3))
    rows[0, 0], rows[0, 1] = 0, -1
    labels, valid = read(rows)
    np.testing.assert_allclose(
        labels[:, 2:], rows[:, 2:] / rows[:, 2:].sum(-1, keepdims=True), 1e-6
    )
    np.testing.assert_array_equal(valid[0].all(-1), [False, False, True, True])
    assert not labels[0, :2].any()
    labels, valid = read(rows, ignore_class=2)
    kept = rows[:, 2:, :, :2] / rows[:, 2:, :, :2].sum(-1, keepdims=True)
    np.testing.assert_allclose(labels[:, 2:, :, :2], kept, 1e-6)
    assert not labels[..., 2].any()


def test_one_float_channel_of_two_classes_is_the_foreground():
    labels, valid = read([[[[0.25], [1.0], [-1.0], [0.0]]]], 2)
    np.testing.assert_array_equal(labels[0, 0], [[0.75, 0.25], [0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(valid[0, 0], [1, 1, 0, 1])


@pytest.mark.parametrize(
    ("mask", "classes"),
    [
        ([[[3]]], 3),
        ([[[0.5]]], 3),
        ([[[np.nan]]], 3),
        ([[[[0, 3, 1]]]], 3),
        ([[[[0.5, 0.7, -0.2]]]], 3),
        ([[[[np.nan, 0.5, 0.5]]]], 3),
        ([[[[1.5]]]], 2),
        ([[[[2.5]]]], 3),
    ],
)
def test_labels_without_a_meaning_are_neither_void_nor_silent(mask, classes):
    labels, valid = read(mask, classes)
    assert valid.all()
    assert np.isnan(labels).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_log_probabilities_equal_scipy(rng, classes):
    logits = rng.normal(0, 8, (2, 4, 5, classes)).astype("float32")
    expected = log_softmax(logits.astype("float64"), axis=-1)
    if classes == 1:
        expected = log_expit(np.concatenate([-logits, logits], -1).astype("float64"))
    np.testing.assert_allclose(log_probabilities(logits), expected, rtol=2e-6, atol=1e-6)
    p = np.exp(expected).astype("float32")[..., -classes:]
    floored = np.maximum(expected, np.log(1e-7))
    found = log_probabilities(p, from_logits=False)
    np.testing.assert_allclose(np.exp(found), np.exp(floored), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_log_probabilities_are_not_read_outside_where(rng, classes):
    logits = rng.normal(size=(1, 4, 5, classes)).astype("float32")
    where = rng.random((1, 4, 5)) < 0.5
    logits[~where] = np.nan
    y_pred = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        log_p = log_probabilities(y_pred, where=where)
        value = tf.reduce_sum(log_p**2)
    assert np.isfinite(log_p).all()
    gradient = tape.gradient(value, y_pred).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[~where].any()
    np.testing.assert_allclose(log_p[where], log_probabilities(logits)[where], rtol=1e-6)


def test_number_of_classes_is_static():
    assert [num_classes_of(np.zeros((1, 2, 2, c))) for c in (1, 2, 5)] == [2, 2, 5]
    with pytest.raises(ValueError, match="static size"):
        num_classes_of(keras.Input((4, 4, None)))


def test_base_weights_of_every_shape(rng):
    valid = rng.integers(0, 2, (2, 3, 4)).astype("float32")
    weight = np.array([0.5, 2.0], "float32")
    expected = valid * weight[:, None, None]
    spread = np.broadcast_to(weight[:, None, None], valid.shape)
    for given in (weight, weight[:, None], weight[:, None, None], spread, spread[..., None]):
        np.testing.assert_array_equal(base_weights(valid, given), expected)
    np.testing.assert_array_equal(base_weights(valid, 3.0), 3 * valid)
    assert base_weights(valid, None) is valid


def test_hard_masks_are_told_by_their_form():
    for shape, dtype, expected in (
        ((1, 2, 2), "int32", True),
        ((1, 2, 2), "float32", True),
        ((1, 2, 2, 1), "uint8", True),
        ((1, 2, 2, 1), "float32", False),
        ((1, 2, 2, 3), "int32", False),
    ):
        assert has_one_id_per_pixel(np.zeros(shape, dtype), rank=4) is expected
