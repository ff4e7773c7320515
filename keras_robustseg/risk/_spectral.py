"""Measures of rank and of transport: spectral risks and Wasserstein balls over samples."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.risk._reduce import LOCAL
from keras_robustseg.risk._rows import Rows, answer, per_row, rows, signed, stanced, tiny


def spectral_risk(
    losses: Any, weights: Any, spectrum: Any, *, stance: str = "pessimistic"
) -> tuple[Any, Any]:
    """Return the spectral risk, the mean of the quantiles under a spectrum, and its weights.

    integral over u in (0, 1) of phi(u) F^-1(u) (Acerbi, J. Banking and Finance 2002), where phi is
    constant on m equal parts and has the mass `spectrum[j]` on part j. With n = m losses of equal
    weight that is sum_j spectrum[j] l_(j), the losses in rising order. Losses that are equal share
    their mass in proportion to their weights.

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        spectrum: (m,) not negative, not decreasing, with sum 1.
        stance: "optimistic" for the risk that puts the most mass on the least losses.

    Example:
        `spectral_risk(keras.ops.array([3.0, 1.0]), None, [0.25, 0.75])  # 2.5, [0.75, 0.25]`
    """
    of = rows(signed(losses, stance), weights)
    # Greatest gap first: the losses in rising order.
    order = ops.argsort(-of.gaps, axis=-1)
    gaps = ops.take_along_axis(of.gaps, order, axis=-1)
    mass = ops.take_along_axis(of.probability, order, axis=-1)
    end = ops.minimum(ops.cumsum(mass, axis=-1)[..., :-1], 1.0)
    outer = ops.ones_like(mass[..., :1])
    end = ops.concatenate([ops.zeros_like(outer), end, outer], axis=-1)
    levels = _cumulative(spectrum, end)
    q = _shared_in_runs(levels[..., 1:] - levels[..., :-1], mass, gaps)
    q = ops.take_along_axis(q, ops.argsort(order, axis=-1), axis=-1)
    return stanced(answer(of, q / ops.maximum(ops.sum(q, -1, keepdims=True), tiny(q))), stance)


def _shared_in_runs(q: Any, mass: Any, gaps: Any) -> Any:
    """Share q (..., n) among equal gaps, which follow each other, in proportion to their mass."""
    new = ops.not_equal(gaps[..., 1:], gaps[..., :-1])
    new = ops.concatenate([ops.ones_like(gaps[..., :1], dtype="bool"), new], axis=-1)
    # Each row begins a new run, so that one numbering serves all rows.
    run = ops.cumsum(ops.cast(ops.reshape(new, (-1,)), "int32")) - 1
    sums = [
        ops.segment_sum(ops.reshape(x, (-1,)), run, num_segments=ops.size(q)) for x in (q, mass)
    ]
    density = ops.take(sums[0] / ops.maximum(sums[1], tiny(q)), run)
    return mass * ops.reshape(density, ops.shape(mass))


def _cumulative(spectrum: Any, at: Any) -> Any:
    """Mass of the spectrum up to u."""
    mass = per_row_values(spectrum, at)
    size = int(mass.shape[0])
    sums = ops.concatenate([ops.zeros_like(mass[:1]), ops.cumsum(mass)])
    place = at * size
    cell = ops.clip(ops.floor(place), 0, size - 1)
    index = ops.cast(cell, "int32")
    return ops.take(sums, index) + (place - cell) * ops.take(mass, index)


def per_row_values(values: Any, like: Any) -> Any:
    """Return a constant array in the type of `like`, without a detour by float32."""
    if hasattr(values, "dtype"):
        return ops.stop_gradient(ops.cast(values, like.dtype))
    return ops.convert_to_tensor(values, dtype=like.dtype)


def wasserstein_ball(
    losses: Any, weights: Any, cost: Any, radius: Any, *, stance: str = "pessimistic"
) -> tuple[Any, Any]:
    """Return the risk of a Wasserstein ball over the samples, and its weights.

    sup { sum_ij pi_ij l_j : pi >= 0, sum_j pi_ij = p_i, sum_ij pi_ij c_ij <= radius }
        = min_{lam >= 0} lam radius + sum_i p_i max_j (l_j - lam c_ij)
    (Esfahani and Kuhn, Math. Programming 2018, on a finite support). One root in lam, by halving;
    the plans on both sides of it are mixed so that the whole radius is spent. Takes n^2 memory.

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None. Losses of weight 0 give no mass and get none.
        cost: (n, n), cost[i, j] of moving mass from i to j; infinite where that is forbidden.
        radius: a number or (...,).
        stance: "optimistic" for the infimum.

    Example:
        `wasserstein_ball(keras.ops.array([1.0, 2.0]), None, [[0.0, 1.0], [1.0, 0.0]], 0.1)`
    """
    of = rows(signed(losses, stance), weights)
    price = per_row_values(cost, of.gaps)
    budget = per_row(radius, of.gaps)
    low, high = _plans_around(of, price, budget)
    share = (budget - high[1]) / ops.maximum(low[1] - high[1], tiny(of.gaps))
    share = ops.where(low[1] <= budget, ops.ones_like(share), ops.clip(share, 0.0, 1.0))
    return stanced(answer(of, share * low[0] + (1.0 - share) * high[0]), stance)


def _plans_around(of: Rows, cost: Any, budget: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """(q, cost) of the best plans at the two neighbouring multipliers around the budget."""
    double = keras.backend.standardize_dtype(of.gaps.dtype) == "float64"
    integer, real = ("int64", "float64") if double else ("int32", "float32")

    def halve(low: Any, high: Any) -> tuple[Any, Any]:
        middle = low + (high - low) // 2
        dear = _plan(of, cost, ops.view(middle, real))[1] > budget
        return ops.where(dear, middle, low), ops.where(dear, high, middle)

    least = ops.full_like(of.spread, tiny(of.gaps))
    ends = [ops.view(least, integer), ops.view(1.0 / least, integer)]
    low, high = LOCAL.iterate(
        halve, tuple(ends), 63 if double else 31, lambda low, high: high - low > 1
    )
    return _plan(of, cost, ops.view(low, real)), _plan(of, cost, ops.view(high, real))


def _plan(of: Rows, cost: Any, multiplier: Any) -> tuple[Any, Any]:
    """Where the mass goes (..., n) at a multiplier (..., 1), and what that costs (..., 1)."""
    # Gaps, not losses: of two places with the greatest loss the cheaper one is taken, exactly.
    paid = ops.expand_dims(multiplier, -1) * cost + ops.expand_dims(of.gaps, -2)
    if of.counted is not None:
        forbidden = ops.full_like(paid, float("inf"))
        paid = ops.where(ops.expand_dims(of.counted, -2), paid, forbidden)
    chosen = ops.argmin(paid, axis=-1)
    hit = ops.one_hot(chosen, int(cost.shape[-1]), dtype=of.gaps.dtype)
    spent = ops.sum(hit * ops.where(hit > 0, cost, ops.zeros_like(paid)), axis=-1)
    q = ops.einsum("...i,...ij->...j", of.probability, hit)
    return q, ops.sum(of.probability * spent, axis=-1, keepdims=True)
