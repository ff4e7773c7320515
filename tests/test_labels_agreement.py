"""How far predictions and given masks agree, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from keras_robustseg.labels import (
    class_masses,
    image_agreement,
    image_weights,
    reference_agreement,
    unseen_classes,
)


def batch(rng, shape, classes):
    p = rng.dirichlet(np.ones(classes), size=shape).astype("float32")
    yhat = np.eye(classes, dtype="float32")[rng.integers(classes, size=shape)]
    weight = (rng.random(shape) > 0.3).astype("float32")
    return p, yhat, weight


def plain_agreement(p, yhat, weight):
    """The formula, one image and one class at a time."""
    values = []
    for image in range(len(p)):
        counted = weight[image] > 0
        agreed, size_total = 0.05, 0.05
        for k in range(1, p.shape[-1]):
            a, b = p[image][counted][:, k], yhat[image][counted][:, k]
            size = (a**2).sum() + (b**2).sum()
            share = size / (size + 1)
            agreed += share * (2 * (a * b).sum() / size if size else 0.0)
            size_total += share
        values.append(agreed / size_total)
    return np.array(values)


@pytest.mark.parametrize(("shape", "classes"), [((3, 7, 5), 2), ((2, 5, 3, 4), 5)])
def test_agreement_is_the_formula(rng, shape, classes):
    p, yhat, weight = batch(rng, shape, classes)
    found = ops.convert_to_numpy(image_agreement(p, yhat, weight))
    np.testing.assert_allclose(found, plain_agreement(p, yhat, weight), rtol=1e-5)
    masses = class_masses(p, yhat, weight)
    flat = (weight.reshape(len(p), -1, 1), p.reshape(len(p), -1, classes))
    np.testing.assert_allclose(
        ops.convert_to_numpy(masses[0]), (flat[0] * flat[1]).sum(1), rtol=1e-5
    )


def test_agreement_of_equal_masks_of_nothing_and_of_opposites(rng):
    _, yhat, _ = batch(rng, (1, 9, 9), 2)
    empty = np.zeros_like(yhat)
    empty[..., 0] = 1
    predictions = np.concatenate([yhat, empty, yhat, empty])
    given = np.concatenate([yhat, empty, empty, yhat])
    found = ops.convert_to_numpy(image_agreement(predictions, given, np.ones((4, 9, 9), "float32")))
    assert found[0] == pytest.approx(1.0)
    assert found[1] == pytest.approx(1.0)
    assert (found[2:] < 0.06).all()


def test_void_pixels_do_not_count(rng):
    p, yhat, weight = batch(rng, (2, 6, 6), 3)
    spoiled = np.where(weight[..., None] > 0, p, 0.123)
    np.testing.assert_allclose(
        ops.convert_to_numpy(image_agreement(p, yhat, weight)),
        ops.convert_to_numpy(image_agreement(spoiled, yhat, weight)),
        rtol=1e-6,
    )


def test_a_class_is_unseen_below_its_share():
    predicted, given = np.array([[90.0, 2.9], [90.0, 3.1], [99.0, 1.0]]), np.array([[90.0, 10.0]])
    given = np.concatenate([given, given, [[100.0, 0.0]]])
    found = ops.convert_to_numpy(unseen_classes(predicted, given, 0.3))
    np.testing.assert_array_equal(found, [[False, True], [False, False], [False, False]])
    assert not ops.convert_to_numpy(unseen_classes(predicted, given, 0.0)).any()


def test_reference_is_the_quantile_of_what_is_known(rng):
    known = rng.random(500).astype("float32")
    table = np.concatenate([known, -np.ones(700, "float32")])
    found = float(reference_agreement(table, 0.8))
    assert abs(found - np.quantile(known, 0.8)) <= 1 / 64 + 1 / 500
    assert float(reference_agreement(-np.ones(4, "float32"))) > 0


def test_weights_rise_with_agreement_up_to_the_reference():
    agreements = np.array([-1.0, 0.0, 0.2, 0.4, 0.8, 1.0], "float32")
    found = ops.convert_to_numpy(image_weights(agreements, 0.8, 2.0))
    np.testing.assert_allclose(found - 0.02, [1, 0, 1 / 16, 1 / 4, 1, 1], atol=1e-6)
    alike = ops.convert_to_numpy(image_weights(agreements[1:], 0.8, 0.0))
    assert np.ptp(alike) == 0
