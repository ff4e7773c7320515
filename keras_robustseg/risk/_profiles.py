"""Shapes of the worst case: how q / p falls with the gap of a loss to the greatest one.

A penalty lam sum p phi(q / p) is met by t = q / p = (phi*)'(c - y) with y = (top - loss) / lam and
one c that makes the mass 1. Each shape takes z, an increasing function of c in which that root is
well placed, and y; it never subtracts numbers that are nearly equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_robustseg.risk._rows import tiny


class Ratio(NamedTuple):
    """q / p at (z, y), its derivative to z, and its derivative to -y."""

    ratio: Any
    to_z: Any
    to_y: Any


@dataclasses.dataclass(frozen=True)
class Shape:
    """One divergence, by its worst case.

    Attributes:
        ratio: (z, y) -> `Ratio`.
        phi: (ratio, z, y) -> integrand of the divergence.
        curvature: second derivative of phi at 1.
        largest: (y of the least loss, mass of the greatest) -> a z that is not too small.
        maximum: bound on the steps to the root in z.
    """

    ratio: Callable[[Any, Any], Ratio]
    phi: Callable[[Any, Any, Any], Any]
    curvature: Any = 1.0
    largest: Callable[[Any, Any], Any] = lambda _, mass: -ops.log(mass)
    maximum: int = 60


# With z = log(greatest ratio) ---------------------------------------------------------------------


def _kl(z: Any, y: Any) -> Ratio:
    t = ops.exp(z - y)
    return Ratio(t, t, t)


def _reverse_kl(z: Any, y: Any) -> Ratio:
    least = ops.exp(-z)
    t = 1.0 / (least + y)
    return Ratio(t, t * t * least, t * t)


def _chi2(z: Any, y: Any) -> Ratio:
    greatest = ops.exp(z)
    t = ops.maximum(greatest - 0.5 * y, 0.0)
    active = ops.cast(t > 0, t.dtype)
    return Ratio(t, greatest * active, 0.5 * active)


def _neyman(z: Any, y: Any) -> Ratio:
    least = ops.exp(-2.0 * z)
    t = ops.rsqrt(least + y)
    cube = t * t * t
    return Ratio(t, least * cube, 0.5 * cube)


def _hellinger(z: Any, y: Any) -> Ratio:
    least = ops.exp(-0.5 * z)
    root = 1.0 / (least + y)
    t = root * root
    return Ratio(t, least * t * root, 2.0 * t * root)


def _jeffreys(z: Any, y: Any) -> Ratio:
    # phi'(t) = log t + 1 - 1/t, so that r = 1/t solves r + log r = 1 - s: Wright's omega.
    least = ops.exp(-z)
    t = 1.0 / wright_omega(least - z + y)
    slope = t * t / (1.0 + t)
    return Ratio(t, slope * (1.0 + least), slope)


def wright_omega(x: Any) -> Any:
    """Return the w > 0 with w + log w = x, for x > -80 in float32 and x > -600 in float64.

    Three steps of fourth order (Fritsch, Shafer and Crowley, Comm. ACM 1973, algorithm 443) from
    log(1 + exp x).

    Example:
        `wright_omega(keras.ops.array(1.0))  # 1`
    """
    w = ops.maximum(ops.softplus(x), tiny(x))
    for _ in range(3):
        rest = x - w - ops.log(w)
        lead = (1.0 + w) * (1.0 + w + (2.0 / 3.0) * rest)
        w = w * (1.0 + rest / (1.0 + w) * (lead - 0.5 * rest) / (lead - rest))
    return w


def _burg(t: Any, _z: Any, _y: Any) -> Any:
    return (t - 1.0) - ops.log1p(t - 1.0)


def _by_roots(t: Any, _z: Any, _y: Any) -> Any:
    return ops.square((t - 1.0) / (ops.sqrt(t) + 1.0))


SHAPES = {
    "kl": Shape(_kl, lambda t, z, y: t * (z - y) - (t - 1.0), 1.0),
    "reverse_kl": Shape(_reverse_kl, _burg, 1.0),
    "chi2": Shape(_chi2, lambda t, _z, _y: ops.square(t - 1.0), 2.0),
    "neyman": Shape(_neyman, lambda t, _z, _y: ops.square(t - 1.0) / t, 2.0),
    "hellinger": Shape(_hellinger, _by_roots, 0.5),
    "jeffreys": Shape(_jeffreys, lambda t, _z, _y: (t - 1.0) * ops.log1p(t - 1.0), 2.0),
}


# Smoothed CVaR: a divergence and a cap at 1 / alpha -----------------------------------------------


def capped_kl(alpha: Any) -> Shape:
    """Return sum q log(q / p) with q <= p / alpha; alpha (..., 1).

    Example:
        `capped_kl(keras.ops.array([0.1]))`
    """
    cap = -ops.log(alpha)

    def ratio(z: Any, y: Any) -> Ratio:
        t = ops.exp(ops.minimum(z - y, cap))
        free = ops.where(z - y < cap, t, ops.zeros_like(t))
        return Ratio(t, free, free)

    return Shape(ratio, _shannon, 1.0, lambda y, _: cap + y)


def capped_l2(alpha: Any) -> Shape:
    """Return 1/2 sum (q - p)^2 / p with q <= p / alpha; alpha (..., 1).

    Example:
        `capped_l2(keras.ops.array([0.1]))`
    """
    cap = 1.0 / alpha

    def ratio(z: Any, y: Any) -> Ratio:
        level = (1.0 + z) - y
        t = ops.clip(level, 0.0, cap)
        free = ops.cast(ops.logical_and(level > 0, level < cap), t.dtype)
        return Ratio(t, free, free)

    return Shape(ratio, lambda t, _z, _y: 0.5 * ops.square(t - 1.0), 1.0, lambda y, _: cap + y)


def _shannon(t: Any, _z: Any, _y: Any) -> Any:
    return t * ops.log(ops.maximum(t, tiny(t))) - (t - 1.0)


# A divergence of the user's -----------------------------------------------------------------------


def from_conjugate(conjugate: Callable[[Any], Any]) -> Shape:
    """Return the divergence whose phi has this convex conjugate phi*.

    phi*(s) = sup_t s t - phi(t) must be increasing, differentiable and strictly convex where its
    slope is positive, and pass `check_conjugate`. Above its domain it must be infinite or NaN.

    Args:
        conjugate: element-wise function of a tensor, in `keras.ops`.

    Example:
        `from_conjugate(lambda s: keras.ops.expm1(s))  # as "kl"`
    """
    *_, curve = _derivatives(conjugate, ops.zeros((), "float32"))

    def ratio(z: Any, y: Any) -> Ratio:
        value, first, second = _derivatives(conjugate, z - y)
        inside = ops.isfinite(value)
        first = ops.where(inside, first, ops.full_like(first, float("inf")))
        second = ops.where(inside, second, ops.zeros_like(second))
        return Ratio(first, second, second)

    def phi(t: Any, z: Any, y: Any) -> Any:
        return (z - y) * t - conjugate(z - y)

    return Shape(ratio, phi, 1.0 / curve, lambda y, _: y, 150)


def check_conjugate(conjugate: Callable[[Any], Any]) -> None:
    """Raise unless phi*(0) = 0 and (phi*)'(0) = 1: then phi has its least value, 0, at 1.

    Raises:
        ValueError: it has not.
    """
    value, slope, curve = (float(x) for x in _derivatives(conjugate, ops.zeros((), "float32")))
    if not (abs(value) < 1e-5 and abs(slope - 1.0) < 1e-5 and curve > 0):
        raise ValueError(
            "The convex conjugate of a divergence must have value 0, slope 1 and positive "
            f"curvature at 0. Received: value {value:g}, slope {slope:g}, curvature {curve:g}"
        )


def _derivatives(function: Callable[[Any], Any], at: Any) -> tuple[Any, Any, Any]:
    """Value, first and second derivative of an element-wise function."""
    if keras.backend.backend() == "jax":
        import jax

        def along(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda x: jax.jvp(f, (x,), (ops.ones_like(x),))[1]

        return function(at), along(function)(at), along(along(function))(at)
    import tensorflow as tf

    with tf.GradientTape() as outer:
        outer.watch(at)
        with tf.GradientTape() as inner:
            inner.watch(at)
            value = function(at)
        first = inner.gradient(value, at, unconnected_gradients="zero")
    return value, first, outer.gradient(first, at, unconnected_gradients="zero")
