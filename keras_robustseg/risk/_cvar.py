"""Conditional value at risk, exact with weights, ties and fractional mass, without a sort.

    cvar(losses, weights, alpha) -> (value, q)              over the last axis
    worst_case(losses, weights) -> (value, q)
    total_variation_ball(losses, weights, radius) -> (value, q)

All take `stance="pessimistic" | "optimistic"` and `reduce`, and any leading axes.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.risk._reduce import LOCAL, Local
from keras_robustseg.risk._rows import (
    Rows,
    answer,
    counted_losses,
    per_row,
    rows,
    signed,
    stanced,
    tiny,
    with_gradient,
)
from keras_robustseg.risk._tail import MANY, tail_edge


def cvar(
    losses: Any,
    weights: Any,
    alpha: Any,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the conditional value at risk and its worst-case weights.

    sup { <q, l> : 0 <= q <= p / alpha, sum q = 1 }, the mean of the worst share alpha of the mass
    (Rockafellar and Uryasev, J. of Risk 2000). The loss at the edge counts with the part of its
    mass that is left; losses equal to it share that part in proportion to p.

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        alpha: tail mass, a number or (...,): 1 gives the mean, 0 the maximum.
        stance: "optimistic" for the mean of the best share alpha.
        reduce: how sums go over the losses.

    Returns:
        Value (...,), with gradient q; q (..., n).

    Example:
        `cvar(keras.ops.array([1.0, 2.0, 4.0]), None, 0.5)  # 10/3, [0, 1/3, 2/3]`
    """
    losses = signed(losses, stance)
    if type(reduce) is Local and (losses.shape[-1] or 0) >= MANY:
        return stanced(_cvar_of_many(losses, weights, alpha), stance)
    of = rows(losses, weights, reduce)
    return stanced(answer(of, tail_weights(of, per_row(alpha, of.gaps))), stance)


def _cvar_of_many(losses: Any, weights: Any, alpha: Any) -> tuple[Any, Any]:
    """The same with as few passes over the losses as possible."""
    share, counted = None, None
    if weights is not None:
        losses, share, counted = counted_losses(losses, weights)
    fixed = ops.stop_gradient(losses)
    total = LOCAL.sum(share) if share is not None else ops.cast(losses.shape[-1], losses.dtype)
    empty = ops.equal(total, 0.0)
    total = ops.where(empty, ops.ones_like(total), total)
    # A comparison passes over a NaN; a sum cannot.
    mean = LOCAL.sum(fixed if share is None else fixed * share) / total
    alpha = per_row(alpha, losses)
    target = ops.maximum(alpha * total, tiny(losses)) + ops.zeros_like(mean)
    edge, above, atom = tail_edge(fixed, share, target, total)
    level = ops.where(alpha > 0, alpha, ops.ones_like(alpha)) * total
    left = ops.maximum(1.0 - above / level, 0.0) / ops.maximum(atom, tiny(losses))
    broken = ops.logical_not(ops.isfinite(mean))
    unknown = ops.where(broken, ops.full_like(mean, float("nan")), ops.ones_like(mean))
    q = ops.where(
        fixed > edge, unknown / level, ops.where(fixed < edge, 0.0 * unknown, unknown * left)
    )
    excess = ops.maximum(fixed - edge, 0.0)
    if share is not None:
        q, excess = ops.where(counted, share * q, ops.zeros_like(q)), share * excess
    value = edge + LOCAL.sum(excess) / level
    value = ops.where(empty, ops.zeros_like(value), ops.where(broken, mean, value))
    value, q = ops.stop_gradient(ops.squeeze(value, axis=-1)), ops.stop_gradient(q)
    return with_gradient(losses, value, q), q


def worst_case(
    losses: Any, weights: Any, *, stance: str = "pessimistic", reduce: Local = LOCAL
) -> tuple[Any, Any]:
    """Return the greatest counted loss, and base weights restricted to where it is reached.

    Example:
        `worst_case(keras.ops.array([1.0, 4.0, 4.0]), None)  # 4, [0, 1/2, 1/2]`
    """
    of = rows(signed(losses, stance), weights, reduce)
    return stanced(answer(of, weights_on_top(of)), stance)


def total_variation_ball(
    losses: Any,
    weights: Any,
    radius: Any,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the risk of the ball 1/2 sum |q - p| <= radius, q << p, and its weights.

    radius max l + (1 - radius) CVaR_{1 - radius}(l): the least losses give up mass `radius`, which
    goes to the greatest.

    Example:
        `total_variation_ball(keras.ops.array([1.0, 2.0, 4.0]), None, 0.1)`
    """
    of = rows(signed(losses, stance), weights, reduce)
    moved = ops.clip(per_row(radius, of.gaps), 0.0, 1.0)
    q = moved * weights_on_top(of) + (1.0 - moved) * tail_weights(of, 1.0 - moved)
    return stanced(answer(of, q), stance)


def weights_on_top(of: Rows) -> Any:
    """Base weights restricted to the greatest loss, (..., n)."""
    chosen = ops.where(ops.equal(of.gaps, 0.0), of.probability, ops.zeros_like(of.gaps))
    return chosen / ops.maximum(of.reduce.sum(chosen), tiny(of.gaps))


def tail_weights(of: Rows, alpha: Any) -> Any:
    """Weights (..., n) of the conditional value at risk at level alpha (..., 1)."""
    gaps, share = of.gaps, of.share
    edge = gap_at_risk(of, alpha)
    beyond = ops.where(gaps < edge, share, ops.zeros_like(share))
    atom = ops.where(ops.equal(gaps, edge), share, ops.zeros_like(share))
    above, on_edge = of.reduce.sums([beyond, atom])
    level = ops.where(alpha > 0, alpha, ops.ones_like(alpha)) * of.total
    left = ops.maximum(1.0 - above / level, 0.0)
    return beyond / level + atom * (left / ops.maximum(on_edge, tiny(share)))


def gap_at_risk(of: Rows, alpha: Any) -> Any:
    """Least gap v (..., 1) such that the losses with gaps up to v have mass alpha or more."""
    target = ops.maximum(alpha * of.total, tiny(of.gaps))
    if type(of.reduce) is Local and (of.gaps.shape[-1] or 0) >= MANY:
        target = target + ops.zeros_like(of.total)
        return -tail_edge(-of.gaps, of.share, target, of.total).edge
    return _halved(of.gaps, of.share, target, of.reduce)


def _halved(gaps: Any, share: Any, target: Any, reduce: Local) -> Any:
    """Least v (..., 1) in [0, 1] whose gaps up to v have the target mass; else 1."""
    # Floats that are not negative are ordered as the integers with the same bits, so halving the
    # integers ends at the very float: 30 steps at most for float32, 62 for float64.
    double = keras.backend.standardize_dtype(gaps.dtype) == "float64"
    integer, real = ("int64", "float64") if double else ("int32", "float32")
    nothing, low = ops.zeros_like(share), ops.zeros_like(target)

    def halve(low: Any, high: Any) -> tuple[Any, Any]:
        middle = low + (high - low) // 2
        inside = gaps <= ops.view(middle, real)
        enough = reduce.sum(ops.where(inside, share, nothing)) >= target
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    state = (ops.view(low, integer), ops.view(ops.ones_like(low), integer))
    maximum = 62 if double else 30
    _, edge = reduce.iterate(halve, state, maximum, lambda low, high: low < high)
    return ops.view(edge, real)
