"""What every risk measure promises, on fresh random losses.

All rows that a promise needs go through one call: rows do not know of each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import risk_cases
from keras import ops
from risk_cases import N, close, sample

from keras_robustseg import risk

each = pytest.mark.parametrize("measure", risk_cases.QUICK_OR_MARKED)
COHERENT = {repr(measure) for measure in risk_cases.coherent(N)}
STEP = 1e-6


class Seen(NamedTuple):
    """What a measure says about one batch of losses and about relatives of it."""

    losses: np.ndarray
    weights: np.ndarray
    value: np.ndarray
    q: np.ndarray
    relatives: dict[str, np.ndarray]


def relatives(losses: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> dict:
    """Losses to compare with, and their weights."""
    second = sample(rng)[0]
    moved = losses[:1] + STEP * np.vstack([np.eye(N), -np.eye(N)])
    return {
        "shifted": (losses + 3.0, weights),
        "larger": (losses + rng.random(losses.shape), weights),
        "five times": (5.0 * losses, weights),
        "second": (second, weights),
        "middle": (0.5 * (losses + second), weights),
        "weights times seven": (losses, 7.0 * weights),
        "moved": (moved, np.repeat(weights[:1], 2 * N, 0)),
    }


def look(measure: risk.RiskMeasure, rng: np.random.Generator) -> Seen:
    losses, weights = sample(rng)
    others = relatives(losses, weights, rng)
    rows = [np.concatenate(x) for x in zip((losses, weights), *others.values(), strict=True)]
    value = np.asarray(measure(*rows, axis=1))
    ends = np.cumsum([4, *(len(other[0]) for other in others.values())])
    parts = dict(zip(others, np.split(value, ends)[1:-1], strict=True))
    q = measure.worst_case_weights(losses, weights, axis=1)
    return Seen(losses, weights, value[:4], np.asarray(q), parts)


@each
def test_promises_of_a_convex_risk(measure, rng):
    seen = look(measure, rng)
    mean = np.average(seen.losses, axis=1, weights=seen.weights)
    assert np.all(seen.value >= mean - 1e-9)
    assert np.all(seen.value <= seen.losses.max(1) + 1e-9)
    assert np.all(seen.q >= 0)
    close(seen.q.sum(1), 1.0, atol=1e-9)
    close(seen.relatives["shifted"], seen.value + 3.0, atol=1e-10)
    close(seen.relatives["weights times seven"], seen.value, atol=1e-9)
    assert np.all(seen.relatives["larger"] >= seen.value - 1e-9)
    chord = 0.5 * (seen.value + seen.relatives["second"])
    assert np.all(seen.relatives["middle"] <= chord + 1e-9)
    up, down = seen.relatives["moved"].reshape(2, N)
    np.testing.assert_allclose((up - down) / (2 * STEP), seen.q[0], atol=2e-5)
    if repr(measure) in COHERENT or isinstance(measure, risk.WassersteinBall):
        close(seen.relatives["five times"], 5.0 * seen.value, atol=1e-9)
        close((seen.q * seen.losses).sum(1), seen.value, atol=1e-9)


@each
def test_optimistic_is_the_mirror_image(measure, rng):
    losses, weights = sample(rng)
    turned = type(measure).from_config({**measure.get_config(), "stance": "optimistic"})
    close(turned(losses, weights, axis=1), -measure(-losses, weights, axis=1))


@each
def test_what_does_not_count_is_not_read_and_the_gradient_is_q(measure, rng):
    wide, alone = measure, measure
    if isinstance(measure, risk.WassersteinBall):
        wide = risk_cases.transport(np.append(np.arange(N), [1.5, 2.5, 9.0]))
    losses, weights = sample(rng)
    junk = np.broadcast_to([np.nan, np.inf, -1e30], (4, 3))
    both = np.concatenate([losses, junk], 1), np.concatenate([weights, np.zeros((4, 3))], 1)
    found, gradient = risk_cases.value_and_gradient(
        lambda x: ops.sum(wide(x, both[1], axis=1)), both[0]
    )
    close(found, np.sum(alone(losses, weights, axis=1)), atol=1e-9)
    close(gradient[:, :N], alone.worst_case_weights(losses, weights, axis=1), atol=1e-9)
    assert not gradient[:, N:].any()


@each
def test_a_weight_of_two_is_two_losses(measure, rng):
    if isinstance(measure, risk.WassersteinBall):
        measure = risk_cases.transport(np.append(np.arange(N), 0.0))
    losses, _ = sample(rng)
    twice = np.concatenate([losses, losses[:, :1]], 1)
    heavy, equal = np.ones_like(twice), np.ones_like(twice)
    heavy[:, 0], heavy[:, -1] = 2.0, 0.0
    found = measure(np.concatenate([twice, twice]), np.concatenate([heavy, equal]), axis=1)
    close(found[:4], found[4:], atol=1e-9)


@each
def test_ordinary_and_awkward_losses(measure, rng):
    base = rng.exponential(size=N)
    losses = [np.zeros(N), np.full(N, -2.5), np.round(base), 1e4 * base, 1e3 + 1e-2 * base, base]
    losses, weights = np.stack(losses), np.ones((6, N))
    weights[5, 2] = 1e-6
    exact = np.asarray(measure(losses.astype("float32").astype("float64"), weights, axis=1))
    single = losses.astype("float32")
    value = np.asarray(measure(single, weights, axis=1))
    q = np.asarray(measure.worst_case_weights(single, weights, axis=1))
    assert value.dtype == q.dtype == "float32"
    # One rounding of the result at the scale of the losses comes on top.
    allowed = 1e-5 * np.ptp(single, axis=1) + np.spacing(abs(single).max(1))
    assert np.all(abs(value - exact) <= allowed)
    np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-5)


@each
def test_nothing_counted_is_zero_and_broken_losses_show(measure, rng):
    losses = rng.normal(size=(4, N))
    losses[1:3, 3], losses[3, 3] = np.nan, np.inf
    weights = np.ones((4, N))
    weights[:2] = 0.0
    value, gradient = risk_cases.value_and_gradient(
        lambda x: ops.sum(measure(x, weights, axis=1)[:2]), losses
    )
    assert value == 0.0
    assert not gradient[:2].any()
    value = np.asarray(measure(losses, weights, axis=1))
    assert np.isnan(value[2])
    assert np.isinf(value[3])


def test_one_loss_is_its_own_risk(rng):
    for measure in [*risk_cases.coherent(1), *risk_cases.convex()]:
        losses = rng.normal(size=(3, 1))
        close(measure(losses, axis=1), losses[:, 0])


def test_large_sample_in_float32(rng):
    losses = rng.lognormal(size=100_003).astype("float32")
    for measure in (risk.CVaR(0.01), risk.DivergenceBall("kl", 1.0), risk.EntropicRisk(0.3)):
        exact = float(measure(losses.astype("float64")))
        assert abs(float(measure(losses)) - exact) < 1e-5 * np.ptp(losses)
