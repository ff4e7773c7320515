"""The two counterexamples of docs/theory against golden values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_robustseg import optimize

GOLDEN = np.load(Path(__file__).parent / "golden" / "implicit" / "dev_pathology.npz")
L, MU, ALPHA, BETA = (float(GOLDEN[f"hb_{name}"]) for name in ("L", "mu", "alpha", "beta"))


def heavy_ball(c: float) -> np.ndarray:
    return np.array([[1 + BETA - ALPHA * c, -BETA], [1.0, 0.0]])


def radius(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def test_heavy_ball_contracts_by_each_matrix_and_not_by_their_product() -> None:
    np.testing.assert_allclose(radius(heavy_ball(L)), GOLDEN["hb_rho_L"], rtol=1e-10)
    np.testing.assert_allclose(radius(heavy_ball(MU)), GOLDEN["hb_rho_mu"], rtol=1e-10)
    n_l, n_mu = int(GOLDEN["hb_n_L"]), int(GOLDEN["hb_n_mu"])
    power = np.linalg.matrix_power
    period = power(heavy_ball(L), n_l) @ power(heavy_ball(MU), n_mu)
    growth = radius(period) ** (1 / (n_l + n_mu))
    np.testing.assert_allclose(growth, GOLDEN["hb_product_growth"], rtol=1e-10)
    assert growth > 1 > GOLDEN["hb_rho_L"]


def test_heavy_ball_iterates_vanish_from_every_direction() -> None:
    angles = np.linspace(0, 2 * np.pi, 721)
    x, before = np.cos(angles), np.sin(angles)
    for _ in range(4000):
        x, before = x - ALPHA * np.where(x > 0, L, MU) * x + BETA * (x - before), x
    assert np.abs(x).max() < 1e-40 > GOLDEN["hb_iterates_max_after_4000"]


def test_the_library_refuses_to_unroll_it() -> None:
    heavy = optimize.FixedPointIteration(momentum=BETA)
    with pytest.raises(ValueError, match="Momentum is not unrolled"):
        optimize.fixed_point(
            lambda x, a: x - ALPHA * L * (x - a),
            np.zeros(1),
            np.ones(1),
            solver=heavy,
            adjoint=optimize.Unrolled(3),
        )


def test_descent_by_the_formal_derivative_cycles() -> None:
    """Every 50th point of the stored path, and the range of the last 5000."""
    z = GOLDEN["cyc_x0"].copy()
    path = [z]
    for _ in range(20000):
        inner = np.array([3.0, 5.0]) * (-3.0 * z[0] + z[1] + 2.0 > 0)
        z = z - GOLDEN["cyc_step"] * np.array([2.0, 8.0]) * (z - inner)
        path.append(z)
    stored = GOLDEN["cyc_traj"]
    np.testing.assert_allclose(path[: 50 * len(stored) : 50], stored, rtol=1e-8)
    spread = np.ptp(path[-5000:], axis=0)
    np.testing.assert_allclose(spread, GOLDEN["cyc_tail_range"], rtol=1e-8)
    assert spread.min() > 1
