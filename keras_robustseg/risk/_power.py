"""The balls that come down to one root: those of the Renyi divergences of any order.

    R_k(q || p) = log(sum p (q / p)^k) / (k (k - 1)) <= radius

The limits k = 1 and k = 0 are sum q log(q / p) and sum p log(p / q); k = 2, 1/2 and -1 are Pearson,
Hellinger and Neyman, whose radii are read in other units. With gaps g in [0, 1] the solution is
q = p w / S, w = (1 - (k - 1) x g)_+^{1 / (k - 1)}, S = sum p w, and R_k grows with the scale x > 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.risk._cvar import weights_on_top
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
    largest = weights_on_top(of)
    limit = _largest_radius(of, order)
    held = ops.clip(radius, epsilon(of.gaps) ** 2, 1e6)
    w, _, _ = _profile(of.gaps * _scale(of, order, held), order)
    q = of.probability * w
    q = q / ops.maximum(of.reduce.sum(q), tiny(q))
    q = ops.where(radius >= limit, largest, q)
    return ops.where(ops.logical_or(radius <= 0.0, of.spread <= 0.0), of.probability, q)


def _largest_radius(of: Rows, order: float) -> Any:
    """R_k of the base weights restricted to the greatest loss; no larger ball differs."""
    p = of.probability
    mass = of.reduce.sum(ops.where(ops.equal(of.gaps, 0.0), p, ops.zeros_like(p)))
    limit = -ops.log(ops.maximum(mass, tiny(p))) / max(order, 1e-3)
    return limit if order > 0 else ops.full_like(limit, float("inf"))


def _profile(y: Any, order: float) -> tuple[Any, Any, Any]:
    """w, w - 1 and dw / d(-y) at y = x g, none of them with cancellation for small y."""
    slope = order - 1.0
    if slope == 0.0:
        w = ops.exp(-y)
        return w, ops.expm1(-y), w
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


def _moments(of: Rows, order: float, x: Any) -> _Moments:
    g, p = of.gaps, of.probability
    w, lost, steep = _profile(g * x, order)
    pg = p * g
    terms = [p * w, pg * w, p * lost, p * steep, pg * steep, pg * g * steep]
    if order == 0.0:
        terms.append(p * ops.log1p(g * x))
    total, first, change, z, z1, z2, *logs = of.reduce.sums(terms)
    total = ops.maximum(total, tiny(total))
    gap = first / total
    # log S, and log(sum p w^k / S), each by its change from 1 while that is the exact one.
    log_total = ops.where(change > -0.5, ops.log1p(ops.maximum(change, -0.5)), ops.log(total))
    kept = ops.maximum(1.0 - (order - 1.0) * x * gap, tiny(total))
    if order == 1.0:
        divergence = -x * gap - log_total
    elif order == 0.0:
        divergence = logs[0] + log_total
    else:
        log_kept = ops.log1p(ops.maximum(-(order - 1.0) * x * gap, tiny(total) - 1.0))
        divergence = (log_kept - (order - 1.0) * log_total) / (order * (order - 1.0))
    variance = ops.maximum(z * z2 - z1 * z1, 0.0) / (total * total)
    noise = 4.0 * epsilon(g) * ops.minimum(x, 1.0)
    return _Moments(divergence, x * (x * (variance / kept)), noise)


def _start(of: Rows, order: float, radius: Any) -> Any:
    """log x at which the variance of q / p, to first order, fits the radius."""
    p, floor = of.probability, tiny(of.gaps)
    mean = of.reduce.sum(p * of.gaps)
    variance = of.reduce.sum(p * (of.gaps - mean) * (of.gaps - mean))
    x = ops.sqrt(2.0 * radius / ops.maximum(variance, floor))
    return ops.log(x) - ops.log(ops.maximum(1.0 + (order - 1.0) * mean * x, 0.1))


def _scale(of: Rows, order: float, radius: Any) -> Any:
    """The scale x (..., 1) with R_k = radius: Newton's method on log R_k as a function of log x."""
    start = _start(of, order, radius)
    low = ops.minimum(0.5 * ops.log(radius), start) - 8.0 - math.log1p(abs(order - 1.0))
    double = epsilon(radius) < 1e-10
    # From order 2 on the divergence has kinks, where a last step is no better than the one before.
    tolerance = 16.0 * epsilon(radius) if order >= 2 else 1e-7 if double else 1e-4
    held = ops.logical_or(of.spread <= 0.0, radius >= _largest_radius(of, order))
    floor = tiny(radius)

    def excess(at: Any) -> At:
        now = _moments(of, order, ops.exp(at))
        error = ops.log(ops.maximum(now.divergence, floor) / radius)
        near = ops.abs(now.divergence - radius) <= tolerance * radius + now.noise
        step = -error * now.divergence / ops.maximum(now.slope, floor)
        return At(error, step, ops.logical_or(near, held))

    high = ops.full_like(start, 80.0 if double else 40.0)
    return ops.exp(increasing_root(excess, start, low, high, reduce=of.reduce, maximum=_MAXIMUM))
