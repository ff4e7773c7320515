"""Risk measures agree with reference values of 50 digits, and of exact linear programs."""

from __future__ import annotations

import numpy as np
import pytest
import risk_cases

each_file = pytest.mark.parametrize("name", risk_cases.MEASURES)


def errors(name: str, case: dict, dtype: str) -> tuple[float, float]:
    """Error of the value, in parts of the spread of the losses, and of the weights."""
    losses = case["losses"].astype(dtype)
    weights = None if name == "spectral" else case["base_weights"].astype(dtype)
    measure = risk_cases.MEASURES[name](case)
    q = np.asarray(measure.worst_case_weights(losses, weights))
    value = np.asarray(measure(losses, weights))
    assert value.dtype == q.dtype == dtype
    assert q.shape == losses.shape
    used = case["losses"][(case["base_weights"] > 0) | (name == "spectral")]
    spread = np.ptp(used) or 1.0
    off = abs(q - case["weights"]).max() if case["unique"] else 0.0
    assert q.sum() == pytest.approx(1.0, abs=1e-5 if dtype == "float32" else 1e-12)
    return abs(value - case["value"]) / spread, off


@each_file
def test_float64(name):
    for case in risk_cases.cases(name):
        value, weights = errors(name, case, "float64")
        assert value < 1e-9, case["tag"]
        assert weights < 1e-8, case["tag"]


@each_file
def test_float32(name):
    for case in risk_cases.cases(name):
        value, weights = errors(name, case, "float32")
        assert value < 1e-5, case["tag"]
        assert weights < 1e-4, case["tag"]


def test_every_file_of_samples_is_tested():
    files = {path.stem.removeprefix("dev_") for path in risk_cases.GOLDEN.glob("dev_*.npz")}
    assert {name for name in files if not name.startswith("label_")} == set(risk_cases.MEASURES)
