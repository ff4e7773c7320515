"""Outlines that were dilated or eroded on purpose: the offset is found and taken back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.morphology import ball, dilation, disk, erosion

from keras_robustseg.errors import DataError
from keras_robustseg.labels import estimate_spatial_bias, signed_distance, undo_spatial_bias


def round_object(shape, centre, radius, spacing=None):
    grid = np.indices(shape).astype(float)
    scale = np.ones(len(shape)) if spacing is None else np.asarray(spacing)
    offset = (grid.T - np.asarray(centre)) * scale
    squared = (offset**2).sum(-1).T
    return squared <= radius**2


def masks_2d(rng, count=4, size=40):
    centres = rng.uniform(16, 24, (count, 2))
    radii = rng.uniform(7, 10, count)
    pairs = zip(centres, radii, strict=True)
    return [round_object((size, size), c, r).astype("uint8") for c, r in pairs]


def test_signed_distance_is_scipys_on_either_side(rng):
    inside = rng.random((9, 8)) < 0.6
    found = signed_distance(inside, spacing=(1.0, 2.5))
    np.testing.assert_allclose(found[inside], distance_transform_edt(inside, (1.0, 2.5))[inside])
    np.testing.assert_allclose(
        -found[~inside], distance_transform_edt(~inside, (1.0, 2.5))[~inside]
    )
    assert np.isposinf(signed_distance(np.ones((3, 3)))).all()
    assert np.isneginf(signed_distance(np.zeros((3, 3)))).all()


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize(("move", "sign"), [(dilation, 1), (erosion, -1)])
def test_planted_bias_is_found_and_undone(rng, move, sign, radius):
    clean = masks_2d(rng)
    given = [move(mask, disk(radius)) for mask in clean]
    bias = estimate_spatial_bias(given[:2], clean[:2], 2)
    assert bias[0] == 0
    assert bias[1] == pytest.approx(sign * radius, abs=0.75)
    for mask, truth in zip(given[2:], clean[2:], strict=True):
        fixed = undo_spatial_bias(mask, bias)
        assert fixed.dtype == mask.dtype
        assert (fixed != truth).sum() <= 0.2 * (mask != truth).sum()


@pytest.mark.parametrize(("move", "sign"), [(dilation, 1), (erosion, -1)])
def test_planted_bias_in_three_dimensions(rng, move, sign):
    clean = [round_object((20, 20, 20), rng.uniform(9, 11, 3), 6).astype("int16") for _ in range(2)]
    given = [move(mask, ball(2)) for mask in clean]
    bias = estimate_spatial_bias(given[:1], clean[:1], 2)
    assert bias[1] == pytest.approx(2 * sign, abs=0.75)
    fixed = undo_spatial_bias(given[1], bias)
    assert (fixed != clean[1]).sum() <= 0.2 * (given[1] != clean[1]).sum()


def test_offset_is_in_the_unit_of_the_spacing():
    spacing = (1.0, 0.5)
    clean = round_object((30, 60), (15, 30), 8, spacing).astype("int32")
    given = (signed_distance(clean == 1, spacing=spacing) >= -3.0).astype("int32")
    bias = estimate_spatial_bias([given], [clean], 2, spacing=spacing)
    assert bias[1] == pytest.approx(3.0, abs=0.3)
    fixed = undo_spatial_bias(given, bias, spacing=spacing)
    assert (fixed != clean).sum() <= 0.1 * (given != clean).sum()


def test_each_class_has_its_own_offset(rng):
    clean = np.zeros((50, 50), "int16")
    clean[round_object((50, 50), (14, 14), 8)] = 1
    clean[round_object((50, 50), (35, 35), 9)] = 2
    given = np.zeros_like(clean)
    given[dilation(clean == 1, disk(2))] = 1
    given[erosion(clean == 2, disk(3))] = 2
    bias = estimate_spatial_bias([given], [clean], 4)
    np.testing.assert_allclose(bias, [0, 2, -3, 0], atol=0.75)
    fixed = undo_spatial_bias(given, bias)
    assert (fixed != clean).sum() <= 0.1 * (given != clean).sum()


def test_noise_without_a_direction_has_no_offset(rng):
    clean = masks_2d(rng, 2)
    moves = (lambda mask: dilation(mask, disk(2)), lambda mask: erosion(mask, disk(2)), np.copy)
    given = [move(mask) for move in moves for mask in clean]
    assert estimate_spatial_bias(given, clean * 3, 2)[1] == 0
    np.testing.assert_array_equal(estimate_spatial_bias(clean, clean, 2), 0)


def test_no_offset_changes_nothing(rng):
    mask = rng.integers(-1, 4, (12, 11)).astype("int8")
    np.testing.assert_array_equal(undo_spatial_bias(mask, np.zeros(4)), mask)


def test_void_does_not_count_and_forms_no_outline(rng):
    clean = masks_2d(rng, 1)[0].astype("int16")
    given = dilation(clean, disk(2))
    void = np.zeros(clean.shape, bool)
    void[:, 20:23] = True
    bias = estimate_spatial_bias([np.where(void, -1, given)], [np.where(void.T, -1, clean)], 2)
    assert bias[1] == pytest.approx(2, abs=0.75)
    fixed = undo_spatial_bias(np.where(void, -1, given), bias)
    assert (fixed[void] == -1).all()
    wrong = (given != clean)[~void].sum()
    assert (fixed != clean)[~void].sum() <= 0.25 * wrong


def test_full_empty_and_void_masks():
    full, empty = np.ones((6, 6), int), np.zeros((6, 6), int)
    np.testing.assert_array_equal(estimate_spatial_bias([full, empty], [empty, full], 3), 0)
    for mask in (full, empty, np.full((6, 6), -1)):
        np.testing.assert_array_equal(undo_spatial_bias(mask, [0.0, 2.0, -1.0]), mask)


def test_bad_input_is_refused():
    mask = np.zeros((4, 4), int)
    with pytest.raises(DataError, match="one shape"):
        estimate_spatial_bias([mask], [mask[:3]], 2)
    with pytest.raises(DataError, match="class ids below 2"):
        undo_spatial_bias(mask + 2, [0, 1])
    with pytest.raises(DataError, match="integer"):
        undo_spatial_bias(mask.astype(float), [0, 1])
    with pytest.raises(ValueError, match="zip"):
        estimate_spatial_bias([mask, mask], [mask], 2)
