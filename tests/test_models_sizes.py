"""Padding to a multiple against numpy.pad, cropping back, serialisation."""

import keras
import numpy as np
import pytest

from keras_robustseg.models import CropLike, PadToMultiple, ResizeLike

SIZES = [(8, 16), (13, 6), (1, 3), (2, 9), (5, 1, 7)]


def padded_by_numpy(images, multiple, mode):
    widths = [(0, -size % multiple) for size in images.shape[1:-1]]
    return np.pad(images, [(0, 0), *widths, (0, 0)], mode=mode)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("size", SIZES)
def test_padding_equals_numpy(size, mode):
    images = np.random.default_rng(3).normal(size=(2, *size, 3)).astype("float32")
    got = PadToMultiple(8, mode=mode)(images)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(got), padded_by_numpy(images, 8, mode))


@pytest.mark.parametrize("size", SIZES)
def test_cropping_undoes_padding(size):
    images = np.random.default_rng(4).normal(size=(1, *size, 2)).astype("float32")
    back = CropLike()([PadToMultiple(4)(images), images])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back), images)


def test_sizes_unknown_until_run_time_stay_unknown_in_the_graph():
    image = keras.Input((None, 13, 1))
    padded = PadToMultiple(4)(image)
    assert padded.shape == (None, None, 16, 1)
    assert CropLike()([padded, image]).shape == (None, None, 13, 1)


@pytest.mark.parametrize("size", [(9, 14), (3, 4), (1, 30), (6, 7)])
def test_resizing_equals_keras_where_keras_can(size):
    x = np.random.default_rng(5).normal(size=(2, 6, 7, 3)).astype("float32")
    got = ResizeLike()([x, np.zeros((2, *size, 1), "float32")])
    expected = keras.ops.image.resize(x, size, data_format="channels_last")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_resizing_keeps_straight_lines_straight_in_volumes():
    x = np.arange(4.0, dtype="float32").reshape(1, 1, 4, 1, 1) * np.ones((1, 2, 1, 3, 1), "float32")
    got = keras.ops.convert_to_numpy(ResizeLike()([x, np.zeros((1, 3, 8, 5, 1), "float32")]))
    assert got.shape == (1, 3, 8, 5, 1)
    line = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(got, np.broadcast_to(line[:, None, None], got.shape), atol=1e-6)


def test_config_round_trip():
    layer = PadToMultiple(16, mode="edge", name="pad", dtype="float16")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert (again.multiple, again.mode, again.compute_dtype) == (16, "edge", "float16")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"multiple": 0}, "multiple"), ({"multiple": 4, "mode": "wrap"}, "mode")],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        PadToMultiple(**arguments)
