"""Answers of solvers inside a layer: `fit`, SavedModel, XLA; what backward keeps in memory."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.layers import TVSegmentation


@keras.saving.register_keras_serializable("test_optimize_in_networks")
class Settled(keras.layers.Layer):
    """z = tanh(z W' + x), whose W starts with a norm below 1/2."""

    def build(self, input_shape):
        orthogonal = keras.initializers.Orthogonal(gain=0.4, seed=1)
        size = input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(size, size), initializer=orthogonal)

    def call(self, x):
        def settle(z, w, x):
            return tf.tanh(tf.matmul(z, w, transpose_b=True) + x)

        w = keras.ops.convert_to_tensor(self.kernel)
        return optimize.fixed_point(settle, tf.zeros_like(x), (w, x), batch_axes=1)[0]


def settled(x, w):
    z = np.zeros_like(x)
    for _ in range(200):
        z = np.tanh(z @ w.T + x)
    return z


def slope(x, w):
    """Of the sum of z in x: (1 - z^2) (I - W' D)^-1 1."""
    rows = []
    for z in settled(x, w):
        bend = 1.0 - z**2
        rows.append(bend * np.linalg.solve((np.eye(len(z)) - bend[:, None] * w).T, np.ones(len(z))))
    return np.array(rows)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fixed_point_in_fit_and_in_a_saved_model(jit, rng, tmp_path):
    x = rng.normal(size=(8, 4)).astype("float32")
    truth = 0.4 * np.linalg.qr(rng.normal(size=(4, 4)))[0]
    given = keras.Input((4,))
    model = keras.Model(given, Settled(name="settled")(given))
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=jit)
    history = model.fit(x, settled(x, truth), batch_size=8, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.2 * history[0]
    w = np.asarray(model.get_layer("settled").kernel)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), settled(x, w), atol=1e-5)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)], jit_compile=jit)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = again(x)
        return {"value": value, "slope": tape.gradient(value, x)}

    again.both = both
    tf.saved_model.save(again, str(tmp_path / "saved"), signatures=None)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served = loaded.both(tf.constant(x))
    np.testing.assert_allclose(served["value"], settled(x, w), atol=1e-5)
    np.testing.assert_allclose(served["slope"], slope(x, w), atol=1e-4)


def graph_of_gradient(adjoint, iterations):
    """How many nodes the graph of value and gradient has, and how many of them push on a stack."""
    layer = TVSegmentation(adjoint=adjoint, iterations=iterations)
    layer.build((2, 5, 6, 3))

    @tf.function(input_signature=[tf.TensorSpec((2, 5, 6, 3), tf.float32)])
    def slopes(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(tf.square(layer(logits)))
        return tape.gradient(value, logits)

    graph = slopes.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    return len(nodes), sum(node.op == "TensorListPushBack" for node in nodes)


def test_the_implicit_derivative_keeps_nothing_of_the_iterations():
    few, pushed = graph_of_gradient("implicit", 50)
    many, pushed_of_many = graph_of_gradient("implicit", 800)
    assert pushed == pushed_of_many == 0
    assert few == many
    assert graph_of_gradient("unrolled", 50)[1] > 0  # so the stack would be seen


def test_a_second_derivative_of_the_layer_is_refused(rng):
    layer = TVSegmentation(0.2, iterations=20)
    logits = tf.constant(rng.normal(size=(1, 3, 3, 2)), tf.float32)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(logits)
        inner.watch(logits)
        value = tf.reduce_sum(tf.square(layer(logits)))
        first = inner.gradient(value, logits)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        outer.gradient(first, logits)
