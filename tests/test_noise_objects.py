"""Missing and extra objects, objects and pixels of the wrong class: rates and conventions."""

import numpy as np
import pytest
from scipy import ndimage

from keras_robustseg.data import noise
from keras_robustseg.data.noise._geometry import find_objects
from keras_robustseg.errors import DataError, RecipeError

FULL = np.ones((3, 3))


def grid(classes=1, shape=(120, 120)):
    """A hundred 4 x 4 squares, of classes 1, 2, ... in turn."""
    mask = np.zeros(shape, int)
    corners = [(i, j) for i in range(4, 120, 12) for j in range(4, 120, 12)]
    for number, (i, j) in enumerate(corners):
        mask[i : i + 4, j : j + 4] = 1 + number % classes
    return mask


def test_objects_are_the_connected_parts_of_each_class():
    mask = grid(3)
    ids, classes = find_objects(mask)
    assert sum(ndimage.label(mask == k, FULL)[1] for k in (1, 2, 3)) == ids.max() == 100
    np.testing.assert_array_equal(classes[ids], mask)


def test_missing_drops_whole_objects_at_its_rate():
    mask = grid(2)
    dropped = []
    for seed in range(30):
        noisy = noise.missing(0.3)(mask, seed=seed)
        assert ((noisy == mask) | (noisy == 0)).all()
        left = ndimage.label(noisy, FULL)[1]
        assert (noisy > 0).sum() == 16 * left
        dropped.append(100 - left)
    assert np.mean(dropped) == pytest.approx(30, abs=3)
    only = noise.missing(1.0, classes=[2])(mask, seed=0)
    np.testing.assert_array_equal(only, np.where(mask == 2, 0, mask))


@pytest.mark.parametrize("shape", [(90, 80), (40, 41, 42)])
def test_extra_objects_are_new_apart_and_of_the_size_asked_for(shape):
    mask = np.zeros(shape, int)
    mask[(slice(2, 8),) * len(shape)] = 2
    areas = []
    for seed in range(12):
        noisy = noise.extra(2, radius=4)(mask, seed=seed)
        np.testing.assert_array_equal(noisy[mask > 0], mask[mask > 0])
        parts, count = ndimage.label(noisy, np.ones((3,) * len(shape)))
        assert count == 3
        assert set(np.unique(noisy)) == {0, 2}
        areas += list(np.bincount(parts[mask == 0])[1:])
    areas = [area for area in areas if area]
    expected = np.pi * 16 if len(shape) == 2 else 4 / 3 * np.pi * 64
    assert np.mean(areas) == pytest.approx(expected, rel=0.35)


def test_extra_objects_need_room():
    np.testing.assert_array_equal(noise.extra(5)(np.ones((20, 20), int), seed=0), 1)
    np.testing.assert_array_equal(noise.extra(5, radius=9)(np.zeros((12, 12), int), seed=0), 0)


def test_class_flip_changes_objects_to_any_other_foreground_class():
    mask = grid(1)
    counts = np.zeros(4)
    for seed in range(30):
        noisy = noise.class_flip(0.6, num_classes=4)(mask, seed=seed)
        np.testing.assert_array_equal(noisy > 0, mask > 0)
        ids, _ = find_objects(mask)
        for label in (1, 2, 3):
            counts[label] += len(np.unique(ids[noisy == label]))
    np.testing.assert_allclose(counts[1:] / 3000, [0.4, 0.3, 0.3], atol=0.03)


def test_class_flip_of_a_single_class_changes_nothing():
    np.testing.assert_array_equal(noise.class_flip(1.0)(grid(1), seed=0), grid(1))


def flip_rates(made, classes=3):
    mask = np.repeat(np.arange(classes), 40000).reshape(-1, 200)
    noisy = made(mask, seed=0)
    return np.stack(
        [np.bincount(noisy[mask == k], minlength=classes) / 40000 for k in range(classes)]
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rate": 0.3}, [[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]]),
        ({"rate": 0.3, "include_true": True}, [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]),
        (
            {"mode": "asymmetric", "rate": 0.4, "pairs": {1: 2, 2: 0}},
            [[1, 0, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]],
        ),
        (
            {"mode": "matrix", "matrix": [[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0, 0, 1]]},
            [[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0, 0, 1]],
        ),
    ],
)
def test_pixel_flips_have_their_transition_matrix(fields, expected):
    np.testing.assert_allclose(flip_rates(noise.pixel_flip(**fields)), expected, atol=0.01)


def test_pairs_may_come_as_texts_from_json():
    made = noise.pixel_flip("asymmetric", rate=1.0, pairs={"1": 2})
    np.testing.assert_array_equal(made(np.array([[0, 1, 2]]), seed=0), [[0, 2, 2]])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"mode": "sym"}, "mode"),
        ({"mode": "asymmetric"}, "pairs"),
        ({"pairs": {1: 2}}, "pairs"),
        ({"mode": "asymmetric", "pairs": {1: -2}}, "pairs"),
        ({"mode": "asymmetric", "pairs": {"lung": 1}}, "pairs"),
        ({"mode": "matrix"}, "matrix"),
        ({"mode": "matrix", "matrix": [[0.5, 0.6], [0, 1]]}, "matrix"),
        ({"mode": "matrix", "matrix": [[1, 0]]}, "matrix"),
        ({"matrix": [[1, 0], [0, 1]]}, "matrix"),
        ({"rate": 1.2}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"num_classes": 1}, "num_classes"),
    ],
)
def test_pixel_flip_says_which_field_is_wrong(fields, field):
    with pytest.raises(RecipeError, match=f"'pixel_flip', field '{field}'"):
        noise.pixel_flip(**fields)


def test_a_matrix_too_small_for_the_mask_is_refused():
    with pytest.raises(DataError, match="2 classes, but the mask has labels up to 2"):
        noise.pixel_flip("matrix", matrix=[[1, 0], [0, 1]])(np.array([[2]]), seed=0)
