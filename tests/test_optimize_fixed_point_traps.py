"""What goes wrong with fixed points: failures that are said, kinks, bad input."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.optimize import Implicit, Neumann, Status, Unrolled


def _quiet():
    return contextlib.nullcontext()


def test_statuses_of_failures() -> None:
    def run(factor, adjoint=None, iterations=20):
        return optimize.fixed_point(
            lambda x, a: factor * x + a,
            tf.zeros(2),
            tf.ones(2),
            solver=optimize.FixedPointIteration(max_iterations=iterations),
            adjoint=adjoint,
        )[1]

    with pytest.warns(RuntimeWarning, match="NOT_CONVERGED"):
        assert run(0.9).status == Status.NOT_CONVERGED
    with pytest.warns(RuntimeWarning, match="DIVERGED"):
        assert run(2.0).status == Status.DIVERGED
    with pytest.raises(optimize.SolverError, match="NOT_CONVERGED"), pytest.warns(RuntimeWarning):
        optimize.require_ok(run(0.9), "the solve")
    optimize.require_ok(run(0.1), "the solve")


def test_probe_sees_singular_adjoints_and_kinks() -> None:
    def identity_on_one(x, a):
        return tf.stack([x[0], 0.5 * x[1] + a])

    with pytest.warns(RuntimeWarning, match="SINGULAR"):
        _, info = optimize.fixed_point(
            identity_on_one, np.zeros(2), np.float64(1.0), adjoint=Implicit(probe=True)
        )
    assert info.status == Status.SINGULAR

    def half_relu(x, a):
        return 0.5 * tf.nn.relu(x) + a

    for shift, expected in ((np.zeros(2), Status.NEAR_KINK), (np.ones(2), Status.OK)):
        with pytest.warns(RuntimeWarning) if expected else _quiet():
            _, info = optimize.fixed_point(
                half_relu, np.zeros(2), shift, adjoint=Implicit(probe=True)
            )
        assert info.status == expected
        assert info.adjoint_residual < 1e-10


def test_an_adjoint_that_fails_warns_or_poisons() -> None:
    def slope(adjoint):
        a = tf.constant(1.0, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(a)
            x, _ = optimize.fixed_point(
                lambda x, a: tf.stack([x[0], 0.5 * x[1] + a]), np.zeros(2), a, adjoint=adjoint
            )
            value = tf.reduce_sum(x)
        return tape.gradient(value, a)

    with pytest.warns(RuntimeWarning, match="adjoint system was not solved"):
        assert np.isfinite(slope(Implicit()))
    assert np.isnan(slope(Implicit(on_failure="nan")))


def test_active_set_changes_are_counted() -> None:
    x, info = optimize.fixed_point(
        lambda x, a: tf.nn.relu(0.5 * x - a),
        np.ones(3),
        np.array([0.1, -1.0, 0.2]),
        active_set=lambda x: x == 0,
        solver=optimize.FixedPointIteration(max_iterations=100),
    )
    np.testing.assert_allclose(x, [0.0, 2.0, 0.0], atol=1e-10)
    assert info.active_set_changes == 0
    with pytest.warns(RuntimeWarning):
        _, info = optimize.fixed_point(
            lambda x, a: tf.nn.relu(0.9 * x - a),
            np.ones(3),
            np.array([0.1, -1.0, 0.2]),
            active_set=lambda x: x == 0,
            solver=optimize.FixedPointIteration(max_iterations=7),
        )
    assert info.active_set_changes == 2


@pytest.mark.parametrize(
    ("x0", "params", "options", "message"),
    [
        ([float("nan")], 1.0, {}, "`x0` must be finite"),
        (np.ones(2), np.array([np.inf]), {}, "`params` must be finite"),
        (np.ones(2, int), 1.0, {}, "float32 or float64"),
        (np.ones(2), np.ones(3), {}, None),
        (np.ones(2), 1.0, {"batch_axes": 2}, "`batch_axes`"),
        (np.ones((3, 2)), np.ones((4, 3, 2)), {}, "must return what it is given"),
    ],
)
def test_bad_input(x0, params, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        optimize.fixed_point(
            lambda x, a: 0.1 * x + tf.cast(a, x.dtype), np.asarray(x0), params, **options
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Implicit(solver="lu"),
        lambda: Implicit(tol=-1.0),
        lambda: Implicit(on_failure="ignore"),
        lambda: Neumann(-1),
        lambda: Unrolled(0),
        lambda: Unrolled(3, checkpoint=0),
        lambda: optimize.FixedPointIteration(relaxation=2.0),
        lambda: optimize.FixedPointIteration(momentum=1.0),
        lambda: optimize.FixedPointIteration(momentum="polyak"),
        lambda: optimize.AndersonIteration(memory=0),
        lambda: optimize.Newton(tol=0.0),
    ],
)
def test_bad_options(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_wrong_kinds_of_solver_and_adjoint() -> None:
    with pytest.raises(TypeError, match="`solver` must be"):
        optimize.fixed_point(lambda x: x, np.ones(2), solver="picard")
    with pytest.raises(TypeError, match="`adjoint` must be"):
        optimize.fixed_point(lambda x: x, np.ones(2), adjoint="implicit")


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_kink_at_zero_is_seen_in_the_answer_and_in_a_parameter(kind):
    def status(T, a):
        return optimize.fixed_point(
            T, tf.zeros((2, 3), kind), [tf.constant(a, kind)], adjoint=probing, batch_axes=1
        )[1].status.numpy()

    probing = optimize.Implicit(probe=True)
    in_point = lambda x, a: 0.5 * tf.nn.relu(x + a)  # noqa: E731
    in_parameter = lambda x, a: 0.5 * tf.sin(x) + tf.abs(a)  # noqa: E731
    kink = int(optimize.Status.NEAR_KINK)
    rows = [[0.0, 1.0, 1.0], [1.0, 2.0, 3.0]]
    for T in (in_point, in_parameter):
        np.testing.assert_array_equal(status(T, rows), [kink, 0])
    np.testing.assert_array_equal(status(in_point, [[-1.0, 1.0, 1.0]] * 2), [0, 0])
