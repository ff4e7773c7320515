"""The dual variable of a budget: the rate at which it is just spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def rates_at_budget(
    fits: Callable[[Any], Any], top: Any, *, octaves: float = 60.0
) -> tuple[Any, Any]:
    """Return the rates just below and just above the least one whose spending fits the budget.

    Bisection of log2(rate), which ends at the relative precision of the type. Where rate 0 fits,
    both are 0.

    Args:
        fits: rate -> bool of its shape, false below some rate and true above it.
        top: rates that fit, 0 or more.
        octaves: rates below top / 2^octaves count as 0.

    Example:
        `rates_at_budget(lambda r: 1.0 / r <= 4.0, np.array([8.0]))  # 1/4 from both sides`
    """
    steps = 64 if keras.backend.standardize_dtype(top.dtype) == "float64" else 32

    def halve(near: Any, far: Any) -> tuple[Any, Any]:
        middle = 0.5 * (near + far)
        affordable = fits(top * 2.0**-middle)
        return ops.where(affordable, middle, near), ops.where(affordable, far, middle)

    def open_(near: Any, far: Any) -> Any:
        middle = 0.5 * (near + far)
        return ops.any(ops.logical_and(middle > near, middle < far))

    # In octaves below the top: `near` fits, `far` does not.
    start = (ops.zeros_like(top), octaves * ops.ones_like(top))
    near, far = ops.while_loop(open_, halve, start, maximum_iterations=steps)
    free = fits(ops.zeros_like(top))
    below = ops.where(far < octaves, top * 2.0**-far, 0.0)
    return ops.where(free, 0.0, below), ops.where(free, 0.0, top * 2.0**-near)
