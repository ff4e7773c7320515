"""Losses made ready for a kernel, and its answer made into a value with a gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_robustseg.risk._reduce import LOCAL, Local

_INFINITY = float("inf")


class Rows(NamedTuple):
    """Rows of losses over the last axis; statistics keep that axis with size 1.

    Attributes:
        losses: (..., n) as given, 0 where they do not count; the gradient goes through these.
        share: (..., n) base weights as given. Whole numbers add up without rounding: sums over
            many losses are best taken of these.
        total: (..., 1) their sum, or 1.
        probability: (..., n) base weights over their sum.
        gaps: (..., n) (top - losses) / spread in [0, 1]; 0 where they do not count.
        counted: bool (..., n), or None where all count.
        top: (..., 1) greatest loss.
        spread: (..., 1) greatest loss less least loss.
        mean: (..., 1) expectation.
        broken: bool (..., 1), a counted loss is NaN or infinite.
        empty: bool (..., 1), no loss counts.
        reduce: how sums go over the losses.
    """

    losses: Any
    share: Any
    total: Any
    probability: Any
    gaps: Any
    counted: Any
    top: Any
    spread: Any
    mean: Any
    broken: Any
    empty: Any
    reduce: Local


def as_float(x: Any) -> Any:
    """Return a tensor of the precision that is computed in: float64, or else float32."""
    if not hasattr(x, "dtype"):
        x = ops.convert_to_tensor(x, dtype="float32")
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.cast(x, "float32")
    return ops.convert_to_tensor(x)


def per_row(parameter: Any, like: Any) -> Any:
    """Return a parameter, a number or one for each row, as a tensor (..., 1).

    Example:
        `per_row([0.1, 0.2], losses)  # losses of shape (2, n)`
    """
    if hasattr(parameter, "dtype"):
        tensor = ops.cast(parameter, like.dtype)
    else:  # a number: it must not pass through float32 on its way to float64
        tensor = ops.convert_to_tensor(parameter, dtype=like.dtype)
    return ops.stop_gradient(ops.expand_dims(tensor, -1) if len(tensor.shape) else tensor)


def tiny(like: Any) -> float:
    """Return a floor that is no denormal number: a flushed one would make 0 log 0 a NaN."""
    return 1e-300 if keras.backend.standardize_dtype(like.dtype) == "float64" else 1e-37


def epsilon(like: Any) -> float:
    """Return the relative rounding error of the type of `like`."""
    double = keras.backend.standardize_dtype(like.dtype) == "float64"
    return float(np.finfo("float64" if double else "float32").eps)


def rows(losses: Any, weights: Any = None, reduce: Local = LOCAL) -> Rows:
    """Return the rows of `losses` (..., n) under base weights of the same shape.

    Args:
        losses: (..., n); where the weight is 0 they may hold anything.
        weights: (..., n) not negative, of any scale, or None for 1. A negative or NaN weight makes
            its row broken.
        reduce: how sums go over the losses.

    Example:
        `rows(keras.ops.array([[1.0, 2.0, 4.0]])).mean  # 7 / 3`
    """
    losses = as_float(losses)
    counted = None
    if weights is None:
        share = ops.ones_like(losses)
    else:
        losses, share, counted = counted_losses(losses, weights)
    total = reduce.sum(share)
    empty = ops.equal(total, 0.0)
    total = ops.where(empty, ops.ones_like(total), total)
    return _with_statistics(losses, share, total, counted, empty, reduce)


def counted_losses(losses: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Return the losses, 0 where the weight is, the weights, NaN where negative, and which count.

    Example:
        `counted_losses(keras.ops.array([1.0, 2.0]), keras.ops.array([0.0, 1.0]))  # [0, 2], ...`
    """
    share = ops.cast(ops.stop_gradient(ops.convert_to_tensor(weights)), losses.dtype)
    counted = ops.not_equal(share, 0.0)
    share = ops.where(share < 0, ops.cast(float("nan"), losses.dtype), share)
    return ops.where(counted, losses, ops.zeros_like(losses)), share, counted


def _with_statistics(
    losses: Any, share: Any, total: Any, counted: Any, empty: Any, reduce: Local
) -> Rows:
    fixed = ops.stop_gradient(losses)
    probability = share / total
    mean = reduce.sum(probability * fixed)
    # A maximum may pass over a NaN; a sum cannot.
    broken = ops.logical_not(ops.isfinite(mean))
    high, low = fixed, fixed
    if counted is not None:
        high = ops.where(counted, fixed, ops.full_like(fixed, -_INFINITY))
        low = ops.where(counted, fixed, ops.full_like(fixed, _INFINITY))
    top, bottom = reduce.max(high), reduce.min(low)
    without = ops.logical_or(empty, broken)
    top = ops.where(without, ops.zeros_like(top), top)
    spread = ops.where(without, ops.zeros_like(top), top - bottom)
    gaps = (top - fixed) / ops.where(spread > 0, spread, ops.ones_like(spread))
    if counted is not None:
        gaps = ops.where(counted, gaps, ops.zeros_like(gaps))
    return Rows(
        losses, share, total, probability, gaps, counted, top, spread, mean, broken, empty, reduce
    )


def answer(of: Rows, q: Any, charge: Any = 0.0) -> tuple[Any, Any]:
    """Return (value (...,), q (..., n)) of worst-case weights q: <q, l> - charge.

    The gradient of the value to the losses is q (Danskin's theorem), nothing flows through q.
    Rows with a NaN or infinite loss have their mean, which is NaN or infinite, and NaN weights;
    rows where nothing counts have value 0 and weights 0.

    Args:
        of: the rows.
        q: (..., n) worst-case weights.
        charge: (..., 1) what the objective takes off, in units of the loss.
    """
    ones = ops.ones_like(of.top)
    q = q * ops.where(of.broken, ones * float("nan"), ones)
    if of.counted is not None:
        q = ops.where(of.counted, q, ops.zeros_like(q))
    q = ops.stop_gradient(q)
    # Not <q, l>: that would round at the scale of the losses, not of their spread.
    value = of.top - of.spread * of.reduce.sum(q * of.gaps) - charge
    value = ops.where(of.broken, of.mean, value)
    value = ops.stop_gradient(ops.where(of.empty, ops.zeros_like(value), value))
    return with_gradient(of.losses, ops.squeeze(value, axis=-1), q), q


@ops.custom_gradient
def with_gradient(losses: Any, value: Any, q: Any) -> Any:
    """Return the value (...,) with gradient q (..., n) to the losses.

    Example:
        `with_gradient(losses, keras.ops.max(losses, -1), q)`
    """
    del losses

    def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any, Any]:
        upstream = arguments[0] if upstream is None else upstream
        return q * ops.expand_dims(upstream, -1), ops.zeros_like(value), ops.zeros_like(q)

    return value, gradient


def signed(losses: Any, stance: str) -> Any:
    """Return the losses, negated for the optimistic stance: its risk is -risk(-losses).

    Raises:
        ValueError: the stance is neither "pessimistic" nor "optimistic".
    """
    check_stance(stance)
    losses = as_float(losses)
    return losses if stance == "pessimistic" else -losses


def check_stance(stance: str) -> None:
    """Raise unless the stance is one of the two.

    Raises:
        ValueError: the stance is neither "pessimistic" nor "optimistic".
    """
    if stance not in ("pessimistic", "optimistic"):
        raise ValueError(
            f'`stance` must be "pessimistic" or "optimistic". Received: stance={stance!r}'
        )


def stanced(result: tuple[Any, Any], stance: str) -> tuple[Any, Any]:
    """Undo `signed` on (value, q)."""
    value, q = result
    return (value if stance == "pessimistic" else -value), q
