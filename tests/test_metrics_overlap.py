"""Overlap metrics against scikit-learn, and the table that gathers them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from keras_robustseg import metrics
from keras_robustseg.errors import DataError


@pytest.mark.parametrize("shape", [(40,), (7, 9), (4, 5, 6)])
def test_agree_with_scikit_learn(rng, shape):
    pred, true = rng.integers(0, 4, (2, *shape))
    args = true.ravel(), pred.ravel()
    f1 = sklearn_metrics.f1_score(*args, average=None, labels=range(4))
    jaccard = sklearn_metrics.jaccard_score(*args, average=None, labels=range(4))
    np.testing.assert_allclose(metrics.dice(pred, true, 4), f1, rtol=1e-12)
    np.testing.assert_allclose(metrics.iou(pred, true, 4), jaccard, rtol=1e-12)
    expected = sklearn_metrics.accuracy_score(*args)
    assert metrics.accuracy(pred, true, 4) == pytest.approx(expected, rel=1e-12)


def test_void_pixels_are_as_if_cut_out(rng):
    pred, true = rng.integers(0, 3, (2, 200))
    true[::7] = -1
    pred[::5] = -1
    given = (pred >= 0) & (true >= 0)
    for metric in (metrics.dice, metrics.iou, metrics.accuracy):
        expected = metric(pred[given], true[given], 3)
        np.testing.assert_array_equal(metric(pred, true, 3), expected)


def test_absent_classes_are_undefined_and_invented_ones_are_zero():
    pred, true = np.array([0, 0, 2]), np.array([0, 0, 0])
    np.testing.assert_array_equal(metrics.dice(pred, true, 3), [0.8, np.nan, 0.0])
    assert np.isnan(metrics.accuracy([-1], [0], 3))


@pytest.mark.parametrize(
    ("pred", "true", "words"),
    [
        ([0, 1], [0, 1, 1], "one shape"),
        ([0.0, 1.0], [0, 1], "integer"),
        ([0, 1], [0, 3], "below 3"),
    ],
)
def test_bad_maps_are_refused(pred, true, words):
    with pytest.raises(DataError, match=words):
        metrics.overlap_counts(pred, true, 3)


def test_table_means_images_then_classes_and_counts_the_undefined():
    preds = [[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 2]]]
    trues = [[[0, 1, 0, 0]], [[0, 0, 0, 2]], [[0, 0, 0, 0]]]
    table = metrics.evaluate_masks(preds, trues, 3)
    np.testing.assert_allclose(table.per_class("dice"), [(0.8 + 6 / 7 + 6 / 7) / 3, 2 / 3, 0.0])
    assert table.mean("dice") == pytest.approx(1 / 3)
    np.testing.assert_array_equal(table.undefined("dice"), [0, 2, 1])
    np.testing.assert_allclose(table.pooled_dice(), [2 * 8 / 19, 2 / 3, 0.0])
    np.testing.assert_array_equal(table.undefined("hausdorff_95"), [3, 2, 3])
    summary = json.loads(json.dumps(table.summary(), allow_nan=False))
    assert summary["missed"] == [0, 0, 1]
    assert summary["invented"] == [0, 0, 1]
    # Distances 0 and 1 from the two predicted pixels: the 95th percentile between them is 0.95.
    assert summary["hausdorff_95"]["per_class"] == [None, 0.95, None]
    assert summary["accuracy"] == pytest.approx(9 / 12)


def test_table_takes_a_spacing_for_all_or_for_each_image():
    maps = [np.eye(4, dtype=int)] * 2
    shifted = [np.roll(np.eye(4, dtype=int), 1, axis=1)] * 2
    same = metrics.evaluate_masks(maps, shifted, 2, spacing=(2.0, 2.0))
    each = metrics.evaluate_masks(maps, shifted, 2, spacing=[(2.0, 2.0), (1.0, 1.0)])
    name = "average_symmetric_surface_distance"
    assert each.values[name][0, 1] == same.values[name][0, 1] == 2 * each.values[name][1, 1]


def test_empty_table_is_undefined():
    table = metrics.evaluate_masks([], [], 2)
    assert table.summary()["images"] == 0
    assert np.isnan(table.mean("dice"))
    with pytest.raises(ValueError, match="longer"):
        metrics.evaluate_masks([], [[[0]]], 2)


def test_numpy_metrics_load_neither_keras_nor_tensorflow():
    code = (
        "import sys; from keras_robustseg.metrics import dice, hausdorff_95, evaluate_masks; "
        "sys.exit(any(name in sys.modules for name in ('keras', 'tensorflow', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
