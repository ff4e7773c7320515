"""Problems for the pixel classifiers, and derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "implicit"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"dev_{name}.npz") as file:
        return dict(file)


def problem(
    rng: np.random.Generator, pixels: int = 90, features: int = 4, classes: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Features of several scales, and classes that overlap."""
    X = rng.normal(size=(pixels, features)) * np.geomspace(0.3, 3.0, features)
    scores = X @ rng.normal(size=(features, classes)) / np.geomspace(0.3, 3.0, features).mean()
    y = np.argmax(scores + rng.gumbel(size=(pixels, classes)), axis=1)
    y[:classes] = np.arange(classes)
    return X, y


def difference(value: Callable[[np.ndarray], float], at: Any, along: np.ndarray) -> float:
    """Derivative along a direction by central differences."""
    step = 1e-5
    at = np.asarray(at, dtype=float)
    return (value(at + step * along) - value(at - step * along)) / (2.0 * step)
