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
from keras_robustseg.risk._rows import Rows, answer, per_row, rows, signed, stanced, tiny


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
    of = rows(signed(losses, stance), weights, reduce)
    return stanced(answer(of, tail_weights(of, per_row(alpha, of.gaps))), stance)


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
    gaps, p = of.gaps, of.probability
    edge = gap_at_risk(of, ops.maximum(alpha, tiny(gaps)))
    beyond = ops.where(gaps < edge, p, ops.zeros_like(p))
    atom = ops.where(ops.equal(gaps, edge), p, ops.zeros_like(p))
    above, on_edge = of.reduce.sums([beyond, atom])
    level = ops.where(alpha > 0, alpha, ops.ones_like(alpha))
    left = ops.maximum(1.0 - above / level, 0.0)
    return beyond / level + atom * (left / ops.maximum(on_edge, tiny(p)))


def gap_at_risk(of: Rows, alpha: Any) -> Any:
    """Least gap v (..., 1) such that the losses with gaps up to v have mass alpha or more."""
    # Floats that are not negative are ordered as the integers with the same bits, so halving the
    # integers ends at the very float: 30 steps for float32, 62 for float64.
    double = keras.backend.standardize_dtype(of.gaps.dtype) == "float64"
    integer, real = ("int64", "float64") if double else ("int32", "float32")

    def halve(low: Any, high: Any) -> tuple[Any, Any]:
        middle = low + (high - low) // 2
        inside = of.gaps <= ops.view(middle, real)
        mass = of.reduce.sum(ops.where(inside, of.probability, ops.zeros_like(of.gaps)))
        enough = mass >= alpha
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    high = ops.view(ops.ones_like(of.spread), integer)
    state = (ops.zeros_like(high), high)
    maximum = 62 if double else 30
    _, edge = of.reduce.iterate(halve, state, maximum, lambda low, high: low < high)
    return ops.view(edge, real)
