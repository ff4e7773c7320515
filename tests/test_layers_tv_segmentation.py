"""TVSegmentation in networks: shapes, training, saving, export, compiled, mixed precision."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from layer_cases import are_the_same_compiled, is_the_same_saved_and_exported

from keras_robustseg import RobustSegmenter, optimize
from keras_robustseg.layers import TVSegmentation
from keras_robustseg.losses import CrossEntropy
from keras_robustseg.optimize import PottsOptions, SolveMonitor, Status, relaxed_potts


def noisy_squares(rng, count=8, side=12):
    """Images of a square under noise, and the square."""
    mask = np.zeros((count, side, side), "int32")
    for image in mask:
        top, left = rng.integers(1, side // 2, 2)
        image[top : top + 5, left : left + 5] = 1
    image = mask[..., None] + rng.normal(0, 0.7, (*mask.shape, 1))
    return image.astype("float32"), mask


def network(side=None, **options):
    image = keras.Input((side, side, 1))
    logits = keras.layers.Conv2D(2, 1)(image)
    return keras.Model(image, TVSegmentation(output="logits", name="tv", **options)(logits))


@pytest.mark.parametrize(
    "shape",
    [(2, 7, 5, 2), (1, 1, 9, 3), (1, 6, 1, 3), (1, 1, 1, 2), (1, 4, 3, 20), (2, 3, 4, 2, 3)],
)
@pytest.mark.parametrize("isotropic", [False, True])
def test_every_shape_lands_on_the_simplex(shape, isotropic, rng):
    logits = rng.normal(size=shape).astype("float32")
    layer = TVSegmentation(0.2, isotropic=isotropic)
    u, expected = (
        layer(logits),
        relaxed_potts(
            -logits.astype("float64"),
            0.2,
            options=PottsOptions(isotropic=isotropic, tolerance=1e-9),
        )[0],
    )
    assert u.shape == shape
    np.testing.assert_allclose(np.sum(u, -1), 1.0, atol=1e-6)
    np.testing.assert_allclose(u, expected, atol=1e-4)


def test_weights_of_edges_are_a_second_input(rng):
    logits, edges = rng.normal(size=(2, 5, 6, 3)), rng.uniform(size=(2, 5, 6, 2))
    layer = TVSegmentation([0.2, 0.3, 0.4], "input", dtype="float64", tolerance=1e-9)
    exact = PottsOptions(iterations=500, tolerance=1e-9)
    expected = relaxed_potts(-logits, [0.2, 0.3, 0.4], edges, options=exact)[0]
    np.testing.assert_allclose(layer(logits, edges), expected, atol=1e-6)
    np.testing.assert_allclose(layer([logits, edges]), expected, atol=1e-6)
    inputs = keras.Input((5, 6, 3)), keras.Input((5, 6, 2))
    model = keras.Model(inputs, TVSegmentation(0.3, "input")(list(inputs)))
    assert model([logits, edges]).shape == (2, 5, 6, 3)
    assert np.isnan(model([logits[:1], -edges[:1]])).any()
    with pytest.raises(ValueError, match="edge_weights"):
        layer(logits)


def test_fit_learns_the_weights_and_shows_the_certificates(rng, capsys):
    keras.utils.set_random_seed(0)
    image, mask = noisy_squares(rng)
    # A small epsilon lets the answer reach corners of the simplex, where no gradient is left.
    model = network(12, epsilon=2.0)
    before = np.asarray(model.get_layer("tv").class_weights)
    np.testing.assert_allclose(before, 0.3, rtol=1e-6)
    model.compile(keras.optimizers.Adam(0.05), CrossEntropy(), jit_compile=False)
    logs = model.fit(image, mask, epochs=24, batch_size=8, verbose=0, callbacks=[SolveMonitor()])
    assert logs.history["loss"][-1] < 0.8 * logs.history["loss"][0]
    after = np.asarray(model.get_layer("tv").class_weights)
    assert np.abs(after - before).max() > 0.02
    assert "tv" in capsys.readouterr().out


def test_a_derivative_of_which_only_rounding_is_left_is_finite():
    """Seen in training: the adjoint's right-hand side was 1e-20, and its square 0."""
    import tensorflow as tf

    image, mask = noisy_squares(np.random.default_rng(0))
    model = network(12)
    kernel, bias = [[[[-2.2920089, 2.6358218]]]], [-0.254574, 0.2548624]
    rest = model.get_weights()[3:]
    raw = np.float32([-1.1859058, -1.1858879])
    model.set_weights([np.float32(kernel), np.float32(bias), raw, *rest])
    for one, truth in zip(image, mask, strict=True):
        with tf.GradientTape() as tape:
            loss = CrossEntropy()(truth[None], model(one[None], training=True))
        found = tape.gradient(loss, model.trainable_weights)
        assert all(np.isfinite(value).all() for value in found)


def test_it_works_inside_the_segmenter(rng):
    image, mask = noisy_squares(rng, 4)
    model = RobustSegmenter(network(12))
    model.compile(keras.optimizers.Adam(0.1), CrossEntropy(), jit_compile=False)
    history = model.fit(image, mask, epochs=3, batch_size=4, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_saving_and_export(rng, tmp_path):
    image, _ = noisy_squares(rng, 3, 9)
    model = network(smoothing=0.1, isotropic=True, adjoint="unrolled", iterations=60)
    is_the_same_saved_and_exported(model, image, "tv", tmp_path, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["implicit", "unrolled"])
def test_compiled_is_the_same(adjoint, rng):
    import tensorflow as tf

    layer = TVSegmentation(adjoint=adjoint, iterations=200, tolerance=1e-7)
    logits = tf.constant(rng.normal(size=(2, 6, 5, 3)).astype("float32"))
    v = rng.normal(size=logits.shape).astype("float32")
    layer.build(logits.shape)

    def slopes():
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(layer(logits) * v)
        return tape.gradient(value, [logits, layer.raw_weight.value])

    are_the_same_compiled(slopes, 1e-4)


def test_float32_inside_mixed_precision(rng):
    logits = ops.cast(rng.normal(size=(1, 5, 4, 2)), "float16")
    layer = TVSegmentation()
    u, info = layer.solve(logits)
    assert layer.compute_dtype == "float32"
    assert int(info.status[0]) in (Status.OK, Status.NEAR_KINK)
    np.testing.assert_array_equal(layer(logits), u)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"weight": "given"}, "weight"),
        ({"weight": [0.1, -0.1]}, "weight"),
        ({"edge_weights": "output"}, "edge_weights"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"smoothing": -1.0}, "smoothing"),
        ({"adjoint": "none"}, "adjoint"),
        ({"iterations": 0}, "iterations"),
        ({"output": "labels"}, "output"),
    ],
)
def test_bad_arguments_are_refused(options, name):
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        TVSegmentation(**options)
    with pytest.raises(ValueError, match="argument `weight`"):
        TVSegmentation([0.1, 0.2])(np.zeros((1, 3, 3, 3), "float32"))


@pytest.mark.parametrize(
    "adjoint",
    [
        optimize.Unrolled(10, checkpoint=5),
        optimize.Implicit(solver="bicgstab"),
        optimize.Implicit(on_failure="nan"),
        3,
    ],
)
def test_what_an_adjoint_cannot_keep_here_is_refused(adjoint):
    with pytest.raises(ValueError, match="`adjoint`"):
        TVSegmentation(adjoint=adjoint)


def test_adjoints_as_objects():
    class Mine(optimize.Unrolled):
        pass

    assert TVSegmentation(adjoint=Mine(7)).options[2:5:2] == (7, "unrolled")
    options = TVSegmentation(adjoint=optimize.Implicit(tol=1e-4, max_iterations=9)).options
    assert options.adjoint == "implicit"
    assert (options.adjoint_tolerance, options.adjoint_iterations) == (1e-4, 9)
