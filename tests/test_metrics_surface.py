"""Surface metrics against SimpleITK, SciPy's distance transform and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from keras_robustseg import metrics
from keras_robustseg.errors import DataError

SHAPES = [((31, 26), (1.0, 0.4)), ((12, 17, 14), (2.5, 0.7, 1.1))]


def blob(rng, shape):
    return ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.03


def brute_force(pred, true, spacing):
    """Distance transforms of the borders that binary erosion leaves."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, true)]
    maps = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    return maps[1][borders[0]], maps[0][borders[1]]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_distances_equal_the_distance_transform(rng, shape, spacing):
    pred, true = blob(rng, shape), blob(rng, shape)
    ours = metrics.surface_distances(pred, true, spacing=spacing)
    for distances, expected in zip(ours, brute_force(pred, true, spacing), strict=True):
        np.testing.assert_allclose(np.sort(distances), np.sort(expected), rtol=1e-12)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_metrics_are_their_formulas(rng, shape, spacing):
    pred, true = blob(rng, shape), blob(rng, shape)
    one, other = brute_force(pred, true, spacing)
    pooled = np.concatenate([one, other])
    options = {"spacing": spacing}
    expected = max(np.percentile(one, 95), np.percentile(other, 95))
    assert metrics.hausdorff_95(pred, true, **options) == pytest.approx(expected)
    assd = metrics.average_symmetric_surface_distance(pred, true, **options)
    assert assd == pytest.approx(pooled.mean())
    nsd = metrics.normalized_surface_dice(pred, true, tolerance=1.0, **options)
    assert nsd == pytest.approx((pooled <= 1.0).mean())


def itk_hausdorff(pred, true, spacing):
    contours = []
    for mask in (pred, true):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contours.append(sitk.BinaryContour(image, fullyConnected=False))
    oracle = sitk.HausdorffDistanceImageFilter()
    oracle.Execute(*contours)
    return oracle.GetHausdorffDistance()


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_largest_distance_is_the_hausdorff_distance_of_simpleitk(rng, shape, spacing):
    # SimpleITK draws no contour along the edge of the image, so keep the masks off the edge.
    pred, true = (np.pad(blob(rng, shape), 1) for _ in range(2))
    distances = np.concatenate(metrics.surface_distances(pred, true, spacing=spacing))
    assert distances.max() == pytest.approx(itk_hausdorff(pred, true, spacing), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_shifted_boxes_in_closed_form(dims):
    # Two parallel faces 3 pixels of 0.5 apart: every surface point of a thin sheet is 1.5 away.
    sheet, moved = np.zeros((2, *(12,) * dims), dtype=bool)
    sheet[4], moved[7] = True, True
    spacing = (0.5, *(1.0,) * (dims - 1))
    assert metrics.hausdorff_95(sheet, moved, spacing=spacing) == 1.5
    assert metrics.average_symmetric_surface_distance(sheet, moved, spacing=spacing) == 1.5
    for tolerance, expected in ((1.4, 0.0), (1.5, 1.0)):
        nsd = metrics.normalized_surface_dice(sheet, moved, tolerance=tolerance, spacing=spacing)
        assert nsd == expected


def test_tolerance_survives_spacings_that_binary_cannot_hold():
    one, other = np.zeros((2, 8), dtype=bool)
    one[0], other[3] = True, True
    assert metrics.normalized_surface_dice(one, other, tolerance=0.3, spacing=(0.1,)) == 1.0


def test_moving_both_masks_changes_nothing(rng):
    pred, true = (np.pad(blob(rng, (14, 15)), 6) for _ in range(2))
    moved = [np.roll(mask, (3, -4), axis=(0, 1)) for mask in (pred, true)]
    for metric in (metrics.hausdorff_95, metrics.average_symmetric_surface_distance):
        assert metric(*moved) == pytest.approx(metric(pred, true))
        assert metric(true, pred) == pytest.approx(metric(pred, true))
        assert metric(pred, pred) == 0.0


def test_empty_masks_have_no_distance():
    empty, full = np.zeros((5, 5)), np.ones((5, 5))
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert np.isnan(metrics.hausdorff_95(*pair))
        assert np.isnan(metrics.average_symmetric_surface_distance(*pair))
        assert np.isnan(metrics.normalized_surface_dice(*pair, tolerance=1.0))
    assert metrics.hausdorff_95(full, full) == 0.0


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_bad_spacing_is_refused(spacing):
    with pytest.raises(DataError, match="spacing"):
        metrics.hausdorff_95(np.ones((3, 3)), np.ones((3, 3)), spacing=spacing)


def test_shapes_must_agree():
    with pytest.raises(DataError, match="one shape"):
        metrics.hausdorff_95(np.ones((3, 3)), np.ones((3, 4)))
