"""Risk measures in graphs, compiled, on JAX, over replicas, with parameters that change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import risk_cases
from keras import ops
from risk_cases import EXAMPLES, N, close, sample

from keras_robustseg import risk

each = pytest.mark.parametrize("measure", risk_cases.QUICK_OR_MARKED)


@pytest.mark.parametrize(
    "make",
    [
        risk.CVaR,
        risk.EVaR,
        risk.EntropicRisk,
        lambda v: risk.DivergenceBall("chi2", v),
        lambda v: risk.DivergencePenalty("hellinger", v),
        lambda v: risk.MeanSemideviation(v, order=2),
    ],
)
def test_a_variable_changes_the_risk_without_a_new_trace(make, rng):
    import tensorflow as tf

    losses, variable, traces = rng.normal(size=N).astype("float32"), keras.Variable(0.2), []
    measure = make(variable)

    @tf.function
    def call(x):
        traces.append(1)
        return measure(x)

    for value in (0.2, 0.7):
        variable.assign(value)
        np.testing.assert_allclose(call(tf.constant(losses)), make(value)(losses), rtol=1e-5)
    assert len(traces) == 1
    assert measure.get_config() == {**make(0.7).get_config(), **measure.get_config()}


def compiled(measure, losses, weights):
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def call(x, w):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = ops.sum(measure(x, w, axis=1))
        return value, tape.gradient(value, x)

    return call(tf.constant(losses), tf.constant(weights))


def check_compiled(measure, rng):
    losses, weights = (x.astype("float32") for x in sample(rng))
    weights[1], weights[2, 3], losses[2, 3] = 0.0, 0.0, np.nan
    value, gradient = risk_cases.value_and_gradient(
        lambda x: ops.sum(measure(x, weights, axis=1)), losses
    )
    found = compiled(measure, losses, weights)
    np.testing.assert_allclose(found[0], value, rtol=1e-5)
    np.testing.assert_allclose(found[1], gradient, atol=2e-5)


def test_one_measure_is_the_same_compiled(rng):
    check_compiled(risk.DivergenceBall("hellinger", 0.2), rng)


@pytest.mark.slow
@each
def test_the_same_compiled(measure, rng):
    check_compiled(measure, rng)


def test_shapes_may_be_unknown_in_a_graph(rng):
    import tensorflow as tf

    losses, weights = sample(rng)
    for measure in (risk.CVaR(0.3), risk.DivergenceBall("kl", 0.2), risk.SpectralRisk([0.3, 0.7])):
        spec = tf.TensorSpec([None, None], "float64")
        call = tf.function(lambda x, w, m=measure: m(x, w, axis=0), input_signature=[spec, spec])
        close(call(losses, weights), measure(losses, weights, axis=0))


@pytest.mark.slow
def test_jax_gives_the_same(tmp_path):
    path = tmp_path / "jax.npz"
    child = Path(__file__).with_name("risk_jax_child.py")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, str(child), str(path)], env=environment, check=True, timeout=600
    )
    rng = np.random.default_rng(0)
    losses, weights = (x.astype("float32") for x in sample(rng))
    found = np.load(path)
    for measure in EXAMPLES:
        value, gradient = risk_cases.value_and_gradient(
            lambda x, m=measure: ops.sum(m(x, weights, axis=1)), losses
        )
        np.testing.assert_allclose(found[f"{measure!r} value"], value, rtol=2e-5)
        np.testing.assert_allclose(found[f"{measure!r} gradient"], gradient, atol=2e-5)


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_two_replicas_have_the_risk_of_all_losses(count):
    child = Path(__file__).with_name("risk_replica_child.py")
    run = subprocess.run(
        [sys.executable, str(child), str(count)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    differences = dict(line.rsplit(maxsplit=1) for line in run.stdout.splitlines())
    assert len(differences) == count
    assert all(float(value) < 1e-6 for value in differences.values()), differences
