"""Linear solvers against NumPy and SciPy; the traps: zeros, solved items, singular systems."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.optimize import Status

SOLVERS = {
    "cg": optimize.cg,
    "gmres": optimize.gmres,
    "bicgstab": optimize.bicgstab,
    "normal_cg": optimize.normal_cg,
    "neumann": optimize.neumann,
    "anderson": optimize.anderson,
}
TYPES = [("float64", 1e-9), ("float32", 2e-5)]


def matrices(rng: np.random.Generator, items: int, n: int, symmetric: bool) -> np.ndarray:
    """Well-conditioned matrices near the identity, so that every solver applies."""
    noise = rng.normal(size=(items, n, n)) * 0.35 / np.sqrt(n)
    if symmetric:
        noise = 0.5 * (noise + noise.transpose(0, 2, 1))
    return np.eye(n) + noise


def apply(a):
    return lambda x: tf.linalg.matvec(a, x)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("name", SOLVERS)
def test_batch_with_zero_and_solved_items(rng, name: str, dtype: str, tolerance: float) -> None:
    a = matrices(rng, 4, 9, symmetric=name == "cg").astype(dtype)
    b = rng.normal(size=(4, 9)).astype(dtype)
    b[1] = 0
    b[3] *= 1e8
    truth = np.linalg.solve(a.astype("float64"), b[..., None].astype("float64"))[..., 0]
    x0 = np.zeros_like(b)
    x0[2] = truth[2]
    x, info = SOLVERS[name](apply(a), b, x0)
    assert x.dtype == dtype
    scale = np.abs(truth).max(axis=1, keepdims=True) + 1e-30
    np.testing.assert_allclose(x / scale, truth / scale, atol=tolerance)
    assert info.status.numpy().tolist() == [Status.OK] * 4
    assert info.iterations.shape == (4,)
    residual = np.linalg.norm(b - np.einsum("bij,bj->bi", a, x), axis=1)
    np.testing.assert_allclose(info.residual, residual, atol=1e-5 * np.linalg.norm(b, axis=1).max())


@pytest.mark.parametrize("name", SOLVERS)
def test_compiled_and_eager_agree(rng, name: str) -> None:
    a = matrices(rng, 2, 5, symmetric=name == "cg")
    b = rng.normal(size=(2, 5))

    @tf.function
    def solve(b):
        return SOLVERS[name](apply(a), b)

    x, info = solve(b)
    eager, _ = SOLVERS[name](apply(a), b)
    np.testing.assert_allclose(x, eager, rtol=1e-9, atol=1e-11)
    assert set(info.status.numpy()) == {Status.OK}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_xla(rng, name: str) -> None:
    a = matrices(rng, 2, 5, symmetric=name == "cg").astype("float32")
    b = rng.normal(size=(2, 5)).astype("float32")
    compiled = tf.function(lambda b: SOLVERS[name](apply(a), b), jit_compile=True)
    x, info = compiled(b)
    np.testing.assert_allclose(x, np.linalg.solve(a, b[..., None])[..., 0], atol=2e-5)
    assert set(info.status.numpy()) == {Status.OK}


@pytest.mark.parametrize("name", ["cg", "gmres", "bicgstab", "normal_cg", "anderson"])
def test_one_system_of_any_shape(rng, name: str) -> None:
    """A matrix equation A X + X B = C: one system of 12 unknowns, against SciPy."""
    p, q = np.diag([2.0, 3, 4]), np.diag([1.0, 2, 3, 1.5])
    p[0, 1] = p[1, 0] = 0.3
    c = rng.normal(size=(3, 4))
    x, info = SOLVERS[name](lambda x: tf.matmul(p, x) + tf.matmul(x, q), c, batch_axes=0)
    np.testing.assert_allclose(x, scipy.linalg.solve_sylvester(p, q, c), atol=1e-9)
    assert info.status.shape == ()
    assert info.status == Status.OK


def test_gmres_with_restart_matches_scipy(rng) -> None:
    n = 40
    a = np.eye(n) * 3 + rng.normal(size=(n, n)) * 0.3
    b = rng.normal(size=n)
    x, info = optimize.gmres(lambda v: tf.linalg.matvec(a, v), b, restart=7, tol=1e-10)
    oracle, failed = scipy.sparse.linalg.gmres(a, b, restart=7, rtol=1e-10)
    assert failed == 0
    np.testing.assert_allclose(x, oracle, atol=1e-8)
    assert 0 < info.iterations < 200


def test_gmres_counts_what_an_easy_system_needs() -> None:
    d = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    _, info = optimize.gmres(lambda v: d * v, np.ones(6))
    assert info.iterations == 3


def test_indefinite_systems(rng) -> None:
    q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    a = q * np.array([-3.0, -1, 1, 2, 3, 4, 5, -6]) @ q.T
    b = rng.normal(size=8)
    for solver in (optimize.gmres, optimize.normal_cg):
        x, info = solver(lambda v: tf.linalg.matvec(a, v), b)
        np.testing.assert_allclose(x, np.linalg.solve(a, b), atol=1e-8)
        assert info.status == Status.OK
    _, info = optimize.cg(lambda v: tf.linalg.matvec(-np.eye(8), v), b)
    assert info.status == Status.SINGULAR


def singular(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    a = q * np.array([0.0, 0, 1, 2, 3, 4, 5]) @ q.T
    b = rng.normal(size=7)
    return a, b, a @ b


@pytest.mark.parametrize("name", ["cg", "gmres", "normal_cg"])
def test_singular_but_consistent_gives_the_smallest_answer(rng, name: str) -> None:
    a, _, b = singular(rng)
    x, info = SOLVERS[name](lambda v: tf.linalg.matvec(a, v), b, tol=1e-10)
    np.testing.assert_allclose(x, np.linalg.pinv(a, rcond=1e-10) @ b, atol=1e-7)
    assert info.status == Status.OK


@pytest.mark.parametrize("name", ["cg", "gmres", "bicgstab", "normal_cg"])
def test_no_answer_is_said(rng, name: str) -> None:
    a, b, _ = singular(rng)
    x, info = SOLVERS[name](lambda v: tf.linalg.matvec(a, v), b, max_iterations=60)
    x = x.numpy()
    assert info.status != Status.OK
    assert np.linalg.norm(b - a @ x) <= np.linalg.norm(b)
    if name != "bicgstab":
        assert info.status == Status.SINGULAR
        assert np.abs(x).max() < 1e3 * np.abs(b).max()
    if name in ("gmres", "normal_cg"):
        np.testing.assert_allclose(a @ (a @ x - b), 0, atol=1e-8)
    if name == "normal_cg":
        np.testing.assert_allclose(x, np.linalg.pinv(a, rcond=1e-10) @ b, atol=1e-7)


def test_zero_matrix_and_nan_in_the_matrix_end() -> None:
    for solver in SOLVERS.values():
        _, info = solver(lambda v: 0.0 * v, [1.0, 2.0], max_iterations=50)
        assert info.status != Status.OK
        _, info = solver(lambda v: float("nan") * v, [1.0, 2.0], max_iterations=50)
        assert info.status != Status.OK


def test_neumann_is_the_cut_series_and_says_when_it_diverges(rng) -> None:
    a = matrices(rng, 1, 6, symmetric=False)[0]
    b = rng.normal(size=6)
    x, info = optimize.neumann(lambda v: tf.linalg.matvec(a, v), b, tol=1e-14, max_iterations=3)
    series = sum(np.linalg.matrix_power(np.eye(6) - a, j) @ b for j in range(4))
    np.testing.assert_allclose(x, series, atol=1e-12)
    assert info.status == Status.NOT_CONVERGED
    _, info = optimize.neumann(lambda v: 4.0 * v, b)
    assert info.status == Status.DIVERGED


def test_iterations_run_out(rng) -> None:
    d = np.linspace(1, 1000, 50)
    for name in ("cg", "gmres", "bicgstab", "normal_cg", "anderson"):
        _, info = SOLVERS[name](lambda v: d * v, np.ones(50), max_iterations=3)
        assert info.status == Status.NOT_CONVERGED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": [1.0, float("nan")]}, "`b` must be finite"),
        ({"x0": [[1.0, 2.0]]}, "`x0` must have the shape and type of `b`"),
        ({"tol": 0.0}, "`tol` must be positive"),
        ({"max_iterations": 0}, "`max_iterations` must be positive"),
        ({"batch_axes": 1}, "at least one axis that is not a batch axis"),
        ({"b": 1.0}, "at least one axis"),
        ({"matvec": lambda v: v[:1]}, "must have the shape and type of `b`"),
    ],
)
def test_bad_input(changes, message: str) -> None:
    arguments = {"matvec": lambda v: v, "b": [1.0, 2.0], **changes}
    for solver in SOLVERS.values():
        with pytest.raises(ValueError, match=message):
            solver(**arguments)
