"""The U-Net: sizes, parameters in closed form, precision, reproducibility, serialisation."""

import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_robustseg.models import unet

SHAPES = {"2d": (13, 6, 2), "3d": (5, 9, 6, 1)}


def image_batch(shape, seed=0, batch=2):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype("float32")


def logits_of(network, images):
    return keras.ops.convert_to_numpy(network(images, training=False))


def expected_parameters(rank, channels, classes, width, depth):
    """Convolutions without bias, 2^rank up too; four numbers a channel in batch norm; 1x1 head."""

    def blocks(inputs, outputs):
        return 3**rank * (inputs + outputs) * outputs + 2 * 4 * outputs

    widths = [width * 2**level for level in range(depth)]
    total = sum(blocks(a, b) for a, b in zip([channels, *widths], widths, strict=False))
    for fine, coarse in itertools.pairwise(widths):
        total += 2**rank * coarse * fine + blocks(2 * fine, fine)
    return total + width * classes + classes


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("depth", [1, 3])
def test_parameter_count_in_closed_form(name, depth):
    shape = SHAPES[name]
    network = unet(shape, 3, width=4, depth=depth)
    assert network.count_params() == expected_parameters(len(shape) - 1, shape[-1], 3, 4, depth)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", SHAPES)
def test_any_size_gives_logits_of_that_size(name, norm):
    *_, channels = SHAPES[name]
    rank = len(SHAPES[name]) - 1
    network = unet((None,) * rank + (channels,), 3, width=4, depth=3, norm=norm)
    for size in ((1, 2, 3), (8, 4, 8), (7, 11, 5)):
        logits = logits_of(network, image_batch((*size[:rank], channels)))
        assert logits.shape == (2, *size[:rank], 3)
        assert np.isfinite(logits).all()


def test_padding_inside_equals_mirroring_outside():
    network = unet((None, None, 2), 2, width=4, depth=3)
    images = image_batch((13, 6, 2))
    mirrored = np.pad(images, [(0, 0), (0, 3), (0, 2), (0, 0)], mode="reflect")
    np.testing.assert_allclose(
        logits_of(network, images), logits_of(network, mirrored)[:, :13, :6], atol=1e-5
    )


def test_normalization_equals_normalized_images():
    mean, variance = np.array([-300.0, 40.0]), np.array([2.5e5, 9.0])
    with_constants = unet((8, 8, 2), 2, width=4, depth=2, normalization=(mean, variance))
    plain = unet((8, 8, 2), 2, width=4, depth=2)
    plain.set_weights(with_constants.get_weights())
    z = image_batch((8, 8, 2))
    images = (z * np.sqrt(variance) + mean).astype("float32")
    np.testing.assert_allclose(logits_of(with_constants, images), logits_of(plain, z), atol=1e-4)


def test_deep_supervision_puts_the_main_output_first():
    network = unet((None, None, 1), 2, width=4, depth=4, deep_supervision=True)
    images = image_batch((11, 9, 1))
    outputs = network(images)
    assert [tuple(output.shape) for output in outputs] == [(2, 11, 9, 2)] * 3
    main = keras.Model(network.input, network.get_layer("logits").output)
    np.testing.assert_array_equal(outputs[0], main(images))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_under_mixed_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        network = unet((8, 8, 1), 2, width=4, depth=2, normalization=([1000.0], [4.0]))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert network.get_layer("encoder0_conv1").compute_dtype == policy.removeprefix("mixed_")
    logits = network(1000 + image_batch((8, 8, 1)))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_the_seed_decides_the_weights():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return unet((8, 8, 1), 2, width=4, depth=2).get_weights()

    first, again, other = weights(7), weights(7), weights(8)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_convolutions_start_with_the_variance_of_he():
    keras.utils.set_random_seed(1)
    kernel = unet((8, 8, 1), 2, width=32, depth=2).get_layer("encoder1_conv2").kernel
    assert np.var(kernel) == pytest.approx(2 / (9 * 64), rel=0.05)


def test_dropout_acts_on_the_two_coarsest_resolutions_in_training_only():
    network = unet((16, 16, 1), 2, width=4, depth=4, dropout=0.5)
    names = {layer.name for layer in network.layers if isinstance(layer, keras.layers.Dropout)}
    assert names == {"dropout2", "dropout3"}
    images = image_batch((16, 16, 1))
    assert np.array_equal(network(images), network(images))
    assert not np.array_equal(network(images, training=True), network(images, training=True))


@pytest.mark.parametrize("name", SHAPES)
def test_saved_file_gives_the_same_logits(name, tmp_path):
    shape = SHAPES[name]
    network = unet(shape, 3, width=4, depth=3, normalization=([1.0] * shape[-1], [2.0] * shape[-1]))
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    images = image_batch(shape)
    np.testing.assert_array_equal(logits_of(again, images), logits_of(network, images))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_shape": (8, 8)}, "input_shape"),
        ({"input_shape": (8, 8, None)}, "input_shape"),
        ({"input_shape": (0, 8, 1)}, "input_shape"),
        ({"num_classes": 0}, "num_classes"),
        ({"width": 2.5}, "width"),
        ({"depth": True}, "depth"),
        ({"norm": "layer"}, "norm"),
        ({"dropout": 1.0}, "dropout"),
        ({"deep_supervision": True, "depth": 2}, "deep_supervision"),
        ({"normalization": ([0.0, 0.0], [1.0, 1.0])}, "normalization"),
        ({"normalization": ([0.0], [0.0])}, "normalization"),
    ],
)
def test_bad_arguments_are_named(change, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        unet(**{"input_shape": (8, 8, 1), "num_classes": 2, **change})


def test_a_single_map_can_be_learnt():
    keras.utils.set_random_seed(2)
    network = unet((None, None, 1), 2, width=4, depth=2)
    network.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    images = image_batch((15, 9, 1), batch=8)
    masks = (images[..., 0] > 0).astype("int32")
    before = network.evaluate(images, masks, verbose=0)
    network.fit(images, masks, epochs=30, verbose=0)
    assert network.evaluate(images, masks, verbose=0) < 0.2 * before


@pytest.mark.slow
def test_xla_gives_the_same_logits():
    network = unet((None, None, 1), 2, width=2, depth=2)
    images = image_batch((7, 5, 1))
    plain = network.predict_on_batch(images)
    network.compile(jit_compile=True)
    np.testing.assert_allclose(network.predict_on_batch(images), plain, atol=1e-5)


@pytest.mark.slow
def test_the_jax_backend_gives_the_same_logits(tmp_path):
    network = unet((None, None, 2), 3, width=4, depth=3, norm="group")
    network.save(tmp_path / "network.keras")
    images = image_batch((13, 6, 2))
    np.save(tmp_path / "images.npy", images)
    code = (
        "import keras, numpy as np\n"
        "import keras_robustseg.models\n"
        "network = keras.models.load_model('network.keras')\n"
        "np.save('logits.npy', network.predict_on_batch(np.load('images.npy')))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), logits_of(network, images), atol=1e-5
    )
