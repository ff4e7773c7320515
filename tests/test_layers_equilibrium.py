"""MonotoneEquilibrium: golden values, finite differences, training, saving, export, compiled."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from layer_cases import are_the_same_compiled, is_the_same_saved_and_exported
from resume_child import build

from keras_robustseg import RobustSegmenter
from keras_robustseg.errors import TrainingError
from keras_robustseg.layers import MonotoneEquilibrium
from keras_robustseg.losses import CrossEntropy
from keras_robustseg.optimize import Status
from keras_robustseg.optimize._monotone import _linear, equilibrium_adjoint, norm_bound
from keras_robustseg.training import ExactResume

GOLDEN = Path(__file__).parent / "golden" / "implicit" / "deq.npz"


def golden_layer(golden, kind, solver, adjoint):
    exact = kind == "float64"
    layer = MonotoneEquilibrium(
        12,
        margin=float(golden["m"]),
        solver=solver,
        adjoint=adjoint,
        dtype=kind,
        iterations=12000,
        tolerance=1e-10 if exact else 2e-6,
    )
    layer.build((None, 5))
    values = golden["A"], golden["B"], golden["U"].T, golden["b"]
    for weight, value in zip(layer.trainable_weights, values, strict=True):
        weight.assign(value)
    return layer


@pytest.mark.parametrize(
    ("kind", "solver", "adjoint"),
    [
        ("float64", "peaceman_rachford", "splitting"),
        ("float32", "peaceman_rachford", "splitting"),
        ("float64", "peaceman_rachford", "gmres"),
        pytest.param("float64", "forward_backward", "splitting", marks=pytest.mark.slow),
    ],
)
def test_golden_values(kind, solver, adjoint):
    import tensorflow as tf

    golden, close = np.load(GOLDEN), 1e-6 if kind == "float64" else 1e-4
    layer = golden_layer(golden, kind, solver, adjoint)
    x = tf.constant(golden["x"].astype(kind))

    @tf.function
    def slopes():
        with tf.GradientTape() as tape:
            tape.watch(x)
            z, info = layer.solve(x)
            value = tf.reduce_sum(z * golden["cotangent"].astype(kind))
        watched = [x, *(weight.value for weight in layer.trainable_weights)]
        return z, info, tape.gradient(value, watched)

    z, info, (dx, da, db_skew, du, db) = slopes()
    assert (np.asarray(info.status) == Status.OK).all()
    np.testing.assert_allclose(z, golden["z"], atol=close)
    dw, a = golden["dW"], golden["A"]
    for found, expected in (
        (dx, golden["dx"]),
        (du, golden["dU"].T),
        (db, golden["db"]),
        (da, -a @ (dw + dw.T)),
        (db_skew, dw - dw.T),
    ):
        np.testing.assert_allclose(found, expected, atol=100 * close * np.abs(expected).max())


@pytest.mark.parametrize(
    ("space", "kernel_size", "adjoint"),
    [
        ((), None, "gmres"),
        pytest.param((3,), None, "splitting", marks=pytest.mark.slow),
        ((5, 4), 3, "splitting"),
        pytest.param((1, 6), 3, "gmres", marks=pytest.mark.slow),
    ],
)
def test_derivative_is_that_of_finite_differences(space, kernel_size, adjoint, rng):
    import tensorflow as tf

    layer = MonotoneEquilibrium(
        4, kernel_size, margin=0.6, adjoint=adjoint, tolerance=1e-10, dtype="float64"
    )
    x, v = rng.normal(size=(2, *space, 2)), rng.normal(size=(2, *space, 4))
    layer.build(x.shape)
    value = tf.function(lambda x: tf.reduce_sum(layer(x) * v))

    @tf.function
    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x) * v)
        return tape.gradient(value, [x, *(w.value for w in layer.trainable_weights)])

    found = slopes(tf.constant(x))
    way = 1e-6 * rng.normal(size=x.shape)
    slope = float(value(tf.constant(x + way)) - value(tf.constant(x - way))) / 2
    np.testing.assert_allclose(slope, np.sum(found[0] * way), rtol=1e-4, atol=1e-11)
    for weight, gradient in zip(layer.trainable_weights, found[1:], strict=True):
        point, way = weight.numpy(), 1e-6 * rng.normal(size=weight.shape)
        ends = []
        for sign in (1, -1):
            weight.assign(point + sign * way)
            ends.append(float(value(tf.constant(x))))
        weight.assign(point)
        np.testing.assert_allclose(
            (ends[0] - ends[1]) / 2, np.sum(gradient * way), rtol=1e-4, atol=1e-11
        )


def test_w_is_what_the_formula_says(rng):
    layer = MonotoneEquilibrium(3, kernel_size=3, dtype="float64")
    layer.build((None, 4, 5, 2))
    basis = np.eye(60).reshape(60, 4, 5, 3)
    forward = np.asarray(layer.operator.apply(basis)).reshape(60, 60).T
    backward = np.asarray(layer.operator.transposed(basis)).reshape(60, 60).T
    np.testing.assert_allclose(backward, forward.T, atol=1e-12)
    rest = np.eye(60) - forward
    assert np.linalg.eigvalsh((rest + rest.T) / 2).min() >= 0.5 - 1e-9
    assert np.linalg.norm(rest, 2) <= float(layer.operator.lipschitz())


def test_a_derivative_that_was_not_found_is_nan(rng):
    golden = np.load(GOLDEN)
    layer = golden_layer(golden, "float64", "forward_backward", "splitting")
    few = layer.options._replace(adjoint_iterations=5)
    found, info = equilibrium_adjoint(layer.operator, golden["z"], golden["cotangent"], few)
    assert (np.asarray(info.status) == Status.NOT_CONVERGED).all()
    assert np.isnan(found).all()


@pytest.mark.parametrize("adjoint", ["splitting", "gmres"])
def test_few_iterations_forward_leave_a_derivative_that_is_solved(adjoint, rng):
    """At the state found, whatever it is, h = D (W' h + v): against a dense solve."""
    options = {"iterations": 5, "tolerance": 1e-9, "dtype": "float64", "adjoint": adjoint}
    layer = MonotoneEquilibrium(6, margin=0.1, adjoint_iterations=20000, **options)
    x, v = rng.normal(size=(4, 3)), rng.normal(size=(4, 6))
    layer.build(x.shape)
    layer.skew.assign(rng.normal(size=(6, 6)))
    state, info = layer.solve(x)
    assert (np.asarray(info.status) == Status.NOT_CONVERGED).all()
    found, certificate = equilibrium_adjoint(layer.operator, state, v, layer.options)
    assert (np.asarray(certificate.status) == Status.OK).all()
    w = np.asarray(layer.operator.apply(np.eye(6))).T
    for z, h, cotangent in zip(np.asarray(state), np.asarray(found), v, strict=True):
        active = np.diag((z > 0).astype(float))
        expected = np.linalg.solve(np.eye(6) - active @ w.T, active @ cotangent)
        np.testing.assert_allclose(h, expected, atol=1e-6 * np.abs(expected).max())


def test_a_coarse_tolerance_is_enough_where_it_was_asked_for(rng):
    layer = MonotoneEquilibrium(6, margin=0.3, tolerance=0.2, solver="forward_backward")
    layer.build((None, 3))
    state, v = layer(rng.normal(size=(40, 3))), rng.normal(size=(40, 6)).astype("float32")
    found, info = equilibrium_adjoint(layer.operator, state, v, layer.options)
    assert (np.asarray(info.relative_residual) > 0.01).any()
    assert np.isfinite(found).all()


def test_a_second_derivative_is_refused(rng):
    import tensorflow as tf

    layer = MonotoneEquilibrium(3, margin=0.8)
    layer.build((None, 2))
    weight = layer.symmetric.value
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = tf.reduce_sum(layer(rng.normal(size=(2, 2))))
        first = inner.gradient(value, weight)
    with pytest.raises(NotImplementedError, match="first order only"):
        outer.gradient(first, weight)


@pytest.mark.parametrize(("shape", "side"), [((5, 5), ()), ((3, 3, 4, 4), (6, 5))])
def test_the_bound_of_the_norm_is_one_and_near(shape, side, rng):
    for kernel in (rng.normal(size=shape), np.zeros(shape), 1e-12 * rng.normal(size=shape)):
        size = int(np.prod(side, dtype=int)) * shape[-1]
        basis = np.eye(size).reshape(size, *side, shape[-1])
        norm = np.linalg.norm(np.asarray(_linear(kernel, basis)).reshape(size, size), 2)
        bound = float(norm_bound(kernel))
        assert norm * (1 - 1e-9) <= bound <= (2.5 if side else 1.03) * norm + 1e-15


@pytest.mark.parametrize("adjoint_iterations", [1, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_trainer_names_a_layer_whose_derivative_was_not_found(adjoint_iterations, tmp_path):
    _, pipeline, _ = build("CE")
    image = keras.Input((*pipeline.shapes[0], 1))
    options = {"iterations": 5, "tolerance": 1e-4, "adjoint_iterations": adjoint_iterations}
    state = MonotoneEquilibrium(4, 3, margin=0.1, name="deq", **options)(image)
    model = RobustSegmenter(keras.Model(image, keras.layers.Conv2D(2, 1)(state)))
    deq = model.network.get_layer("deq")
    deq.skew.assign(10.0 * np.asarray(deq.skew))
    model.compile(keras.optimizers.Adam(1e-3), CrossEntropy(), jit_compile=False)
    saver = ExactResume(tmp_path, pipeline, max_skipped_steps=2)
    train = {"epochs": 1, "verbose": 0, "shuffle": False, "callbacks": [saver]}
    if adjoint_iterations == 1:
        with pytest.raises(TrainingError, match=r"deq: .*NOT_CONVERGED"):
            model.fit(pipeline.dataset(), **train)
    else:
        model.fit(pipeline.dataset(), **train)
        assert int(model.skipped_steps) == 0
    # What the solver said is kept, also of steps that were skipped.
    assert deq.solve_record.summary()["counts"]["NOT_CONVERGED"] > 0


def network():
    image = keras.Input((8, 7, 1))
    state = MonotoneEquilibrium(4, kernel_size=3, margin=0.8, tolerance=1e-4, name="deq")(image)
    return keras.Model(image, keras.layers.Conv2D(2, 1)(state))


def test_fit_save_and_export(rng, tmp_path):
    image = rng.normal(size=(6, 8, 7, 1)).astype("float32")
    mask = (image[..., 0] > 0).astype("int32")
    model = network()
    model.compile(keras.optimizers.Adam(0.03), CrossEntropy(), jit_compile=False)
    history = model.fit(image, mask, batch_size=3, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    assert set(model.get_layer("deq").solve_record.summary()["counts"]) == {"OK"}
    is_the_same_saved_and_exported(model, image, "deq", tmp_path, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [None, 3])
def test_compiled_is_the_same(kernel_size, rng):
    import tensorflow as tf

    layer = MonotoneEquilibrium(3, kernel_size, margin=0.8)
    x = tf.constant(rng.normal(size=(2, 4, 5, 2)).astype("float32"))
    layer.build(x.shape)

    def slopes():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(value, [weight.value for weight in layer.trainable_weights])

    are_the_same_compiled(slopes, 1e-3)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"units": 0}, "units"),
        ({"kernel_size": 2}, "kernel_size"),
        ({"margin": 0.0}, "margin"),
        ({"solver": "picard"}, "solver"),
        ({"kernel_size": 3, "solver": "peaceman_rachford"}, "solver"),
        ({"adjoint": "neumann"}, "adjoint"),
        ({"iterations": 0}, "iterations"),
        ({"adjoint_iterations": 0}, "adjoint_iterations"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_arguments_are_refused(options, name):
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        MonotoneEquilibrium(**{"units": 3, **options})
