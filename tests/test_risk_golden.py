"""Risk measures agree with reference values of 50 digits, and of exact linear programs."""

from __future__ import annotations

import numpy as np
import pytest
import risk_cases

# These have a parameter whose shape or value makes another program.
ALONE = ("renyi_ball", "spectral", "wasserstein_samples")
each_type = pytest.mark.parametrize(
    ("dtype", "of_spread", "of_weights"), [("float64", 1e-9, 1e-8), ("float32", 1e-5, 1e-4)]
)


def check(name, case, dtype, of_spread, of_weights):
    """Compare one case, or the rows of several, and say which is wrong."""
    losses = case["losses"].astype(dtype)
    weights = None if name == "spectral" else case["base_weights"].astype(dtype)
    measure = risk_cases.MEASURES[name](case)
    q = np.asarray(measure.worst_case_weights(losses, weights, axis=-1))
    value = np.asarray(measure(losses, weights, axis=-1))
    assert value.dtype == q.dtype == dtype
    used = (case["base_weights"] > 0) | (name == "spectral")
    counted = np.where(used, case["losses"], np.nan)
    spread = np.nanmax(counted, -1) - np.nanmin(counted, -1)
    off = abs(value - case["value"]) / np.where(spread > 0, spread, 1.0)
    assert np.all(off < of_spread), (off, case["tag"])
    unique = np.expand_dims(case["unique"], -1)
    off = np.max(np.where(unique, abs(q - case["weights"]), 0.0), -1)
    assert np.all(off < of_weights), (off, case["tag"])
    np.testing.assert_allclose(q.sum(-1), 1.0, rtol=of_spread)


@each_type
@pytest.mark.parametrize("name", [name for name in risk_cases.MEASURES if name not in ALONE])
def test_all_cases_as_rows(name, dtype, of_spread, of_weights):
    check(name, risk_cases.padded(name), dtype, of_spread, of_weights)


@each_type
@pytest.mark.parametrize("name", ALONE)
def test_cases_one_by_one(name, dtype, of_spread, of_weights):
    for case in risk_cases.cases(name):
        check(name, case, dtype, of_spread, of_weights)


def test_every_file_of_samples_is_tested():
    files = {path.stem.removeprefix("dev_") for path in risk_cases.GOLDEN.glob("dev_*.npz")}
    assert {name for name in files if not name.startswith("label_")} == set(risk_cases.MEASURES)
