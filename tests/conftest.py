"""The same draws and no hidden warnings in every test."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make warnings that our own modules raise fail the test."""
    config.addinivalue_line("filterwarnings", r"error:::keras_robustseg(\.|$)")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return fresh random numbers for each test, the same in every run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generators of NumPy, and of Keras where a test has already loaded it."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
    else:
        np.random.seed(0)
