"""Worst cases under a phi-divergence: as a penalty of fixed weight, or as a ball.

divergence_penalty(losses, weights, divergence, weight, stance=) -> (value, q)
shape_ball_weights(rows, shape, radius) -> q
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_robustseg.risk._cvar import gap_at_risk, weights_on_top
from keras_robustseg.risk._profiles import SHAPES, Shape, capped_kl, capped_l2, from_conjugate
from keras_robustseg.risk._reduce import LOCAL, Local
from keras_robustseg.risk._root import At, increasing_root
from keras_robustseg.risk._rows import Rows, answer, epsilon, per_row, rows, signed, stanced, tiny

PENALTIES = (*SHAPES, "tv")


def divergence_penalty(
    losses: Any,
    weights: Any,
    divergence: str | Callable[[Any], Any],
    weight: Any,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the risk with a divergence penalty, and its worst-case weights.

    sup { <q, l> - weight D(q, p) : q << p, sum q = 1 }; see `divergence_ball` for the divergences.
    "kl" gives weight log sum p exp(l / weight); "tv" gives the mean of max(l, max l - weight).

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        divergence: a name other than "renyi", or the convex conjugate of phi (`from_conjugate`).
        weight: price of the divergence in units of the loss, positive; a number or (...,).
        stance: "optimistic" for the infimum of <q, l> + weight D(q, p).
        reduce: how sums go over the losses.

    Raises:
        ValueError: no such divergence.

    Example:
        `divergence_penalty(keras.ops.array([1.0, 2.0, 4.0]), None, "chi2", 2.0)`
    """
    check_penalty(divergence)
    of = rows(signed(losses, stance), weights, reduce)
    price = per_row(weight, of.gaps)
    if divergence == "tv":
        return stanced(_total_variation(of, price), stance)
    if divergence == "kl":
        return stanced(_entropic(of, price), stance)
    shape = from_conjugate(divergence) if callable(divergence) else SHAPES[divergence]
    return stanced(_penalised(of, shape, price), stance)


def check_penalty(divergence: Any) -> None:
    """Raise unless the divergence can be a penalty.

    Raises:
        ValueError: no such divergence; "renyi" is no sum over the losses, so only a ball.
    """
    if not callable(divergence) and divergence not in PENALTIES:
        raise ValueError(
            f"`divergence` must be one of {PENALTIES} or the convex conjugate of phi. "
            f"Received: divergence={divergence!r}"
        )


def smoothed_cvar(
    losses: Any,
    weights: Any,
    alpha: Any,
    smoothing: str,
    temperature: Any,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the CVaR with a penalty, and its worst-case weights.

    sup { <q, l> - temperature D(q, p) : 0 <= q <= p / alpha, sum q = 1 }, where D is
    sum q log(q / p) ("entropic") or 1/2 sum (q - p)^2 / p ("l2") (Levy et al., NeurIPS 2020).

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        alpha: tail mass in (0, 1], a number or (...,).
        smoothing: "entropic" or "l2".
        temperature: positive, in units of the loss, a number or (...,).
        stance: "optimistic" for the infimum with the penalty added.
        reduce: how sums go over the losses.

    Example:
        `smoothed_cvar(keras.ops.array([1.0, 2.0, 4.0]), None, 0.5, "l2", 0.1)`
    """
    of = rows(signed(losses, stance), weights, reduce)
    level = per_row(alpha, of.gaps)
    shape = (capped_kl if smoothing == "entropic" else capped_l2)(level)
    # Losses near the edge matter, and a low temperature magnifies the rounding of their gaps.
    edge = gap_at_risk(of, level)
    return stanced(_penalised(of, shape, per_row(temperature, of.gaps), edge), stance)


def _penalised(of: Rows, shape: Shape, price: Any, origin: Any = 0.0) -> tuple[Any, Any]:
    """(value, q) of sup <q, l> - price sum p phi(q / p); levels count from the gap `origin`."""
    y = (of.gaps - origin) * (of.spread / price)
    z = _level(of, shape, y)
    t = shape.ratio(z, y).ratio
    mass = of.reduce.sum(of.probability * t)
    charge = price * of.reduce.sum(of.probability * _known(of, shape.phi(t, z, y)))
    # Equal losses pay for nothing but rounding.
    charge = ops.where(of.spread > 0, charge, ops.zeros_like(charge))
    return answer(of, of.probability * t / mass, charge)


def shape_ball_weights(of: Rows, shape: Shape, radius: Any) -> Any:
    """Return the worst-case weights q (..., n) of the ball sum p phi(q / p) <= radius (..., 1).

    A root in the price, and inside of it a root that makes the mass 1.
    """
    p, floor = of.probability, tiny(of.gaps)
    held = ops.clip(radius, epsilon(of.gaps) ** 2, 1e6)
    mean = of.reduce.sum(p * of.gaps)
    variance = of.reduce.sum(p * ops.square(of.gaps - mean))
    scaled = held * per_row(shape.curvature, held)
    start = 0.5 * ops.log(2.0 * scaled / ops.maximum(variance, floor))
    low = ops.minimum(0.5 * ops.log(scaled), start) - 8.0
    high = ops.full_like(start, 80.0 if epsilon(held) < 1e-10 else 40.0)
    still = ops.logical_or(of.spread <= 0.0, radius <= 0.0)
    noise = 8.0 * epsilon(held)

    def excess(at: Any) -> At:
        scale = ops.exp(at)
        y = of.gaps * scale
        z = _level(of, shape, y)
        t, _, steep = shape.ratio(z, y)
        divergence, mass = p * _known(of, shape.phi(t, z, y)), p * steep
        terms = [divergence, mass, mass * of.gaps, mass * ops.square(of.gaps)]
        size, z0, z1, z2 = of.reduce.sums(terms)
        spread = ops.maximum(z2 - z1 * z1 / ops.maximum(z0, floor), 0.0)
        error = ops.log(ops.maximum(size, floor) / held)
        near = ops.abs(size - held) <= noise * (held + ops.minimum(scale, 1.0))
        step = -error * size / ops.maximum(scale * scale * spread, floor)
        return At(error, step, ops.logical_or(near, still))

    at = increasing_root(excess, start, low, high, reduce=of.reduce, maximum=80)
    y = of.gaps * ops.exp(at)
    q = p * shape.ratio(_level(of, shape, y), y).ratio
    return ops.where(still, p, q / ops.maximum(of.reduce.sum(q), floor))


def _level(of: Rows, shape: Shape, y: Any) -> Any:
    """The z (..., 1) at which the mass is 1."""
    p, noise = of.probability, 4.0 * epsilon(of.gaps)
    on_top = of.reduce.sum(ops.where(ops.equal(of.gaps, 0.0), p, ops.zeros_like(p)))
    mass = ops.where(of.empty, ops.ones_like(on_top), ops.minimum(on_top, 1.0))
    low = of.reduce.min(y)
    high = ops.maximum(shape.largest(of.reduce.max(y), mass), low)

    def excess(z: Any) -> At:
        t, to_z, _ = shape.ratio(z, y)
        total, slope = of.reduce.sums([p * t, p * to_z])
        total = ops.where(of.empty, ops.ones_like(total), total)
        # Above the domain of a conjugate the ratio is infinite, and 0 times it is NaN.
        total = ops.where(total >= 0, total, ops.full_like(total, float("inf")))
        error = ops.log(ops.maximum(total, tiny(total)))
        relative = slope / ops.maximum(total, tiny(total))
        near = ops.abs(error) <= noise * (1.0 + ops.abs(z) * relative)
        return At(error, -error / ops.maximum(relative, tiny(total)), near)

    start = ops.zeros_like(high)
    return increasing_root(excess, start, low, high, reduce=of.reduce, maximum=shape.maximum)


def _known(of: Rows, integrand: Any) -> Any:
    """The integrand, without what stands where no mass is."""
    return ops.where(of.probability > 0, integrand, ops.zeros_like(integrand))


def _entropic(of: Rows, price: Any) -> tuple[Any, Any]:
    y = of.gaps * (of.spread / price)
    falling = of.probability * ops.exp(-y)
    total, change = of.reduce.sums([falling, of.probability * ops.expm1(-y)])
    total = ops.maximum(total, tiny(total))
    log_total = ops.where(change > -0.5, ops.log1p(ops.maximum(change, -0.5)), ops.log(total))
    q = falling / total
    # The risk is top + price log sum p exp(-y); the charge is what <q, l> has above it.
    return answer(of, q, -of.spread * of.reduce.sum(q * of.gaps) - price * log_total)


def _total_variation(of: Rows, price: Any) -> tuple[Any, Any]:
    """Losses that are more than the price below the greatest give it their mass."""
    p = of.probability
    kept = ops.where(of.gaps * of.spread <= price, p, ops.zeros_like(p))
    moved = of.reduce.sum(p - kept)
    return answer(of, kept + moved * weights_on_top(of), price * moved)
