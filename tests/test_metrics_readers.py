"""Several readers, some missing, wherever a metric accepts a mask: they count by majority."""

from __future__ import annotations

import numpy as np
import pytest

from keras_robustseg import metrics
from keras_robustseg.data._ingest import choose_reader


def majority(masks):
    """Pixel by pixel: the lowest of the ids that most readers gave."""
    found = np.full(masks.shape[:-1], -1)
    for pixel in np.ndindex(found.shape):
        given = [label for label in masks[pixel] if label >= 0]
        if given:
            found[pixel] = min(set(given), key=lambda label: (-given.count(label), label))
    return found


@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 4)])
def test_label_maps(rng, shape):
    pred, masks = rng.integers(0, 3, shape), rng.integers(-1, 3, (*shape, 4))
    masks[0] = -1
    true = majority(masks)
    np.testing.assert_array_equal(metrics.majority_of_readers(masks), true)
    for metric in (metrics.overlap_counts, metrics.dice, metrics.iou, metrics.accuracy):
        np.testing.assert_array_equal(metric(pred, masks, 3), metric(pred, true, 3))
    found, expected = (metrics.evaluate_masks([pred], [m], 3, tolerance=1.0) for m in (masks, true))
    assert found.summary() == expected.summary()


@pytest.mark.parametrize("kind", ["Dice", "IoU", "PixelAccuracy"])
@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 4)])
def test_keras_metrics(rng, kind, shape):
    logits, masks = rng.normal(size=(2, *shape, 3)), rng.integers(-1, 3, (2, *shape, 4))
    weight = rng.random((2, *shape))
    values = []
    for mask in (masks, majority(masks)):
        metric = getattr(metrics, kind)(3, ignore_class=None)
        metric.update_state(mask, logits, weight)
        values.append(float(metric.result()))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_the_mask_trained_on_by_majority_is_the_same(rng):
    masks = rng.integers(-1, 3, (6, 5, 4)).astype("int16")
    found = choose_reader(masks, "majority", seed=0, sample_id="a")
    np.testing.assert_array_equal(found, majority(masks))
    assert found.dtype == masks.dtype


def test_other_shapes_are_still_refused():
    from keras_robustseg.errors import DataError

    with pytest.raises(DataError, match="one shape"):
        metrics.dice(np.zeros((4, 4), int), np.zeros((3, 4, 2), int), 2)
    with pytest.raises(DataError, match="one shape"):
        metrics.dice(np.zeros((4, 4, 2), int), np.zeros((4, 4), int), 2)
