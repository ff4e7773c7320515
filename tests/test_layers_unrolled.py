"""UnrolledProximalNetwork: its problem, outside values, derivatives, training, saving, compiled."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from layer_cases import are_the_same_compiled, is_the_same_saved_and_exported

from keras_robustseg.layers import UnrolledProximalNetwork
from keras_robustseg.losses import CrossEntropy


def dense_operator(layer, space, channels, inputs):
    """A as a matrix, from the images of a basis."""
    count = int(np.prod(space)) * channels
    basis = np.eye(count).reshape(count, *space, channels)
    return np.asarray(layer.synthesis(basis)).reshape(count, -1).T


@pytest.mark.parametrize("space", [(5, 4), (1, 6), (3, 2, 2)])
def test_operators_are_adjoint_and_steps_below_the_bound(space, rng):
    layer = UnrolledProximalNetwork(3, 3, dtype="float64")
    layer.build((None, *space, 2))
    x, y = rng.normal(size=(2, *space, 3)), rng.normal(size=(2, *space, 2))
    there = np.sum(layer.synthesis(x) * y)
    np.testing.assert_allclose(there, np.sum(x * np.asarray(layer.analysis(y))), rtol=1e-10)
    largest = np.linalg.norm(dense_operator(layer, space, 3, 2), 2) ** 2
    assert (np.asarray(layer.step_sizes) > 0).all()
    assert (np.asarray(layer.step_sizes) < 2 / largest).all()


def test_many_steps_solve_the_lasso(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    layer = UnrolledProximalNetwork(1, 3, 500, "l1", initial_penalty=0.2, dtype="float64")
    layer.build((None, 5, 4, 2))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    layer.raw_steps.assign(np.full(layer.steps, 4.0))
    y = rng.normal(size=(1, 5, 4, 2))
    matrix = dense_operator(layer, (5, 4), 1, 2)
    lasso = linear_model.Lasso(0.2 / 40, fit_intercept=False, tol=1e-12, max_iter=100_000)
    x = lasso.fit(matrix, y.ravel()).coef_.reshape(1, 5, 4, 1)
    best, found = float(layer.objective(x, y)[0]), float(layer.objective(layer(y), y)[0])
    assert best <= found < best * 1.001


@pytest.mark.parametrize("penalty", ["l1", "nonnegative_l1", "simplex"])
def test_steps_go_down_and_keep_the_constraint(penalty, rng):
    y, values = rng.normal(size=(2, 6, 5, 2)), []
    for steps in (1, 3, 9, 30):
        keras.utils.set_random_seed(3)
        layer = UnrolledProximalNetwork(4, 3, steps, penalty, dtype="float64")
        x = np.asarray(layer(y))
        values.append(np.asarray(layer.objective(x, y)))
    assert (np.diff(values, axis=0) <= 1e-12).all()
    if penalty != "l1":
        assert (x >= 0).all()
    if penalty == "simplex":
        np.testing.assert_allclose(x.sum(-1), 1.0)


@pytest.mark.parametrize("penalty", ["l1", "nonnegative_l1", "simplex"])
def test_derivatives_are_those_of_finite_differences(penalty, rng):
    import tensorflow as tf

    layer = UnrolledProximalNetwork(3, 3, 4, penalty, dtype="float64")
    y, v = rng.normal(size=(1, 4, 5, 2)), rng.normal(size=(1, 4, 5, 3))
    layer.build(y.shape)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(y) * v)
    gradients = tape.gradient(value, [weight.value for weight in layer.trainable_weights])
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        point, way = weight.numpy(), 1e-6 * rng.normal(size=weight.shape)
        ends = []
        for sign in (1, -1):
            weight.assign(point + sign * way)
            ends.append(np.sum(layer(y) * v))
        weight.assign(point)
        np.testing.assert_allclose((ends[0] - ends[1]) / 2, np.sum(gradient * way), rtol=1e-4)


def test_fit_save_and_export(rng, tmp_path):
    image = keras.Input((None, None, 1))
    codes = UnrolledProximalNetwork(6, 3, 4, name="codes")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(codes))
    model.compile(keras.optimizers.Adam(0.03), CrossEntropy(), jit_compile=False)
    x = rng.normal(size=(6, 7, 9, 1)).astype("float32")
    mask = (x[..., 0] > 0.3).astype("int32")
    history = model.fit(x, mask, batch_size=3, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    is_the_same_saved_and_exported(model, x, "codes", tmp_path, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["l1", "simplex"])
def test_compiled_is_the_same(penalty, rng):
    import tensorflow as tf

    layer = UnrolledProximalNetwork(3, 3, 5, penalty)
    y = tf.constant(rng.normal(size=(2, 4, 5, 2)).astype("float32"))
    layer.build(y.shape)

    def slopes():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(layer(y)))
        return tape.gradient(value, [weight.value for weight in layer.trainable_weights])

    are_the_same_compiled(slopes, 1e-4)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 1, "penalty": "simplex"}, "channels"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"steps": 0}, "steps"),
        ({"penalty": "l2"}, "penalty"),
        ({"initial_penalty": 0.0}, "initial_penalty"),
    ],
)
def test_bad_arguments_are_refused(options, name):
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        UnrolledProximalNetwork(**{"channels": 3, **options})
