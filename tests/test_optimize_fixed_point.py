"""Derivatives of fixed points: golden values, differences, orders, traps, compiled or not."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.optimize import Implicit, Neumann, OneStep, Status, Unrolled

GOLDEN = Path(__file__).parent / "golden" / "implicit"
EXACT = {
    "implicit": Implicit(),
    "bicgstab": Implicit(solver="bicgstab"),
    "normal_cg": Implicit(solver="normal_cg"),
    "unrolled": Unrolled(120),
    "checkpointed": Unrolled(123, checkpoint=10),
}


def tanh_map(z, w, b):
    return tf.tanh(tf.matmul(z, w, transpose_b=True) + b)


def contraction(rng: np.random.Generator, n: int = 6, factor: float = 0.7) -> np.ndarray:
    w = rng.normal(size=(n, n))
    return factor * w / np.linalg.norm(w, 2)


def gradients(adjoint, w, b, v, batch_axes=1, dtype="float64"):
    w, b, v = (tf.cast(a, dtype) for a in (w, b, v))
    with tf.GradientTape() as tape:
        tape.watch([w, b])
        z, info = optimize.fixed_point(
            tanh_map, tf.zeros_like(v), (w, b), adjoint=adjoint, batch_axes=batch_axes
        )
        value = tf.reduce_sum(z * v)
    return tape.gradient(value, [w, b]), z, info


def closed_form(w, b, v):
    """Gradient by dense linear algebra at a point found by NumPy."""
    z = np.zeros_like(v)
    for _ in range(400):
        z = np.tanh(z @ w.T + b)
    dw, db = np.zeros_like(w), np.zeros_like(b)
    for row, cotangent in zip(z, v, strict=True):
        slope = 1 - row**2
        u = slope * np.linalg.solve((np.eye(len(b)) - slope[:, None] * w).T, cotangent)
        dw, db = dw + np.outer(u, row), db + u
    return z, dw, db


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-8), ("float32", 1e-3)])
@pytest.mark.parametrize("name", EXACT)
def test_exact_derivatives(rng, name: str, dtype: str, rtol: float) -> None:
    w, b, v = contraction(rng), rng.normal(size=6), rng.normal(size=(3, 6))
    z, dw, db = closed_form(w, b, v)
    (got_w, got_b), got_z, info = gradients(EXACT[name], w, b, v, dtype=dtype)
    np.testing.assert_allclose(got_z, z, atol=rtol)
    np.testing.assert_allclose(got_w, dw, atol=rtol * np.abs(dw).max())
    np.testing.assert_allclose(got_b, db, atol=rtol * np.abs(db).max())
    assert info.status.numpy().tolist() == [Status.OK] * 3
    assert info.contraction.shape == (3,)


def test_golden_contraction_and_its_neumann_series() -> None:
    golden = np.load(GOLDEN / "dev_deq.npz")
    w, x, u = golden["tanh_W"], golden["x"], golden["U"]
    inputs = 0.3 * x @ u.T + golden["b"]
    v = golden["cotangent"]

    def run(adjoint):
        shift = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(shift)
            z, info = optimize.fixed_point(
                tanh_map, np.zeros_like(v), (w, shift), adjoint=adjoint, batch_axes=1
            )
        return z, tf.reduce_sum(tape.gradient(z, shift, v), axis=0), info

    z, db, _ = run(Implicit())
    np.testing.assert_allclose(z, golden["tanh_z"], atol=1e-10)
    np.testing.assert_allclose(db, golden["tanh_db"], rtol=1e-8, atol=1e-10)
    missing = []
    for terms in (0, 1, 5, 29):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            _, db, info = run(OneStep() if terms == 0 else Neumann(terms))
        np.testing.assert_allclose(db, golden["tanh_db_neumann"][terms], rtol=1e-8, atol=1e-10)
        missing.append(np.max(info.adjoint_residual))
    assert np.all(np.diff(missing) < 0)


def test_golden_monotone_equilibrium_whose_picard_diverges() -> None:
    """Forward-backward splitting forward, GMRES backward: the blind Neumann series explodes."""
    golden = np.load(GOLDEN / "dev_deq.npz")
    w, u, b, x = (tf.constant(golden[name]) for name in ("W", "U", "b", "x"))
    step = float(golden["m"]) / float(golden["spectral_norm_W"] + 1) ** 2

    def splitting(z, w, u, b, x):
        image = tf.matmul(z, w, transpose_b=True) + tf.matmul(x, u, transpose_b=True) + b
        return tf.nn.relu(z - step * (z - image))

    rule = optimize.FixedPointIteration(max_iterations=5000)
    with tf.GradientTape() as tape:
        tape.watch([w, u, b, x])
        z, info = optimize.fixed_point(
            splitting, tf.zeros((4, 12), tf.float64), (w, u, b, x), solver=rule, batch_axes=1
        )
    assert set(info.status.numpy()) == {Status.OK}
    np.testing.assert_allclose(z, golden["z"], atol=1e-9)
    found = tape.gradient(z, [w, u, b, x], golden["cotangent"])
    for name, value in zip(("dW", "dU", "db", "dx"), found, strict=True):
        np.testing.assert_allclose(value, golden[name], rtol=1e-7, atol=1e-8)

    def picard(z, w, x):
        image = tf.matmul(z, w, transpose_b=True) + tf.matmul(x, u.numpy(), transpose_b=True)
        return tf.nn.relu(image + b.numpy())

    with pytest.warns(RuntimeWarning, match="DIVERGED"):
        optimize.fixed_point(picard, golden["z"], (w, x), adjoint=Neumann(100), batch_axes=1)


@pytest.mark.slow
def test_second_order_matches_finite_differences(rng) -> None:
    w, b, v = contraction(rng, 4), rng.normal(size=4), rng.normal(size=(2, 4))

    def gradient(b):
        with tf.GradientTape() as tape:
            tape.watch(b)
            z, _ = optimize.fixed_point(tanh_map, np.zeros((2, 4)), (w, b), batch_axes=1)
            value = tf.reduce_sum(v * z**2)
        return tape.gradient(value, b)

    b = tf.constant(b)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(b)
        first = gradient(b)
    hessian = tape.jacobian(first, b, experimental_use_pfor=False)
    step = 1e-5
    numeric = [(gradient(b + step * e) - gradient(b - step * e)) / (2 * step) for e in np.eye(4)]
    np.testing.assert_allclose(hessian, np.array(numeric), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_second_order_compiled() -> None:
    """x = sqrt(a), as the root of x^2 = a and as Heron's fixed point: all derivatives are known."""

    @tf.function
    def derivatives(a):
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(a)
                x, _ = optimize.root(lambda x, a: x * x - a, tf.ones_like(a), a)
                y, _ = optimize.fixed_point(
                    lambda y, a: 0.5 * y + 0.25 * (y + a / y), tf.ones_like(a), a
                )
                total = x + y
            first = inner.gradient(total, a)
        return x, y, first, outer.gradient(first, a)

    a = np.array([4.0, 9.0])
    x, y, first, second = derivatives(tf.constant(a))
    np.testing.assert_allclose(x, [2.0, 3.0], rtol=1e-10)
    np.testing.assert_allclose(y, [2.0, 3.0], rtol=1e-10)
    np.testing.assert_allclose(first, a**-0.5, rtol=1e-8)
    np.testing.assert_allclose(second, -0.5 * a**-1.5, rtol=1e-8)


@pytest.mark.parametrize("adjoint", [OneStep(), Neumann(30)])
def test_approximate_adjoints_refuse_a_second_order(adjoint) -> None:
    a = tf.constant([1.0])
    with tf.GradientTape() as outer:
        outer.watch(a)
        with tf.GradientTape() as inner:
            inner.watch(a)
            x, _ = optimize.fixed_point(
                lambda x, a: 0.05 * tf.sin(x) + a * a, a, a, adjoint=adjoint
            )
        first = inner.gradient(x, a)
    with pytest.raises(ValueError, match="no second derivative"):
        outer.gradient(first, a)


@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled(3), OneStep()])
def test_closures_are_refused(adjoint) -> None:
    small, large = tf.constant(0.5), tf.ones(300)
    variable, weight = tf.Variable(0.5), keras.Variable(0.5)
    for hidden in (small, variable, weight):
        with pytest.raises(ValueError, match="not among its arguments"):
            optimize.fixed_point(lambda x: hidden * x, tf.ones(2), adjoint=adjoint)  # noqa: B023
    with pytest.raises(ValueError, match="Pass it through `params`"):
        optimize.fixed_point(lambda x: 0.1 * x + large, tf.ones(300), adjoint=adjoint)

    @tf.function
    def compiled(a):
        return optimize.fixed_point(lambda x: 0.5 * x + a, tf.ones(2), adjoint=adjoint)

    with pytest.raises(ValueError, match="not among its arguments"):
        compiled(tf.ones(2))
    with pytest.raises(ValueError, match="not among its arguments"):
        optimize.root(lambda x: x - small, tf.ones(2))


@pytest.mark.slow
def test_momentum_is_not_unrolled_unless_forced() -> None:
    """The heavy ball of Bolte, Pauwels and Vaiter: iterates converge, derivatives need not."""
    heavy = optimize.FixedPointIteration(momentum=0.95, max_iterations=3000)

    def run(adjoint):
        a = tf.constant([0.3], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(a)
            x, info = optimize.fixed_point(
                lambda x, a: x - 0.1 * (x - a), tf.zeros_like(a), a, solver=heavy, adjoint=adjoint
            )
        return x, tape.gradient(x, a), info

    with pytest.raises(ValueError, match="the iterates can converge while their derivative div"):
        run(Unrolled(10))
    with pytest.raises(ValueError, match="does not cover mixing"):
        optimize.fixed_point(
            lambda x: 0.5 * x,
            tf.ones(2),
            solver=optimize.AndersonIteration(),
            adjoint=Unrolled(10, force_momentum=True),
        )
    with pytest.warns(RuntimeWarning, match="FORBIDDEN_MOMENTUM"):
        x, slope, _ = run(Unrolled(600, force_momentum=True))
    np.testing.assert_allclose(x, 0.3, atol=1e-6)
    np.testing.assert_allclose(slope, 1.0, atol=1e-5)
    x, slope, info = run(Implicit())
    np.testing.assert_allclose(slope, 1.0, atol=1e-8)
    assert info.status == Status.OK


@pytest.mark.parametrize(
    "rule",
    [
        optimize.FixedPointIteration(momentum="nesterov"),
        optimize.FixedPointIteration(momentum=0.5),
        optimize.FixedPointIteration(relaxation=0.5),
        optimize.FixedPointIteration(relaxation=1.3),
        optimize.AndersonIteration(memory=4),
    ],
)
def test_every_solver_finds_the_same_point(rng, rule) -> None:
    w, b, v = contraction(rng), rng.normal(size=6), rng.normal(size=(3, 6))
    w = w @ w.T  # momentum needs real eigenvalues
    z, _, db = closed_form(w, b, v)
    shift = tf.constant(b)
    with tf.GradientTape() as tape:
        tape.watch(shift)
        got, info = optimize.fixed_point(
            tanh_map, np.zeros((3, 6)), (w, shift), solver=rule, batch_axes=1
        )
    np.testing.assert_allclose(got, z, atol=1e-10)
    np.testing.assert_allclose(tape.gradient(got, shift, v), db, rtol=1e-8, atol=1e-9)
    assert set(info.status.numpy()) == {Status.OK}


@pytest.mark.slow
def test_structures_and_parameters_of_any_kind(rng) -> None:
    x0 = {"u": np.zeros((2, 3)), "p": (np.zeros((2, 2, 2)),)}
    params = {"a": rng.normal(size=(2, 3)), "b": 0.25}

    def step(x, params):
        u, (p,) = x["u"], x["p"]
        b = tf.cast(params["b"], u.dtype)
        new = 0.3 * tf.sin(u) + params["a"] + b * tf.reduce_sum(p, axis=(1, 2))[:, None]
        return {"u": new, "p": (0.2 * p + 0.1 * tf.reduce_mean(u, axis=1)[:, None, None],)}

    x, info = optimize.fixed_point(step, x0, params, batch_axes=1)
    again = step(x, params)
    np.testing.assert_allclose(x["u"], again["u"], atol=1e-10)
    np.testing.assert_allclose(x["p"][0], again["p"][0], atol=1e-10)
    assert info.residual.shape == (2,)

    def solved(a):
        x, _ = optimize.fixed_point(step, x0, {"a": a, "b": 0.25}, batch_axes=1)
        return x["u"]

    check = optimize.check_vjp(solved, [params["a"]])
    assert check.worst < 1e-6


def test_vjp_and_jvp_are_adjoint_and_match_differences(rng) -> None:
    w, b = contraction(rng, 5), rng.normal(size=5)
    z, _ = optimize.fixed_point(tanh_map, np.zeros((2, 5)), (w, b), batch_axes=1)
    v, dw, db = rng.normal(size=(2, 5)), rng.normal(size=(5, 5)), rng.normal(size=5)
    (back_w, back_b), linear = optimize.fixed_point_vjp(tanh_map, z, (w, b), v, batch_axes=1)
    tangent, _ = optimize.fixed_point_jvp(tanh_map, z, (w, b), (dw, db), batch_axes=1)
    assert set(linear.status.numpy()) == {Status.OK}
    inner = np.sum(back_w * dw) + np.sum(back_b * db)
    np.testing.assert_allclose(np.sum(v * tangent), inner, rtol=1e-10)
    step = 1e-6
    moved = [
        optimize.fixed_point(
            tanh_map, np.zeros((2, 5)), (w + s * step * dw, b + s * step * db), batch_axes=1
        )[0]
        for s in (1, -1)
    ]
    np.testing.assert_allclose(tangent, (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-8)

    def residual(z, w, b):
        return z - tanh_map(z, w, b)

    (root_w, root_b), _ = optimize.root_vjp(residual, z, (w, b), v, batch_axes=1)
    root_tangent, _ = optimize.root_jvp(residual, z, (w, b), (dw, db), batch_axes=1)
    np.testing.assert_allclose(root_w, back_w, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(root_b, back_b, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(root_tangent, tangent, rtol=1e-9, atol=1e-10)


def test_check_vjp_finds_a_wrong_derivative(rng) -> None:
    @tf.custom_gradient
    def wrong(x):
        return x**2, lambda v: 3.0 * x * v

    x = tf.constant(rng.normal(size=5))
    assert optimize.check_vjp(lambda x: x**2, [x]).worst < 1e-7
    assert optimize.check_vjp(wrong, [x]).worst > 0.1
    with pytest.raises(ValueError, match="at least one input"):
        optimize.check_vjp(wrong, [])


def test_items_stop_by_themselves(rng) -> None:
    """An item at rest, an easy one, a hard one, and one out of all proportion."""
    rate = tf.constant([[0.5], [0.1], [0.99], [0.5]], tf.float64)
    target = np.array([[0.0], [1.0], [1.0], [1e8]])
    x, info = optimize.fixed_point(
        lambda x, r, t: t + r * (x - t),
        np.array([[0.0], [0.0], [0.0], [0.0]]),
        (rate, target),
        batch_axes=1,
        solver=optimize.FixedPointIteration(max_iterations=4000),
    )
    np.testing.assert_allclose(x, target, rtol=1e-9)
    assert info.iterations[0] == 1
    assert info.iterations[1] < info.iterations[3] < info.iterations[2]
    np.testing.assert_allclose(info.contraction[1:], rate[1:, 0], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_xla_and_eager_agree(rng, name: str) -> None:
    w, b, v = contraction(rng), rng.normal(size=6), rng.normal(size=(3, 6))
    eager, z, _ = gradients(EXACT[name], w, b, v, dtype="float32")

    @tf.function(jit_compile=True)
    def compiled(w, b, v):
        return gradients(EXACT[name], w, b, v, dtype="float32")

    jitted, z_jit, info = compiled(*(tf.constant(a, "float32") for a in (w, b, v)))
    np.testing.assert_allclose(z_jit, z, atol=2e-5)
    for one, other in zip(jitted, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4)
    assert set(info.status.numpy()) == {Status.OK}


@pytest.mark.slow
def test_newton(rng) -> None:
    def equations(x, a):
        return tf.stack([x[0] ** 3 + x[1] - a[0], tf.nn.relu(x[1]) + 2 * x[1] - x[0] - a[1]])

    a = np.array([2.0, -0.5])
    x, info = optimize.root(equations, np.ones(2), a)
    np.testing.assert_allclose(equations(x, a), 0, atol=1e-10)
    assert info.status == Status.OK
    assert info.iterations < 15
    check = optimize.check_vjp(lambda a: optimize.root(equations, np.ones(2), a)[0], [a])
    assert check.worst < 1e-6
    with pytest.warns(RuntimeWarning, match="NOT_CONVERGED"):
        optimize.root(lambda x, a: x * x + a, np.ones(1), np.ones(1))
