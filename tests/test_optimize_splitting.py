"""Splitting solvers on the elastic net of the golden file: answer and hypergradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.optimize import Status

GOLDEN = np.load(Path(__file__).parent / "golden" / "implicit" / "dev_enet.npz")
X, Y = GOLDEN["X"], GOLDEN["y"]
N, P = X.shape
L = float(np.linalg.norm(X, 2) ** 2 / N)


def soft(x, by):
    return tf.sign(x) * tf.nn.relu(tf.abs(x) - by)


def gradient(w, l1, l2):
    return tf.linalg.matvec(X.T, tf.linalg.matvec(X, w) - Y) / N + l2 * w


def prox_l1(w, step, l1, l2):
    return soft(w, step * l1)


def prox_square(w, step, l1, l2):
    matrix = (1.0 + step * l2) * np.eye(P) + step * X.T @ X / N
    return tf.linalg.solve(matrix, (w + step * X.T @ Y / N)[:, None])[:, 0]


def clip_dual(p, sigma, l1, l2):
    return tf.clip_by_value(p, -l1, l1)


def smooth_gradient_step(w, l1, l2):
    """The minimiser of a quadratic above the smooth part, plus the l1 norm."""
    return soft(w - gradient(w, l1, l2) / (L + 1), l1 / (L + 1))


ZERO = np.zeros(P)
SUM = optimize.Sum(prox_square, prox_l1)
SADDLE = optimize.SaddlePoint(
    prox_square, clip_dual, lambda x, *_: tf.identity(x), lambda p, *_: tf.identity(p)
)
COMPOSITE = optimize.Composite(gradient, prox_l1)
CASES = {
    "fb": (optimize.ForwardBackward(step=1 / L), COMPOSITE, ZERO),
    "fista": (optimize.ForwardBackward(step=1 / L, accelerated=True), COMPOSITE, ZERO),
    "dr": (optimize.DouglasRachford(step=1.0), SUM, ZERO),
    "pr": (optimize.PeacemanRachford(step=1.0), SUM, ZERO),
    "admm": (optimize.ADMM(step=1.0), SUM, (ZERO, ZERO)),
    "cp": (optimize.ChambollePock(tau=1.0, sigma=1.0), SADDLE, (ZERO, ZERO)),
    "mm": (optimize.MajorizeMinimize(), optimize.Majorized(smooth_gradient_step), ZERO),
}


@pytest.mark.parametrize("name", CASES)
def test_elastic_net_and_its_hypergradient(name: str) -> None:
    solver, problem, x0 = CASES[name]
    l1, l2 = (tf.constant(float(GOLDEN[f"enet_{k}"]), tf.float64) for k in ("l1", "l2"))
    with tf.GradientTape() as tape:
        tape.watch([l1, l2])
        w, info = solver.run(problem, x0, (l1, l2))
        misfit = tf.linalg.matvec(GOLDEN["X_val"], w) - GOLDEN["y_val"]
        value = 0.5 * tf.reduce_mean(misfit**2)
    assert info.status == Status.OK
    np.testing.assert_allclose(w, GOLDEN["enet_w"], atol=1e-8)
    found = tape.gradient(value, [l1, l2])
    np.testing.assert_allclose(found[0], GOLDEN["enet_dval_dl1"], rtol=1e-6)
    np.testing.assert_allclose(found[1], GOLDEN["enet_dval_dl2"], rtol=1e-6)


def test_momentum_is_not_unrolled() -> None:
    solver, problem, x0 = CASES["fista"]
    with pytest.raises(ValueError, match="Momentum is not unrolled"):
        solver.run(problem, x0, (0.1, 0.1), adjoint=optimize.Unrolled(3))


def test_bad_steps() -> None:
    with pytest.raises(ValueError, match="`step` must be positive"):
        optimize.ForwardBackward(step=0.0)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        optimize.ChambollePock(tau=1.0, sigma=-1.0)
