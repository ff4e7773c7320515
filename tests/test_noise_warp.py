"""Shifts, rotations, sizes and elastic bending: closed forms and statistics over seeds."""

import numpy as np
import pytest
from scipy import ndimage

from keras_robustseg.data import noise
from keras_robustseg.data.noise._warp import _rotation


def square(shape, half):
    mask = np.zeros(shape, np.int16)
    mask[tuple(slice(n // 2 - half, n // 2 + half + 1) for n in shape)] = 1
    return mask


def centroid(mask):
    return np.argwhere(mask > 0).mean(axis=0)


@pytest.mark.parametrize("shape", [(61, 61), (31, 31, 31)])
def test_shift_has_its_length_and_no_favourite_direction(shape):
    mask = square(shape, 5)
    moves = np.array([centroid(noise.shift(6)(mask, seed=k)) - centroid(mask) for k in range(300)])
    lengths = np.linalg.norm(moves, axis=1)
    assert np.abs(lengths - 6).max() < 1.0
    # A uniform direction has mean 0 and variance 1 / dims along each axis.
    assert np.abs(moves.mean(axis=0)).max() < 3.5 * 6 / np.sqrt(len(shape) * 300)
    np.testing.assert_allclose((moves**2).mean(axis=0), 36 / len(shape), rtol=0.25)


def test_shift_moves_every_class_by_the_same_amount():
    mask = square((41, 41), 3)
    mask[5:8, 5:9] = 2
    noisy = noise.shift(4)(mask, seed=3)
    for label in (1, 2):
        move = centroid(noisy == label) - centroid(mask == label)
        assert np.linalg.norm(move) == pytest.approx(4, abs=0.8)


def test_rotation_turns_by_at_most_its_angle_about_the_centroid():
    bar = np.zeros((71, 71), int)
    bar[33:38, 10:61] = 1
    angles = []
    for seed in range(80):
        points = np.argwhere(noise.shift(0, rotation=30)(bar, seed=seed) > 0)
        assert np.abs(points.mean(axis=0) - 35).max() < 0.6
        direction = np.linalg.svd(points - points.mean(axis=0))[2][0]
        angles.append(np.degrees(np.arctan(direction[0] / direction[1])))
    assert np.abs(angles).max() < 31
    assert min(angles) < -20
    assert max(angles) > 20
    assert abs(np.mean(angles)) < 8


def test_rotation_in_space_is_proper_and_turns_about_its_axis(rng):
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    matrix = _rotation(3, 0.7, axis)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix @ axis, axis, atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert np.trace(matrix) == pytest.approx(1 + 2 * np.cos(0.7))


def test_size_factor_is_symmetric_in_log():
    mask = square((81, 81), 12)
    logs = [
        0.5 * np.log(noise.shift(0, scale=0.5)(mask, seed=k).sum() / mask.sum()) for k in range(200)
    ]
    assert np.abs(logs).max() < np.log(1.5) + 0.05
    assert abs(np.mean(logs)) < 0.06
    assert np.std(logs) == pytest.approx(np.log(1.5) / np.sqrt(3), rel=0.15)


def test_elastic_moves_edges_by_its_magnitude_and_smoothly():
    halves = np.zeros((60, 120), int)
    halves[:, 60:] = 1
    edges = np.stack(
        [(noise.elastic(2.0, smoothness=8.0)(halves, seed=k) == 0).sum(axis=1) for k in range(200)]
    )
    # u along the row at the edge has standard deviation 2; a pixel's rounding adds 1/12.
    assert (edges - 60).std() == pytest.approx(np.sqrt(4 + 1 / 12), rel=0.12)
    assert abs((edges - 60).mean()) < 0.5
    moved = edges - 60.0
    assert (moved[:, 4:] * moved[:, :-4]).mean() > 0.7 * (moved**2).mean()


def test_elastic_of_zero_magnitude_and_shift_of_nothing_are_the_identity(rng):
    mask = ndimage.label(rng.random((37, 29)) > 0.6)[0].clip(max=3)
    np.testing.assert_array_equal(noise.elastic(0.0)(mask, seed=0), mask)
    np.testing.assert_array_equal(noise.shift(0.0)(mask, seed=0), mask)
