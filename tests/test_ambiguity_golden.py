"""Label sets against 50-digit and linear-programming reference values."""

from __future__ import annotations

import numpy as np
import pytest
from ambiguity_cases import SETS, labels_of, value_weights_gradient
from risk_cases import cases

HOLDS_IDS = ("kl", "chi2", "jeffreys")


@pytest.mark.parametrize(
    ("dtype", "of_value", "of_weights"), [("float64", 1e-9, 1e-8), ("float32", 1e-5, 1e-4)]
)
@pytest.mark.parametrize("name", SETS)
def test_golden(name, dtype, of_value, of_weights):
    for case in cases(f"label_{name}"):
        logits = case["logits"].astype(dtype)
        top = logits.max(-1, keepdims=True)
        losses = np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top - logits
        spread = np.ptp(losses)
        forms = labels_of(case, dtype)
        for given in forms[:1] if name.startswith(HOLDS_IDS) else forms:
            value, q, gradient = value_weights_gradient(SETS[name](case), logits, given)
            np.testing.assert_allclose(value, case["value"], rtol=0, atol=of_value * spread)
            # The reference spreads a mean over its pixels into the weights.
            pixels = (~case["ignore"]).sum() if "ignore" in case else len(q)
            mean = value.ndim == 0
            unique = case.get("unique", np.ones(q.shape[:-1], bool))
            found = (q / pixels if mean else q)[unique]
            np.testing.assert_allclose(found, case["weights"][unique], rtol=0, atol=of_weights)
            np.testing.assert_allclose(
                gradient[unique], case["grad_logits"][unique], rtol=0, atol=of_weights
            )
