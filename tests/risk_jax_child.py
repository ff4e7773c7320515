"""Writes value and gradient of every measure, compiled by JAX, for `test_risk_backends.py`."""

import sys

import jax
import numpy as np
from keras import ops
from risk_cases import EXAMPLES, sample

if __name__ == "__main__":
    losses, weights = (x.astype("float32") for x in sample(np.random.default_rng(0)))
    results = {}
    for measure in EXAMPLES:
        call = jax.jit(jax.value_and_grad(lambda x, m=measure: ops.sum(m(x, weights, axis=1))))
        results[f"{measure!r} value"], results[f"{measure!r} gradient"] = call(losses)
    np.savez(sys.argv[1], **results)
