"""Augmentation: the table of a draw, its exactness, its transpose, its dependence on the seed."""

import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg.data._augment import (
    Affine,
    Augment,
    Elastic,
    Intensity,
    change_intensity,
    draw_geometry,
    take_image,
    take_mask,
)

RIGID = Augment(flip=True, rotate90=True)
SMOOTH = Augment(flip=True, rotate90=True, affine=Affine(probability=1.0), elastic=Elastic())


def geometry(shape, target, augment, seed):
    return draw_geometry(tf.constant(shape), target, augment, tf.constant([seed, 0]))


def dihedral(image):
    turned = [np.rot90(image, k) for k in range(4)]
    return turned + [t[:, ::-1] for t in turned]


def test_square_draws_are_the_eight_symmetries_and_all_of_them_occur():
    image = np.arange(35 * 35, dtype="float32").reshape(35, 35, 1)
    seen = set()
    for seed in range(60):
        moved = take_image(tf.constant(image), geometry((35, 35), (35, 35), RIGID, seed)).numpy()
        matches = [k for k, s in enumerate(dihedral(image)) if np.array_equal(s, moved)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 9, 6)])
def test_a_draw_without_a_crop_is_a_permutation_of_the_pixels(shape):
    for seed in range(10):
        index = geometry(shape, shape, RIGID, seed).index.numpy()
        assert sorted(index.ravel()) == list(range(int(np.prod(shape))))


def test_crops_stay_inside_and_reach_every_position():
    starts = set()
    for seed in range(200):
        index = geometry((6, 7), (4, 4), Augment(flip=False), seed).index.numpy()[..., 0]
        rows, columns = index // 7, index % 7
        assert (np.diff(rows, axis=0) == 1).all()
        assert (np.diff(columns, axis=1) == 1).all()
        starts.add((rows[0, 0], columns[0, 0]))
    assert starts == {(r, c) for r in range(3) for c in range(4)}


def test_a_crop_larger_than_the_image_is_void_outside_and_continues_the_edge():
    image = tf.constant(np.arange(6, dtype="float32").reshape(2, 3, 1))
    table = geometry((2, 3), (4, 5), None, 0)
    mask = take_mask(tf.constant([[1, 0, 1], [0, 1, 0]]), table, 2).numpy()
    assert (mask >= 0).sum() == 6
    assert np.array_equal(mask[1:3, 1:4], [[1, 0, 1], [0, 1, 0]])
    assert np.array_equal(
        take_image(image, table)[..., 0], np.pad(image[..., 0], ((1, 1), (1, 1)), mode="edge")
    )


def test_no_augmentation_takes_the_centre():
    index = geometry((8, 9), (4, 5), None, 3).index.numpy()[..., 0]
    assert index[0, 0] in (2 * 9 + 2, 1 * 9 + 1, 2 * 9 + 1, 1 * 9 + 2)
    again = geometry((8, 9), (4, 5), None, 4).index.numpy()[..., 0]
    assert np.array_equal(index, again)


@pytest.mark.parametrize("shape", [(20, 23), (9, 11, 10)])
def test_smooth_weights_sum_to_one_and_reproduce_linear_images(shape):
    axes = np.meshgrid(*[np.arange(n, dtype="float32") for n in shape], indexing="ij")
    image = np.stack(axes, axis=-1)
    for seed in range(4):
        table = geometry(shape, shape, SMOOTH, seed)
        np.testing.assert_allclose(tf.reduce_sum(table.weight, -1), 1.0, atol=1e-5)
        inside = (table.index.numpy() >= 0).all(-1)
        assert inside.mean() > 0.5
        # A linear image shows the positions themselves: they must vary smoothly.
        moved = take_image(tf.constant(image), table).numpy()
        assert np.abs(np.diff(moved, axis=0)).max() < 4.0


def test_smooth_without_motion_is_the_identity():
    still = Augment(flip=False, affine=Affine(0.0, 0.0, 0.0, 1.0), elastic=Elastic(8.0, 0.0, 1.0))
    image = np.random.default_rng(0).normal(size=(13, 17, 2)).astype("float32")
    moved = take_image(tf.constant(image), geometry((13, 17), (13, 17), still, 5))
    np.testing.assert_array_equal(moved, image)


def test_same_seed_same_draw_other_seed_other_draw():
    one, two, three = (geometry((16, 16), (8, 8), SMOOTH, s) for s in (7, 7, 8))
    assert np.array_equal(one.index, two.index)
    assert np.array_equal(one.weight, two.weight)
    assert not np.array_equal(one.index, three.index)


def test_masks_of_several_readers_move_alike():
    mask = np.random.default_rng(1).integers(-1, 3, size=(9, 9, 3)).astype("int32")
    table = geometry((9, 9), (9, 9), SMOOTH, 2)
    together = take_mask(tf.constant(mask), table, 2).numpy()
    for reader in range(3):
        alone = take_mask(tf.constant(mask[..., reader]), table, 2).numpy()
        assert np.array_equal(together[..., reader], alone)


def test_intensity_changes_mean_and_contrast_within_its_bounds():
    image = np.random.default_rng(2).normal(50, 10, size=(32, 32, 1)).astype("float32")
    spread = image.std()
    for seed in range(10):
        moved = change_intensity(
            tf.constant(image), Intensity(0.1, 0.2, 0.0, 0.0), tf.constant([seed, 1])
        ).numpy()
        assert abs(moved.mean() - image.mean()) <= 0.1 * spread + 1e-3
        assert 0.8 - 1e-3 <= moved.std() / spread <= 1.2 + 1e-3
