"""Roots of increasing functions, row by row: Newton's method held in a bracket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.risk._reduce import Local
from keras_robustseg.risk._rows import epsilon


class At(NamedTuple):
    """An increasing function at a point: what Newton's method asks for.

    Attributes:
        error: its value; the root is where it is 0.
        step: Newton's step, -error / slope.
        near: bool, close enough for that step to be the last.
    """

    error: Any
    step: Any
    near: Any


def increasing_root(
    function: Callable[[Any], At],
    start: Any,
    low: Any,
    high: Any,
    *,
    reduce: Local,
    maximum: int,
) -> Any:
    """Return the root of an increasing function between `low` and `high`, all (..., 1).

    A step that leaves the bracket, or one after which the error has not halved, is replaced by the
    middle of the bracket. Where there is no root, the end that is closer to one is returned. A
    value that is NaN or infinite counts as above the root.

    Args:
        function: point -> `At`.
        start: first point.
        low: the function is not above 0 here, or this is as good as a root.
        high: the function is not below 0 here, or this is as good as a root.
        reduce: how rows that are spread over replicas step together.
        maximum: bound on the number of steps.

    Example:
        `increasing_root(lambda x: At(x - 2, 2 - x, x == 2), start, low, high, reduce=LOCAL,
        maximum=9)`
    """

    rounding = epsilon(start)

    def step(at: Any, low: Any, high: Any, before: Any) -> tuple[Any, ...]:
        now = function(at)
        below = now.error < 0
        low, high = ops.where(below, at, low), ops.where(below, high, at)
        newton = at + now.step
        inside = ops.logical_and(newton >= low, newton <= high)
        error = ops.abs(now.error)
        sound = ops.logical_and(inside, error < 0.5 * before)
        middle = 0.5 * (low + high)
        # No further step can be told from rounding.
        settled = ops.abs(now.step) <= rounding * (1.0 + ops.abs(at))
        narrow = ops.logical_or(middle <= low, middle >= high)
        last = ops.logical_or(ops.logical_or(now.near, settled), narrow)
        moved = ops.where(ops.where(last, inside, sound), newton, ops.where(last, at, middle))
        return moved, low, high, ops.where(last, ops.zeros_like(error), error)

    start = ops.clip(start, low, high)
    state = (start, low + 0.0 * start, high + 0.0 * start, ops.full_like(start, float("inf")))
    steps = min(maximum, reduce.longest_search)
    point, *_ = reduce.iterate(step, state, steps, lambda *now: now[-1] != 0.0)
    return point
