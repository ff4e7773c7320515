"""Whole and sliding-window prediction against brute force."""

import itertools

import keras
import numpy as np
import pytest
from scipy.special import softmax

from keras_robustseg.models import predict_probabilities, unet


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Recorder:
    """A network whose logits depend on the place in the window, so that blending shows."""

    def __init__(self, listed=False):
        self.listed = listed
        self.shapes = []

    def predict_on_batch(self, images):
        self.shapes.append(images.shape)
        ramp = np.linspace(-1, 1, images.shape[1]).reshape(-1, *[1] * (images.ndim - 2))
        logits = np.concatenate([images[..., :1] + ramp, images[..., :1] ** 2], axis=-1)
        return [logits, 0 * logits] if self.listed else logits


def by_brute_force(network, image, patch, starts):
    """The docstring's formula, pixel by pixel."""
    total = np.zeros((*image.shape[:-1], 2))
    weight = np.zeros((*image.shape[:-1], 1))
    for corner in itertools.product(*starts):
        place = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        probabilities = softmax(network.predict_on_batch(image[place][None])[0], axis=-1)
        for offset in np.ndindex(*patch):
            centred = [(o - (p - 1) / 2) / (p / 8) for o, p in zip(offset, patch, strict=True)]
            g = np.exp(-0.5 * np.sum(np.square(centred)))
            pixel = tuple(c + o for c, o in zip(corner, offset, strict=True))
            total[pixel] += g * probabilities[offset]
            weight[pixel] += g
    return total / weight


def test_windows_are_blended_by_the_formula():
    image = image_of(11, 8, 1)
    got = predict_probabilities(Recorder(), image, patch=(6, 4), overlap=0.5, batch_size=3)
    starts = [(0, 2, 5), (0, 2, 4)]  # steps of at most 3 and 2; 2.5 rounds to even
    np.testing.assert_allclose(
        got, by_brute_force(Recorder(), image, (6, 4), starts), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(13, 7, 2), (3, 20, 2), (1, 1, 2), (5, 9, 11, 1)])
def test_a_pointwise_network_does_not_see_the_windows(shape):
    rank = len(shape) - 1
    image = keras.Input((*[None] * rank, shape[-1]))
    network = keras.Model(image, keras.layers.Dense(3)(image))
    picture = image_of(*shape)
    whole = predict_probabilities(network, picture)
    patched = predict_probabilities(network, picture, patch=(5, 6, 4)[:rank], overlap=0.3)
    assert whole.shape == (*shape[:-1], 3)
    assert whole.dtype == patched.dtype == np.float32
    np.testing.assert_allclose(patched, whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-6)


def test_every_call_has_one_shape_and_one_window_is_enough_for_one_patch():
    network = Recorder()
    predict_probabilities(network, image_of(30, 17, 1), patch=(8, 8), batch_size=4)
    assert set(network.shapes) == {(4, 8, 8, 1)}
    single = Recorder()
    predict_probabilities(single, image_of(8, 5, 1), patch=(8, 8), batch_size=1)
    assert single.shapes == [(1, 8, 8, 1)]


def test_windows_do_not_overlap_when_not_asked_to():
    network = Recorder()
    predict_probabilities(network, image_of(16, 24, 1), patch=(8, 8), overlap=0.0, batch_size=1)
    assert len(network.shapes) == 6


def test_the_first_of_several_outputs_counts():
    image = image_of(4, 4, 1)
    listed = predict_probabilities(Recorder(listed=True), image)
    np.testing.assert_array_equal(listed, predict_probabilities(Recorder(), image))


def test_a_binary_logit_becomes_two_classes():
    image = image_of(4, 5, 1)
    network = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Dense(1)])
    got = predict_probabilities(network, 5 * image)
    logits = keras.ops.convert_to_numpy(network(5 * image[None]))[0]
    expected = softmax(np.concatenate([0 * logits, logits], axis=-1), axis=-1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_images_of_many_sizes_are_traced_a_few_times_only():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(tuple(x.shape))
            return x

    image = keras.Input((None, None, 1))
    network = keras.Model(image, keras.layers.Dense(2)(Counting()(image)))
    traces.clear()
    for size in range(5, 15):
        predict_probabilities(network, image_of(size, 20 - size, 1))
    assert len(traces) <= 4


def test_a_network_sees_a_whole_image_as_in_its_own_call():
    network = unet((None, None, 1), 3, width=4, depth=3)
    image = image_of(13, 10, 1)
    expected = softmax(keras.ops.convert_to_numpy(network(image[None]))[0], axis=-1)
    np.testing.assert_allclose(predict_probabilities(network, image), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"patch": (4,)}, "patch"),
        ({"patch": (4, 0)}, "patch"),
        ({"patch": (4, 4), "overlap": 1.0}, "overlap"),
        ({"patch": (4, 4), "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        predict_probabilities(Recorder(), image_of(8, 8, 1), **arguments)
