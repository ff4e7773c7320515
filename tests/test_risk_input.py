"""What risk measures take: axes, types, configurations; and what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from risk_cases import QUICK_OR_MARKED, N, close, sample

from keras_robustseg import risk

each = pytest.mark.parametrize("measure", QUICK_OR_MARKED)


def test_axes_are_those_of_numpy(rng):
    losses, weights = rng.normal(size=(2, 3, 4, 5)), rng.random((3, 1, 5))
    measure = risk.CVaR(0.4)
    for axis, order in ((None, (0, 1, 2, 3)), (1, (0, 2, 3, 1)), ((-1, 1), (0, 2, 3, 1))):
        count = 4 if axis is None else 2 if isinstance(axis, tuple) else 1
        lead = losses.shape if count == 4 else tuple(losses.shape[a] for a in order[: 4 - count])
        flat = (*(() if count == 4 else lead), -1)
        full = np.broadcast_to(weights, losses.shape)
        expected = risk.cvar(*(x.transpose(order).reshape(flat) for x in (losses, full)), 0.4)[0]
        found = measure(losses, weights, axis)
        close(found, expected)
        q = np.asarray(measure.worst_case_weights(losses, weights, axis))
        assert q.shape == losses.shape
        close((q * losses).sum(axis), found)
    close(measure(np.float64(3.0)), 3.0)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(half, rng):
    losses = ops.cast(rng.normal(size=(2, N)), half)
    measure = risk.DivergenceBall("kl", 0.3)
    found = measure(losses, axis=1)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(found, measure(ops.cast(losses, "float32"), axis=1))


@each
def test_configuration_gives_an_equal_measure(measure, rng):
    losses, weights = sample(rng)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(measure))
    assert type(again) is type(measure)
    assert again.get_config() == measure.get_config()
    close(again(losses, weights, axis=1), measure(losses, weights, axis=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: risk.CVaR(0.0), "`alpha`"),
        (lambda: risk.CVaR(1.2), "`alpha`"),
        (lambda: risk.CVaR("much"), "number"),
        (lambda: risk.CVaR(float("nan")), "`alpha`"),
        (lambda: risk.CVaR(0.1, "cubic", 1.0), "`smoothing`"),
        (lambda: risk.CVaR(0.1, "l2"), "`temperature`"),
        (lambda: risk.CVaR(0.1, temperature=1.0), "`temperature`"),
        (lambda: risk.CVaR(keras.Variable(-0.1)), "`alpha`"),
        (lambda: risk.EVaR(2.0), "`alpha`"),
        (lambda: risk.EntropicRisk(0.0), "`temperature`"),
        (lambda: risk.EntropicRisk(1.0, stance="hopeful"), "`stance`"),
        (lambda: risk.MeanSemideviation(1.1), "`coefficient`"),
        (lambda: risk.MeanSemideviation(0.5, order=3), "`order`"),
        (lambda: risk.MeanDeviation(-1.0), "`coefficient`"),
        (lambda: risk.MeanDeviation(2.0)(np.array([0.0, 0.0, 0.0, 9.0]) * -1), "not monotone"),
        (lambda: risk.SpectralRisk([0.6, 0.4]), "`spectrum`"),
        (lambda: risk.SpectralRisk([0.4, 0.4]), "`spectrum`"),
        (lambda: risk.DivergenceBall("kl", -0.1), "`radius`"),
        (lambda: risk.DivergenceBall("wild", 0.1), "`divergence`"),
        (lambda: risk.DivergenceBall("renyi", 0.1), "`order`"),
        (lambda: risk.DivergenceBall("kl", 0.1, order=2.0), "`order`"),
        (lambda: risk.DivergenceBall("renyi", 0.1, order=1.0), "`order`"),
        (lambda: risk.DivergenceBall(ops.exp, 0.1), "conjugate"),
        (lambda: risk.DivergencePenalty("renyi", 0.1), "`divergence`"),
        (lambda: risk.DivergencePenalty("kl", 0.0), "`weight`"),
        (lambda: risk.WassersteinBall([[0.0, 1.0]], 0.1), "`cost`"),
        (lambda: risk.WassersteinBall([[1.0, 1.0], [1.0, 0.0]], 0.1), "`cost`"),
        (lambda: risk.WassersteinBall([[0.0, -1.0], [1.0, 0.0]], 0.1), "`cost`"),
        (lambda: risk.WassersteinBall(1 - np.eye(2), 0.1)(np.zeros(3)), "`cost`"),
        (lambda: risk.CVaR(0.1)(np.zeros(3), np.ones(2)), "`weights`"),
        (lambda: risk.CVaR(0.1)(np.zeros(3), np.array([1.0, -1.0, 1.0])), "`weights`"),
        (lambda: risk.CVaR(0.1)(np.zeros(3), axis=1), "`axis`"),
        (lambda: risk.CVaR(0.1)(np.zeros((2, 3)), axis=(1, -1)), "`axis`"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "Received" in str(caught.value)


def test_deviation_that_is_not_monotone_is_nan_in_a_graph():
    import tensorflow as tf

    losses = tf.constant([0.0, 5.0, 5.0, 5.0])
    assert np.isnan(tf.function(risk.MeanDeviation(2.0))(losses))
    signed = risk.MeanDeviation(2.0, monotone=False)
    close(signed(losses), np.mean(losses) + 2 * np.std(losses), atol=1e-5)
