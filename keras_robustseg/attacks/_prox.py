"""Proximal operators of lambda norm(p) on a box, in a diagonal metric, image by image."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

# The radius is found to 2^-26 and 2^-60 of the largest value.
_BISECTIONS = {"float32": 26, "float64": 60}
# Where the published search ends.
_SEARCHED = 1e-6


def prox_linf(delta: Any, scale: Any, metric: Any, lower: Any, upper: Any) -> Any:
    """Return argmin over l <= p <= u of  1/2 sum h (p - delta)^2 + scale max abs(p).

    With the radius t of the solution, p = clip(clip(delta, l, u), -t, t), and t is where

        G(t) = sum over abs(q) > t of h (abs(delta) - t),   q = clip(delta, l, u)

    falls to `scale`, 0 if it begins below. A bisection on G, the derivative, finds t to the
    precision of the numbers; one on the objective would find half of its digits.

    Args:
        delta: (B, n).
        scale: (B, 1), >= 0.
        metric: h > 0, (B, n).
        lower: l <= 0, (B, n).
        upper: u >= 0, (B, n).

    Returns:
        (B, n).
    """
    inside = tf.clip_by_value(delta, lower, upper)
    size, pull = tf.abs(inside), metric * tf.abs(delta)
    high = tf.reduce_max(size, -1, keepdims=True)
    radius = _radius(size, pull, metric, scale, high)
    return tf.clip_by_value(inside, -radius, radius)


def _radius(size: Any, pull: Any, metric: Any, scale: Any, high: Any) -> Any:
    """Bisect for the t at which G falls to `scale`."""

    def halve(i: Any, low: Any, high: Any) -> tuple:
        middle = (low + high) / 2
        excess = tf.where(size > middle, pull - metric * middle, tf.zeros_like(pull))
        beyond = tf.reduce_sum(excess, -1, keepdims=True) > scale
        return i + 1, tf.where(beyond, middle, low), tf.where(beyond, high, middle)

    steps = _BISECTIONS[size.dtype.name]
    state = (tf.constant(0), tf.zeros_like(high), high)
    _, low, high = tf.while_loop(lambda i, *_: i < steps, halve, state, maximum_iterations=steps)
    return tf.where(scale > 0, (low + high) / 2, tf.reduce_max(size, -1, keepdims=True))


def searched_prox_linf(delta: Any, scale: Any, metric: Any, lower: Any, upper: Any) -> Any:
    """Return `prox_linf` as published: t by a ternary search on the objective, to 1e-6.

    It is there to compare with the published program; arguments as there. Near its minimum the
    objective is flat, so half of the digits are lost, and where abs(q) < 1e-6 it returns half of t.
    """
    inside = tf.clip_by_value(delta, lower, upper)
    high = tf.reduce_max(tf.abs(inside), -1, keepdims=True)
    most = tf.math.log(_SEARCHED / tf.maximum(high, _SEARCHED)) / math.log(2 / 3)
    most = tf.math.ceil(most)

    def objective(t: Any) -> Any:
        moved = tf.clip_by_value(inside, -t, t) - delta
        return tf.reduce_sum(metric * moved * moved, -1, keepdims=True) + 2 * scale * t

    def cut(i: Any, low: Any, high: Any) -> tuple:
        third = (high - low) / 3
        fell = objective(low + third) >= objective(high - third)
        to, on = tf.cast(i, most.dtype) < most, (low + third, high - third)
        return i + 1, tf.where(to & fell, on[0], low), tf.where(to & ~fell, on[1], high)

    def unfinished(i: Any, *_: Any) -> Any:
        return tf.cast(i, most.dtype) < tf.reduce_max(most)

    state = (tf.constant(0), tf.zeros_like(high), high)
    _, low, high = tf.while_loop(unfinished, cut, state)
    radius = (low + high) / 2
    return tf.clip_by_value(inside, -radius, radius)


def prox_l1(delta: Any, scale: Any, metric: Any, lower: Any, upper: Any) -> Any:
    """Return argmin over l <= p <= u of  1/2 sum h (p - delta)^2 + scale sum abs(p)."""
    shrunk = tf.sign(delta) * tf.maximum(tf.abs(delta) - scale / metric, 0)
    return tf.clip_by_value(shrunk, lower, upper)


def prox_l2sq(delta: Any, scale: Any, metric: Any, lower: Any, upper: Any) -> Any:
    """Return argmin over l <= p <= u of  1/2 sum h (p - delta)^2 + scale sum p^2."""
    return tf.clip_by_value(metric * delta / (metric + 2 * scale), lower, upper)


PROX = {"linf": prox_linf, "l1": prox_l1, "l2sq": prox_l2sq}


def norms(delta: Any, norm: str) -> Any:
    """Return max abs, sum abs or Euclidean length ("l2sq") of each row, (B,)."""
    if norm == "linf":
        return tf.reduce_max(tf.abs(delta), -1)
    return tf.reduce_sum(tf.abs(delta), -1) if norm == "l1" else tf.norm(delta, axis=-1)
