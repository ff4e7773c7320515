"""CVaR of so many losses that its edge is found by a sample: exact against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg.risk import CVaR, DivergenceBall
from keras_robustseg.risk._tail import MANY

N = MANY + 12345
LOSSES = {
    "exponential": lambda rng: rng.exponential(size=N),
    "negative and large": lambda rng: -1e4 * rng.exponential(size=N),
    "heavy tails": lambda rng: rng.standard_cauchy(N),
    "few values": lambda rng: rng.integers(-3, 7, N),
    "half are 0": lambda rng: np.maximum(rng.normal(size=N), 0.0),
    "all equal": lambda rng: np.full(N, -2.5),
    "all 0": lambda rng: np.zeros(N),
    "in order": lambda rng: np.sort(rng.normal(size=N)),
    "offset": lambda rng: 1e3 + 1e-2 * rng.normal(size=N),
    "near 0 and 1": lambda rng: rng.beta(0.05, 0.05, N),
    "one stripe": lambda rng: np.where(np.arange(N) % 17, 0.1, 1.0) * rng.random(N),
}
LEVELS = [0.0, 1e-5, 0.01, 0.1, 0.9, 1.0]


def by_sorting(losses, weights, alpha):
    """Value and weights of the CVaR in float64, the atom shared in proportion to the weights."""
    losses, p = losses.astype("float64"), weights.astype("float64") / weights.sum(dtype="float64")
    values, group = np.unique(losses[p > 0], return_inverse=True)
    mass = np.bincount(group, p[p > 0])
    beyond = np.concatenate([np.cumsum(mass[::-1])[::-1][1:], [0.0]])
    taken = np.clip(alpha - beyond, 0.0, mass) / alpha if alpha else (values == values[-1]) * 1.0
    q = np.zeros_like(losses)
    q[p > 0] = (taken / mass)[group] * p[p > 0]
    return q @ losses, q


def cases(name, weighted):
    rng = np.random.default_rng(len(name) + weighted)
    losses = np.asarray(LOSSES[name](rng)).astype("float32")
    weights = rng.integers(0, 4, N) if weighted else np.ones(N)
    return losses, weights.astype("float32")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_sorting(name, weighted):
    losses, weights = cases(name, weighted)
    with_weights = weights if weighted else None

    @tf.function
    def solve(alpha):
        measure = CVaR(alpha)
        x = tf.constant(losses)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = measure(x, with_weights)
        return value, tape.gradient(value, x), measure.worst_case_weights(x, with_weights)

    for alpha in LEVELS:
        exact, q = by_sorting(losses, weights, np.float64(np.float32(alpha)))
        value, slope, found = (np.asarray(x) for x in solve(tf.constant(alpha)))
        spread = np.ptp(losses[weights > 0])
        assert abs(value - exact) <= 1e-5 * spread + np.spacing(abs(losses).max())
        np.testing.assert_array_equal(slope, found)
        # The last loss of the tail has what is left of a mass that float32 rounds.
        assert abs(found - q).max() <= 1e-4 * q.max() + np.finfo("float32").eps
        assert abs(found.sum(dtype="float64") - 1.0) < 1e-4


def test_compiled_and_float64_and_rows_and_optimistic():
    rng = np.random.default_rng(0)
    losses, weights = rng.normal(size=(2, N)), rng.random((2, N))
    for stance, sign in (("pessimistic", 1.0), ("optimistic", -1.0)):
        measure = CVaR([0.3, 0.02], stance=stance)
        rows = zip(losses, weights, (0.3, 0.02), strict=True)
        wanted = [by_sorting(sign * x, w, alpha) for x, w, alpha in rows]
        value = measure(losses, weights, axis=-1)
        q = measure.worst_case_weights(losses, weights, axis=-1)
        assert value.dtype == "float64"
        np.testing.assert_allclose(sign * np.asarray(value), [v for v, _ in wanted], rtol=1e-12)
        # Sums of a hundred thousand weights, in another order, share out the edge.
        np.testing.assert_allclose(q, [q for _, q in wanted], rtol=1e-10, atol=1e-13)
    single = losses.astype("float32")
    compiled = tf.function(lambda x: CVaR(0.1)(x, axis=-1), jit_compile=True)(single)
    np.testing.assert_allclose(compiled, CVaR(0.1)(single, axis=-1), rtol=1e-6)


def test_losses_that_do_not_count_or_are_no_numbers():
    rng = np.random.default_rng(1)
    losses, weights = rng.normal(size=N).astype("float32"), np.ones(N, "float32")
    weights[::3], losses[::3] = 0.0, np.nan
    exact, _ = by_sorting(np.where(weights > 0, losses, 0.0), weights, 0.1)
    np.testing.assert_allclose(CVaR(0.1)(losses, weights), exact, rtol=1e-5)
    assert CVaR(0.1)(losses, 0.0 * weights) == 0.0
    assert not np.any(CVaR(0.1).worst_case_weights(losses, 0.0 * weights))
    assert np.isnan(CVaR(0.1)(losses))
    assert np.isnan(CVaR(0.1).worst_case_weights(losses)).all()
    # -inf is far from the tail, and yet no loss to count with.
    low = np.where(np.arange(N) == 5, -np.inf, np.where(weights > 0, losses, 0.0)).astype("float32")
    assert not np.isfinite(CVaR(0.1)(low))
    negative = tf.constant(-weights)  # a constant of NumPy is refused
    assert np.isnan(CVaR(0.1)(np.where(weights > 0, losses, 0.0), negative))


def test_total_variation_of_many():
    losses, weights = cases("exponential", True)
    value = DivergenceBall("tv", 0.2)(losses, weights)
    kept, _ = by_sorting(losses, weights, 0.8)
    np.testing.assert_allclose(value, 0.2 * losses[weights > 0].max() + 0.8 * kept, rtol=1e-5)
