"""Dilation, erosion, the Markov walk and polygons against other implementations."""

import itertools

import numpy as np
import pytest
from matplotlib.path import Path as PolygonPath
from scipy import ndimage
from skimage import measure, morphology

from keras_robustseg.data import noise
from keras_robustseg.data.noise._geometry import smooth_field
from keras_robustseg.data.noise._markov import walk
from keras_robustseg.data.noise._polygon import fill, outlines, simplify
from keras_robustseg.errors import RecipeError


def blob(seed, shape=(64, 53), level=0.4):
    return smooth_field(np.random.default_rng(seed), shape, 5.0) > level


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("shape", "element"), [((64, 53), morphology.disk), ((15, 22, 19), morphology.ball)]
)
def test_dilate_and_erode_are_those_of_scikit_image(radius, shape, element):
    region = blob(radius, shape)
    ours = noise.dilate(radius)(region.astype(int), seed=0) > 0
    np.testing.assert_array_equal(ours, morphology.dilation(region, element(radius)))
    ours = noise.erode(radius)(region.astype(int), seed=0) > 0
    # Beyond the border of the image scikit-image's erosion sees the region go on, as ours does.
    np.testing.assert_array_equal(ours, morphology.erosion(region, element(radius)))


def test_relative_radius_is_a_share_of_each_objects_radius():
    mask = np.zeros((80, 140), int)
    grid = np.indices(mask.shape)
    for column, radius in ((30, 20), (100, 10)):
        mask[(grid[0] - 40) ** 2 + (grid[1] - column) ** 2 <= radius**2] = 1
    noisy = noise.dilate(0.25, relative=True)(mask, seed=0)
    assert noisy[40].nonzero()[0].min() == pytest.approx(30 - 25, abs=1)
    assert noisy[40].nonzero()[0].max() == pytest.approx(100 + 12.5, abs=1)
    smaller = noise.erode(0.5, relative=True)(mask, seed=0)
    assert (smaller[:, :70] > 0).sum() == pytest.approx(np.pi * 100, rel=0.1)
    assert (smaller[:, 70:] > 0).sum() == pytest.approx(np.pi * 25, rel=0.15)


def test_classes_grow_over_background_and_keep_their_common_edge():
    mask = np.zeros((30, 40), int)
    mask[10:20, 5:15], mask[10:20, 15:25] = 1, 2
    grown = noise.dilate(3)(mask, seed=0)
    np.testing.assert_array_equal(grown[15, 2:28], [1] * 13 + [2] * 13)
    nested = np.ones((30, 30), int)
    nested[10:20, 10:20] = 2
    shrunk = noise.erode(2, classes=[2])(nested, seed=0)
    assert (shrunk == 2).sum() == 36
    assert (shrunk == 0).sum() == 0
    assert (noise.dilate(2, classes=[2])(nested, seed=0) == 2).sum() > 100
    np.testing.assert_array_equal(noise.erode(2)(nested, seed=0), nested)


@pytest.mark.parametrize("shape", [(33, 47), (13, 15, 17)])
def test_walk_with_certain_flips_is_iterated_morphology(shape):
    region = blob(7, shape, 0.8)
    cross = ndimage.generate_binary_structure(len(shape), 1)
    rng = np.random.default_rng(0)
    out = ndimage.binary_dilation(region, cross, iterations=4)
    np.testing.assert_array_equal(walk(region, 4, 1.0, 1.0, rng), out)
    inward = ndimage.binary_erosion(region, cross, iterations=2, border_value=1)
    np.testing.assert_array_equal(walk(region, 2, 0.0, 1.0, rng), inward)
    np.testing.assert_array_equal(walk(region, 9, 0.5, 0.0, rng), region)


def plain_walk(region, steps, theta1, theta2, rng):
    """The same walk, pixel by pixel."""
    state = region.copy()
    height, width = state.shape
    for _ in range(steps):
        expands = rng.random() < theta1
        before = state.copy()
        for i in range(height):
            for j in range(width):
                beside = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                touches = any(
                    0 <= y < height and 0 <= x < width and before[y, x] == expands
                    for y, x in beside
                )
                if before[i, j] != expands and touches and rng.random() < theta2:
                    state[i, j] = expands
    return state


@pytest.mark.parametrize("theta1", [0.2, 0.8])
def test_walk_has_the_law_of_a_walk_pixel_by_pixel(theta1):
    region = np.zeros((20, 20), bool)
    region[6:14, 6:14] = True
    fast = [walk(region, 8, theta1, 0.2, np.random.default_rng(k)).sum() for k in range(400)]
    plain = [plain_walk(region, 8, theta1, 0.2, np.random.default_rng(k)).sum() for k in range(40)]
    standard_error = np.std(plain) / np.sqrt(40) + np.std(fast) / np.sqrt(400)
    assert abs(np.mean(fast) - np.mean(plain)) < 3.5 * standard_error
    assert np.std(fast) == pytest.approx(np.std(plain), rel=0.35)


@pytest.mark.parametrize(("steps", "expected"), [(180, 0.81), (200, 0.77), (400, 0.59)])
def test_walk_leaves_the_dice_of_a_per_pixel_implementation(steps, expected):
    """A disc of radius 50 with (theta1, theta2, theta3) = (.8, .05, .2).

    The expected values were measured once with a published loop over pixels, two digits kept.
    """
    disc = ((np.indices((256, 256)) - 128) ** 2).sum(axis=0) < 50**2
    noisy = [noise.markov(steps)(disc, seed=k) > 0 for k in range(3)]
    dice = [2 * (after & disc).sum() / (after.sum() + disc.sum()) for after in noisy]
    assert np.mean(dice) == pytest.approx(expected, abs=0.02)


def test_window_erases_the_final_flips_and_without_it_they_stay():
    region = np.zeros((90, 60), int)
    region[:, 30:] = 1
    flipped = noise.markov(0, theta3=0.2, blur=0)(region, seed=0) != region
    assert flipped.mean() == pytest.approx(0.2, abs=0.03)
    smoothed = noise.markov(0, theta3=0.2, blur=5)(region, seed=0) != region
    # A window of 25 pixels of one class turns with probability P(Binomial(25, .2) > 12) = .0004.
    assert smoothed[:, 5:25].mean() < 0.005
    assert smoothed[:, 35:55].mean() < 0.005
    with pytest.raises(RecipeError, match="'blur'"):
        noise.markov(blur=4)


def test_outlines_filled_again_are_the_region():
    for seed in range(6):
        region = blob(seed, (31, 27), 0.0)
        region[0, :3] = region[-1, -1] = True
        again = np.zeros_like(region)
        for loop in outlines(region):
            again ^= fill(loop, region.shape)
        np.testing.assert_array_equal(again, region)


def test_filling_is_that_of_matplotlib():
    rng = np.random.default_rng(1)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        star = 16 + rng.uniform(3, 18, (9, 1)) * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        centres = np.argwhere(np.ones((32, 33))) + 0.5
        expected = PolygonPath(star).contains_points(centres).reshape(32, 33)
        np.testing.assert_array_equal(fill(star, (32, 33)), expected)


def test_simplified_outline_is_that_of_scikit_image():
    for seed, tolerance in ((2, 0.8), (3, 1.5), (4, 3.0)):
        loop = max(outlines(blob(seed)), key=len)
        ours = simplify(loop, tolerance)
        far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
        # scikit-image wants open lines: the arcs between the three corners that always stay.
        along = (loop[far] - loop[0]) / np.linalg.norm(loop[far] - loop[0])
        third = int(np.argmax(np.abs((loop - loop[0]) @ [[-along[1]], [along[0]]])))
        closed, ends = np.concatenate([loop, loop[:1]]), sorted([0, far, third, len(loop)])
        arcs = [closed[a : b + 1] for a, b in itertools.pairwise(ends)]
        expected = [measure.approximate_polygon(arc, tolerance)[:-1] for arc in arcs]
        np.testing.assert_array_equal(ours, np.concatenate(expected))


def test_polygon_stays_within_the_tolerance():
    region = blob(5, (90, 80))
    for tolerance in (1.0, 2.5):
        noisy = noise.polygon(tolerance)(region.astype(int), seed=1) > 0
        edge = ndimage.distance_transform_edt(region) + ndimage.distance_transform_edt(~region)
        assert edge[noisy != region].max() <= tolerance + 1.0
        assert (noisy != region).any()
    np.testing.assert_array_equal(noise.polygon(0.0)(region.astype(int), seed=1) > 0, region)
