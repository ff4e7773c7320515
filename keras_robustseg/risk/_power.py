"""The balls that come down to one root: those of the Renyi divergences of any order.

    R_k(q || p) = log(sum p (q / p)^k) / (k (k - 1)) <= radius

The limits k = 1 and k = 0 are sum q log(q / p) and sum p log(p / q); k = 2, 1/2 and -1 are Pearson,
Hellinger and Neyman, whose radii are read in other units. With gaps g in [0, 1] the solution is
q = p w / S, w = (1 - (k - 1) x g)_+^{1 / (k - 1)}, S = sum p w, and R_k grows with the scale x > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.risk._edge import edge_weights
from keras_robustseg.risk._root import At, increasing_root
from keras_robustseg.risk._rows import Rows, epsilon, tiny

_MAXIMUM = 60


class _Moments(NamedTuple):
    """R_k at a scale x, its derivative to log x, and its rounding error."""

    divergence: Any
    slope: Any
    noise: Any


def power_ball_weights(of: Rows, order: float, radius: Any) -> Any:
    """Return the worst-case weights q (..., n) of the ball R_order(q || p) <= radius (..., 1)."""
    radius = ops.maximum(radius, 0.0)
    full = radius >= _largest_radius(of, order)
    none = ops.logical_or(radius <= 0.0, of.spread <= 0.0)
    held = ops.clip(radius, epsilon(of.gaps) ** 2, 1e6)
    x = _scale(of, order, held, ops.logical_or(full, none))
    # The scale at which all is on the greatest loss, and the one at which nothing is moved.
    x = ops.where(full, math.exp(_highest(of)) * ops.ones_like(x), x)
    w, _, _ = _profile(of.gaps * ops.where(none, ops.zeros_like(x), x), order)
    q = of.share * w
    q = q / ops.maximum(of.reduce.sum(q), tiny(q))
    if order <= 1.0:
        return q
    edge = 1.0 / ((order - 1.0) * x)
    # Where few losses keep mass, rounding of the edge is no longer small beside what they keep.
    kept = of.reduce.sum(of.share * w) / of.total
    delicate = ops.logical_and(edge < 2.0, kept < 1e5 * epsilon(x) ** min(1.0, 1.0 / (order - 1.0)))
    delicate = ops.logical_and(delicate, ops.logical_not(ops.logical_or(full, none)))

    def refine(q: Any) -> tuple[Any]:
        refined = edge_weights(of, order, held, edge, ops.logical_not(delicate))
        return (ops.where(delicate, refined, q),)

    return of.reduce.iterate(refine, (q,), 1, lambda _: delicate)[0]


def _highest(of: Rows) -> float:
    """Greatest log x that is looked at."""
    return 80.0 if epsilon(of.gaps) < 1e-10 else 40.0


def _largest_radius(of: Rows, order: float) -> Any:
    """R_k of the base weights restricted to the greatest loss; no larger ball differs."""
    if order <= 0:
        return ops.full_like(of.total, float("inf"))
    on_top = ops.where(ops.equal(of.gaps, 0.0), of.share, ops.zeros_like(of.share))
    return ops.log(of.total / ops.maximum(of.reduce.sum(on_top), tiny(of.gaps))) / order


def _profile(y: Any, order: float) -> tuple[Any, Any, Any]:
    """w, w - 1 and dw / d(-y) at y = x g, none of them with cancellation for small y."""
    slope = order - 1.0
    if slope == 0.0:
        w = ops.exp(-y)
        # exp(-y) - 1, which costs thrice as much by itself.
        return w, -(1.0 + w) * ops.tanh(0.5 * y), w
    if slope == 1.0:
        w = ops.maximum(1.0 - y, 0.0)
        return w, -ops.minimum(y, 1.0), ops.cast(y < 1.0, y.dtype)
    if slope == -1.0:
        w = 1.0 / (1.0 + y)
        return w, -y * w, w * w
    if slope == -0.5:
        root = 1.0 / (1.0 + 0.5 * y)
        return root * root, -y * (1.0 + 0.25 * y) * root * root, root * root * root
    log_u = ops.log1p(ops.maximum(-slope * y, tiny(y) - 1.0))
    inside = slope * y < 1.0
    w = ops.where(inside, ops.exp(log_u / slope), ops.zeros_like(y))
    lost = ops.where(inside, ops.expm1(log_u / slope), -ops.ones_like(y))
    steep = ops.exp(log_u * ((1.0 - slope) / slope))
    return w, lost, ops.where(inside, steep, ops.zeros_like(y))


def _moments(of: Rows, order: float, x: Any, powers: Sequence[Any], mean: Any) -> _Moments:
    if order == 2.0:
        return _quadratic_moments(of, x, mean)
    total, gap, change, varied, logs = _sums(of, order, x, powers)
    # log S, and log(sum p w^k / S), each by its change from 1 while that is the exact one.
    log_total = ops.where(change > -0.5, ops.log1p(ops.maximum(change, -0.5)), ops.log(total))
    lost = ops.maximum(-(order - 1.0) * x * gap, tiny(total) - 1.0)
    if order == 1.0:
        divergence = -x * gap - log_total
    elif order == 0.0:
        divergence = logs + log_total
    else:
        divergence = (ops.log1p(lost) - (order - 1.0) * log_total) / (order * (order - 1.0))
    variance = ops.maximum(varied, 0.0) / (total * total)
    kept = ops.maximum(1.0 + lost, tiny(total))
    noise = 4.0 * epsilon(total) * ops.minimum(x, 1.0)
    return _Moments(divergence, x * (x * (variance / kept)), noise)


def _quadratic_moments(of: Rows, x: Any, mean: Any) -> _Moments:
    """The same for order 2, whose w = 1 - min(x g, 1) is linear as far as it goes.

    1 + D = E w^2 / (E w)^2, so D is the variance of w over (E w)^2. It is that of min(x g, 1) too,
    taken here about x E g, or about 1 where most losses have no mass; neither cancels.
    """
    middle = ops.minimum(x * mean, 1.0)
    y = of.gaps * x
    u = ops.minimum(y, 1.0) - middle
    first = of.share * u
    lost = ops.where(y < 1.0, ops.zeros_like(y), of.share)
    s1, s2, out = (s / of.total for s in of.reduce.sums([first, first * u, lost]))
    total = ops.maximum((1.0 - middle) - s1, tiny(x))
    chi2 = ops.maximum(s2 - s1 * s1, 0.0) / (total * total)
    slope = ops.maximum(chi2 / (1.0 + chi2) - out, 0.0) / total
    return _Moments(0.5 * ops.log1p(chi2), slope, 4.0 * epsilon(total) * ops.minimum(x, 1.0))


def _sums(of: Rows, order: float, x: Any, powers: Sequence[Any]) -> tuple[Any, ...]:
    """S, the mean gap under q, S - 1, z z2 - z1^2 of the moments z of the slope, sum p log u."""
    p, pg, pgg = powers
    w, lost, steep = _profile(of.gaps * x, order)
    # Sums of w itself: made of moments of the losses, they cancel where few keep a weight.
    terms = [p * w, pg * w, p * lost, pgg * steep]
    if order != 1.0:  # where the slope is not w itself
        terms += [p * steep, pg * steep]
    if order == 0.0:
        terms.append(p * ops.log1p(of.gaps * x))
    total, first, change, z2, *more = (s / of.total for s in of.reduce.sums(terms))
    total = ops.maximum(total, tiny(total))
    z, z1 = more[:2] if order != 1.0 else (total, first)
    return total, first / total, change, z * z2 - z1 * z1, more[-1] if more else 0.0


def _start(order: float, radius: Any, mean: Any, variance: Any) -> Any:
    """log x at which the variance of q / p, to first order, fits the radius."""
    x = ops.sqrt(2.0 * radius / ops.maximum(variance, tiny(radius)))
    return ops.log(x) - ops.log(ops.maximum(1.0 + (order - 1.0) * mean * x, 0.1))


def _greatest_scale(of: Rows, order: float) -> Any:
    """A log x (..., 1) from which on all is on the greatest loss, but for rounding."""
    highest = ops.full_like(of.spread, _highest(of))
    if order <= 0.0:
        return highest
    present = ops.logical_and(of.gaps > 0.0, of.share > 0.0)
    nearest = of.reduce.min(ops.where(present, of.gaps, ops.ones_like(of.gaps)))
    # What the others keep, in parts of the greatest, is at most w at the nearest over its mass.
    lost = order * _largest_radius(of, order) - math.log(epsilon(of.gaps))
    if order == 1.0:
        reach = ops.log(lost)
    elif order < 1.0:
        reach = (1.0 - order) * lost - math.log(1.0 - order)
    else:
        reach = -math.log(order - 1.0)
    return ops.minimum(highest, reach - ops.log(ops.maximum(nearest, tiny(nearest))))


def _scale(of: Rows, order: float, radius: Any, held: Any) -> Any:
    """The scale x (..., 1) with R_k = radius: Newton's method in log x.

    On log R_k, and less log(largest - R_k): as a function of log x it bends where R_k levels off.
    Rows that are `held` need none.
    """
    mean = of.reduce.sum(of.share * of.gaps) / of.total
    variance = of.reduce.sum(of.share * ops.square(of.gaps - mean)) / of.total
    first = of.share * of.gaps
    powers = (of.share, first, first * of.gaps)
    start = _start(order, radius, mean, variance)
    low = ops.minimum(0.5 * ops.log(radius), start) - 8.0 - math.log1p(abs(order - 1.0))
    # From order 2 on the divergence has kinks, where a last step is no better than the one before.
    loose, tight = (1e-7, 1e-14) if epsilon(radius) < 1e-10 else (1e-4, 2e-6)
    tolerance = tight if order >= 2 else loose
    floor = tiny(radius)

    def excess(at: Any) -> At:
        now = _moments(of, order, ops.exp(at), powers, mean)
        rest = ops.maximum(largest - now.divergence, least)
        level = now.divergence * (ops.maximum(largest - radius, least) / rest)
        error = ops.log(ops.maximum(level, floor) / radius)
        near = ops.abs(now.divergence - radius) <= tolerance * radius + now.noise
        # Rounding may leave nothing of a small divergence, and then no step either.
        size = ops.maximum(now.divergence, now.noise)
        step = -error * size * (rest / (rest + size)) / ops.maximum(now.slope, floor)
        return At(error, step, ops.logical_or(near, held))

    largest = ops.minimum(_largest_radius(of, order), 1e9)
    least = epsilon(radius) * largest
    high = ops.maximum(_greatest_scale(of, order), low)
    return ops.exp(increasing_root(excess, start, low, high, reduce=of.reduce, maximum=_MAXIMUM))
