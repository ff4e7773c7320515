"""Golden cases of the risk measures, and one example of each measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg import risk

GOLDEN = Path(__file__).parent / "golden" / "risk"
Case = dict[str, np.ndarray]


def cases(name: str) -> Iterator[Case]:
    with np.load(GOLDEN / f"dev_{name}.npz") as file:
        for i in range(int(file["n_cases"])):
            prefix = f"c{i:02d}_"
            yield {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


def padded(name: str) -> Case:
    """All cases of a file as rows of one batch, filled up with losses of weight 0 that are NaN."""
    rows = list(cases(name))
    size = max(row["losses"].size for row in rows)

    def stacked(key: str, filling: float) -> np.ndarray:
        if rows[0][key].shape != rows[0]["losses"].shape:
            return np.stack([row[key] for row in rows])
        fill = [np.full(size - row[key].size, filling) for row in rows]
        return np.stack([np.append(row[key], f) for row, f in zip(rows, fill, strict=True)])

    fillings = {"losses": np.nan}
    return {key: stacked(key, fillings.get(key, 0.0)) for key in rows[0]}


def ball(divergence: str, **more: Any) -> Callable[[Case], risk.RiskMeasure]:
    return lambda c: risk.DivergenceBall(divergence, c["param_eps"], **more)


MEASURES: dict[str, Callable[[Case], risk.RiskMeasure]] = {
    "worst_case": lambda c: risk.WorstCase(),
    "cvar": lambda c: risk.CVaR(c["param_alpha"]),
    "cvar_lower": lambda c: risk.CVaR(c["param_alpha"], stance="optimistic"),
    "cvar_entropic": lambda c: risk.CVaR(c["param_alpha"], "entropic", c["param_tau"]),
    "cvar_l2": lambda c: risk.CVaR(c["param_alpha"], "l2", c["param_nu"]),
    "entropic": lambda c: risk.EntropicRisk(c["param_tau"]),
    "entropic_lower": lambda c: risk.EntropicRisk(c["param_tau"], stance="optimistic"),
    "kl_ball": ball("kl"),
    "kl_ball_lower": ball("kl", stance="optimistic"),
    "reverse_kl_ball": ball("reverse_kl"),
    "chi2_ball": ball("chi2"),
    "chi2_ball_lower": ball("chi2", stance="optimistic"),
    "neyman_ball": ball("neyman"),
    "hellinger_ball": ball("hellinger"),
    "tv_ball": ball("tv"),
    "jeffreys_ball": ball("jeffreys"),
    "renyi_ball": lambda c: risk.DivergenceBall("renyi", c["param_eps"], float(c["param_order"])),
    "chi2_penalty": lambda c: risk.DivergencePenalty("chi2", c["param_lam"]),
    "mean_std": lambda c: risk.MeanDeviation(c["param_c"], monotone=False),
    "mean_upper_semideviation1": lambda c: risk.MeanSemideviation(c["param_c"]),
    "mean_upper_semideviation2": lambda c: risk.MeanSemideviation(c["param_c"], order=2),
    "spectral": lambda c: risk.SpectralRisk(c["param_sigma"]),
    "wasserstein_samples": lambda c: risk.WassersteinBall(c["cost"], c["param_eps"]),
}

SPECTRUM = [0.05, 0.15, 0.3, 0.5]


@keras.saving.register_keras_serializable(package="tests")
def poisson_conjugate(s: Any) -> Any:
    """Conjugate of t log t - t + 1."""
    return ops.expm1(s)


def examples(n: int, stance: str = "pessimistic") -> list[risk.RiskMeasure]:
    """One measure of each kind; the coherent ones first."""
    place = np.arange(n, dtype="float64")
    return [*coherent(n, stance), *convex(stance), transport(place, stance)]


def coherent(n: int, stance: str = "pessimistic") -> list[risk.RiskMeasure]:
    radii = {"kl": 0.2, "reverse_kl": 0.3, "chi2": 0.5, "neyman": 0.4, "hellinger": 0.1}
    balls = [risk.DivergenceBall(d, r, stance=stance) for d, r in radii.items()]
    return [
        risk.WorstCase(stance),
        risk.CVaR(0.3, stance=stance),
        risk.EVaR(0.4, stance=stance),
        risk.MeanSemideviation(0.7, stance=stance),
        risk.MeanSemideviation(0.7, order=2, stance=stance),
        risk.SpectralRisk(SPECTRUM, stance=stance),
        *balls,
        risk.DivergenceBall("tv", 0.15, stance=stance),
        risk.DivergenceBall("jeffreys", 0.3, stance=stance),
        risk.DivergenceBall("renyi", 0.2, order=3.0, stance=stance),
        risk.DivergenceBall("renyi", 0.2, order=0.4, stance=stance),
        risk.DivergenceBall(poisson_conjugate, 0.2, stance=stance),
    ]


def convex(stance: str = "pessimistic") -> list[risk.RiskMeasure]:
    names = ("kl", "reverse_kl", "chi2", "neyman", "hellinger", "jeffreys", "tv")
    return [
        *(risk.DivergencePenalty(name, 0.8, stance=stance) for name in names),
        risk.EntropicRisk(0.6, stance=stance),
        risk.CVaR(0.3, "entropic", 0.5, stance=stance),
        risk.CVaR(0.3, "l2", 0.5, stance=stance),
        risk.OCE(poisson_conjugate, 1.3, stance=stance),
    ]


def transport(place: np.ndarray, stance: str = "pessimistic") -> risk.RiskMeasure:
    return risk.WassersteinBall(np.abs(place[:, None] - place), 0.7, stance=stance)


def value_and_gradient(call: Callable[[Any], Any], losses: np.ndarray) -> tuple[Any, Any]:
    """Value and gradient to the losses, on the backend in use."""
    if keras.backend.backend() == "jax":
        import jax

        return tuple(map(np.asarray, jax.value_and_grad(call)(losses)))
    import tensorflow as tf

    x = tf.constant(losses)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = call(x)
    return value.numpy(), tape.gradient(value, x).numpy()


N = 7
EXAMPLES = examples(N)
# A root inside of a root, or halving: these take longest.
NESTED = ("jeffreys", "function", "Wasserstein")
QUICK_OR_MARKED = [
    pytest.param(
        m, marks=[pytest.mark.slow] if any(n in repr(m) for n in NESTED) else [], id=repr(m)[:70]
    )
    for m in EXAMPLES
]


def sample(rng: np.random.Generator, rows: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Losses of several scales and signs, and weights."""
    losses = rng.choice([1.0, -3.0, 40.0], (rows, 1)) * rng.exponential(size=(rows, N))
    return losses, rng.random((rows, N)) + 0.05


def close(found: Any, expected: Any, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12, atol=atol)
