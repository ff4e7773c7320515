"""Lasso derivatives by the active set: golden values, a kink, a duplicated column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_robustseg import optimize
from keras_robustseg.optimize import Status

FOLDER = Path(__file__).parent / "golden" / "implicit"


@pytest.mark.parametrize("name", ["lasso", "enet", "wlasso"])
def test_golden(name: str) -> None:
    golden = np.load(FOLDER / "dev_enet.npz")
    w, l1, l2 = (golden[f"{name}_{k}"] for k in ("w", "l1", "l2"))
    misfit = golden["X_val"] @ w - golden["y_val"]
    v = golden["X_val"].T @ misfit / len(misfit)
    grads, info = optimize.elastic_net_vjp(golden["X"], golden["y"], w, l1, l2, v)
    assert info.status == Status.OK
    assert info.residual < 1e-6
    np.testing.assert_allclose(grads.l2, golden[f"{name}_dval_dl2"], rtol=1e-6)
    np.testing.assert_allclose(grads.l1, golden[f"{name}_dval_dl1_vec"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(grads.y, golden[f"{name}_dval_dy"], rtol=1e-6, atol=1e-9)


def test_kink_at_the_largest_weight() -> None:
    golden = np.load(FOLDER / "dev_pathology.npz")
    X, y, l1 = golden["kink_X"], golden["kink_y"], golden["kink_lambda"]
    _, info = optimize.elastic_net_vjp(X, y, np.zeros(4), l1, 0.0, np.ones(4))
    assert info.status == Status.NEAR_KINK
    _, info = optimize.elastic_net_vjp(X, y, np.zeros(4), 1.1 * l1, 0.0, np.ones(4))
    assert info.status == Status.OK


def test_duplicated_column_is_singular(rng) -> None:
    X = rng.normal(size=(20, 3))
    X = np.concatenate([X, X[:, :1]], axis=1)
    w = np.array([0.5, 0.0, 0.0, 0.5])
    y = X @ w
    grads, info = optimize.elastic_net_vjp(X, y, w, 0.0, 0.0, np.ones(4))
    assert info.status == Status.SINGULAR
    assert np.all(np.isfinite(grads.l1))


def test_a_number_of_python_is_not_rounded(rng) -> None:
    X, y, w = rng.normal(size=(9, 3)), rng.normal(size=9), rng.normal(size=3)
    found = [
        optimize.elastic_net_vjp(X, y, w, 0.1, l2, np.ones(3))[0] for l2 in (0.05, np.float64(0.05))
    ]
    for one, other in zip(*(tuple(grads) for grads in found), strict=True):
        np.testing.assert_array_equal(one, other)
