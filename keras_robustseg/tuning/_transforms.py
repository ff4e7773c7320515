"""Maps between hyper-parameters and the free variables that an outer optimiser moves.

log        value = exp(free)                             penalties, radii, variances
sigmoid    value = low + (high - low) / (1 + exp(-free))    weights of annotators and samples
identity   value = free                                  anything, with optional bounds
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

NAMES = ("log", "sigmoid", "identity")
_LEAST = 1e-37
# Beyond it the sigmoid has no slope left that an optimiser could use.
_FARTHEST = 20.0


class Transform(NamedTuple):
    """One of the maps, with bounds of the value.

    Args:
        name: "log", "sigmoid" or "identity".
        low: least value.
        high: greatest value.

    Example:
        `Transform("log", 0.0, np.inf).value(np.log([0.1, 10.0]))  # [0.1, 10.0]`
    """

    name: str
    low: float
    high: float

    def value(self, free: np.ndarray) -> np.ndarray:
        """Return the value at a free variable, elementwise."""
        if self.name == "log":
            return np.clip(np.exp(free), self.low, self.high)
        if self.name == "sigmoid":
            return self.low + (self.high - self.low) * expit(free)
        return np.clip(free, self.low, self.high)

    def free(self, value: np.ndarray) -> np.ndarray:
        """Return the free variable of a value, elementwise."""
        if self.name == "log":
            return np.log(np.maximum(value, _LEAST))
        if self.name == "sigmoid":
            share = (np.asarray(value) - self.low) / (self.high - self.low)
            return np.clip(logit(share), -_FARTHEST, _FARTHEST)
        return np.asarray(value, dtype=np.float64)

    def slope(self, free: np.ndarray) -> np.ndarray:
        """Return d value / d free inside the bounds, elementwise."""
        if self.name == "log":
            return np.exp(free)
        if self.name == "sigmoid":
            return (self.high - self.low) * expit(free) * expit(-free)
        return np.ones_like(free)

    def limits(self) -> tuple[float, float]:
        """Return the bounds of the free variable."""
        if self.name == "sigmoid":
            return -_FARTHEST, _FARTHEST
        low, high = self.free(np.array([self.low, self.high]))
        return float(low), float(high)


def make_transform(name: str, bounds: tuple[float, float] | None) -> Transform:
    """Return a transform with its bounds, or the widest it can have.

    Raises:
        ValueError: an unknown name, or bounds that it cannot have.
    """
    if name not in NAMES:
        raise ValueError(f"Expected transform to be one of {NAMES}. Received: transform={name!r}")
    widest = {"log": (0.0, np.inf), "sigmoid": (0.0, 1.0), "identity": (-np.inf, np.inf)}[name]
    low, high = widest if bounds is None else (float(bounds[0]), float(bounds[1]))
    finite = np.isfinite(low) and np.isfinite(high)
    if not low < high or (name == "log" and low < 0) or (name == "sigmoid" and not finite):
        raise ValueError(
            f"Expected bounds (low, high) with low < high, not negative for 'log' and finite for "
            f"'sigmoid'. Received: bounds={bounds!r} for transform={name!r}"
        )
    return Transform(name, low, high)
