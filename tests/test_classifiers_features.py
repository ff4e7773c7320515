"""Features of pixels agree with scikit-image's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose
from skimage.feature import (
    multiscale_basic_features,
    structure_tensor,
    structure_tensor_eigenvalues,
)

from keras_robustseg.classifiers import (
    PixelLogisticRegression,
    network_features,
    pixel_feature_names,
    pixel_features,
)

SHAPES = {"2-D": (23, 17), "3-D": (9, 12, 7)}
each = pytest.mark.parametrize("space", SHAPES.values(), ids=SHAPES)


@each
def test_basic_features_as_in_scikit_image(space, rng):
    images = rng.random((2, *space, 2)).astype("float32")
    sigmas = (0.5, 1.0, 2.0)
    found = pixel_features(images, sigmas, structure_tensor=False)
    assert found.dtype == "float32"
    options = {"sigma_min": 0.5, "sigma_max": 2.0, "num_sigma": 3}
    for image, features in zip(images, np.asarray(found), strict=True):
        theirs = multiscale_basic_features(image, channel_axis=-1, **options)
        assert_allclose(features, theirs, atol=3e-6)


@each
def test_structure_tensor_as_in_scikit_image(space, rng):
    images = rng.random((1, *space, 1)).astype("float32")
    switches = {"intensity": False, "gradient": False, "hessian": False}
    found = np.asarray(pixel_features(images, (1.5,), **switches))[0]
    tensor = structure_tensor(images[0, ..., 0].astype(float), sigma=1.5, mode="nearest")
    theirs = structure_tensor_eigenvalues(tensor) / 16.0 ** (len(space) - 1)
    assert_allclose(np.moveaxis(found, -1, 0), theirs, atol=3e-6)


@each
def test_position_and_neighbourhood(space, rng):
    images = rng.random((1, *space, 1)).astype("float32")
    options = {"sigmas": (), "position": True, "neighbourhood": 1}
    found = np.asarray(pixel_features(images, **options))[0]
    names = pixel_feature_names(len(space), **options)
    padded = np.pad(images[0, ..., 0], 1, mode="edge")
    for feature, name in zip(np.moveaxis(found, -1, 0), names[: 3 ** len(space)], strict=False):
        by = [int(step) for step in name.split("at ")[1].strip("()").split(",")]
        moved = tuple(slice(1 + d, 1 + d + n) for d, n in zip(by, space, strict=True))
        assert_allclose(feature, padded[moved])
    expected = np.meshgrid(*(np.linspace(0, 1, n) for n in space), indexing="ij")
    assert_allclose(np.moveaxis(found[..., -len(space) :], -1, 0), expected, atol=1e-6)


@each
def test_names_are_as_many_as_features_and_constants_are_flat(space):
    images = np.full((1, *space, 2), 3.0)
    found = np.asarray(pixel_features(images, (1, 3), neighbourhood=1))
    names = pixel_feature_names(len(space), 2, (1, 3), neighbourhood=1)
    assert found.shape[-1] == len(names) == len(set(names))
    level = [" intensity" in name or " at " in name for name in names]
    assert_allclose(found[..., level], 3.0, rtol=1e-6)
    assert_allclose(found[..., ~np.array(level)], 0.0, atol=1e-5)


def test_in_a_graph_of_unknown_size(rng):
    images = rng.random((2, 20, 14, 1)).astype("float32")
    signature = [tf.TensorSpec((None, None, None, 1))]
    options = {"sigmas": (0.5,), "position": True}
    compiled = tf.function(lambda x: pixel_features(x, **options), input_signature=signature)
    assert_allclose(compiled(images), pixel_features(images, **options), atol=1e-6)


@pytest.mark.slow
def test_compiled_by_xla(rng):
    images = rng.random((1, 9, 8, 7, 1)).astype("float32")
    compiled = tf.function(lambda x: pixel_features(x, (1.0,)), jit_compile=True)
    assert_allclose(compiled(images), pixel_features(images, (1.0,)), atol=3e-6)


def test_a_classifier_on_the_features_of_images_and_networks(rng):
    images = rng.normal(size=(2, 16, 16, 1)).astype("float32")
    masks = (np.asarray(pixel_features(images, (2.0,)))[..., 0] > 0).astype(int)
    model = PixelLogisticRegression(1e-4).fit(pixel_features(images, (1.0, 2.0)), masks)
    assert model.score(pixel_features(images, (1.0, 2.0)), masks) > 0.95
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", name="fine")(inputs)
    x = keras.layers.MaxPooling2D(name="coarse")(x)
    network = keras.Model(inputs, keras.layers.Conv2D(3, 1)(x))
    fine, coarse = (network_features(network, name)(images) for name in ("fine", "coarse"))
    assert fine.shape == coarse.shape == (2, 16, 16, 4)
    pooled = np.asarray(fine).reshape(2, 8, 2, 8, 2, 4).max(axis=(2, 4))
    assert_allclose(np.asarray(coarse)[:, 1::2, ::2], pooled)
    assert PixelLogisticRegression().fit(fine, masks).predict(fine).shape == (2, 16, 16)
    with pytest.raises(ValueError, match="size divides"):
        network_features(network, "coarse")(images[:, :15, :15])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 4, 1), {}, "Expected images of shape"),
        ((1, 1, 4, 1), {}, "at least 2 pixels"),
        ((1, 4, 4, 1), {"sigmas": (0.0,)}, "positive sigmas"),
        ((1, 4, 4, 1), {"neighbourhood": -1}, "whole number as neighbourhood"),
        ((1, 4, 4, 1), {"sigmas": ()}, "No feature is chosen"),
    ],
)
def test_wrong_input_is_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        pixel_features(np.zeros(shape), **options)
