"""The proximal operator of -log on each eigenvalue, with or without a noise term."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._spectral import pair_sum

# From the bounds below, ten steps reach rounding error from any start; see the test.
_NEWTON_STEPS = 10


def negative_log(a: Any, step: Any, nuclear: Any, frobenius: Any, sigma2: Any) -> Any:
    """Return the minimiser c > 0 of

        1/2 (c - a)^2 + step (-log c + log(1 + sigma2 c) + nuclear c + frobenius/2 c^2).

    Args:
        a: (..., n) real numbers of either sign, without a gradient.
        step: broadcast to a, as the others.
        nuclear: weight of c.
        frobenius: weight of c^2 / 2.
        sigma2: variance of the noise, or None for 0.
    """
    bend = 1.0 + step * frobenius
    b, g = (a - step * nuclear) / bend, step / bend
    root = positive_root(b, g)
    return root if sigma2 is None else _cubic_root(b, g, sigma2, ops.stop_gradient(root))


def negative_log_quotients(c: Any, step: Any, nuclear: Any, frobenius: Any, sigma2: Any) -> Any:
    """Return the divided differences of `negative_log` (..., n, n), from its values c (..., n).

    With c - b = q(c), q(c) = g / (c (1 + sigma2 c)), they are 1 / (1 - q[c_i, c_j]), where the
    divided difference of q has a closed form of one sign.
    """
    del nuclear
    step, frobenius, s = (
        _beside(value) for value in (step, frobenius, 0.0 if sigma2 is None else sigma2)
    )
    bend = 1.0 + step * frobenius
    whole = c * (1.0 + (0.0 if sigma2 is None else sigma2) * c)
    product = ops.expand_dims(whole, -1) * ops.expand_dims(whole, -2)
    return 1.0 / (bend + step * (1.0 + s * pair_sum(c)) / product)


def positive_root(b: Any, product: Any) -> Any:
    """Return the root c >= 0 of c^2 - b c - product = 0, product >= 0, without cancellation."""
    square = b * b + 4.0 * product
    positive = square > 0
    root = ops.sqrt(ops.where(positive, square, ops.ones_like(square)))
    falling = ops.where(b < 0, root - b, ops.ones_like(root))
    found = ops.where(b < 0, 2.0 * product / falling, (b + root) / 2.0)
    return ops.where(positive, found, 0.0 * b)


def _cubic_root(b: Any, g: Any, sigma2: Any, bound: Any) -> Any:
    """Positive root of (c - b) c (1 + sigma2 c) = g, by Newton's method from above.

    The cubic is convex and rising from the root upwards, so the steps fall to it. The last two
    steps carry gradients: one makes the first derivative exact, two make the second.
    """
    fixed = (ops.stop_gradient(b), ops.stop_gradient(g), ops.stop_gradient(sigma2))
    c = _upper_bound(*fixed, bound)
    for _ in range(_NEWTON_STEPS):
        c = _newton(c, *fixed)
    c = ops.stop_gradient(c)
    return _newton(_newton(c, b, g, sigma2), b, g, sigma2)


def _upper_bound(b: Any, g: Any, sigma2: Any, bound: Any) -> Any:
    noise = ops.where(sigma2 > 0, sigma2, ops.ones_like(sigma2))
    cubic = ops.maximum(b, 0.0) + (g / noise) ** (1.0 / 3.0)
    size = ops.where(b < 0, -b, ops.ones_like(b))
    square = ops.sqrt(g / (noise * size))
    least = ops.minimum(cubic, ops.where(b < 0, square, cubic))
    return ops.where(sigma2 > 0, ops.minimum(bound, least), bound)


def _newton(c: Any, b: Any, g: Any, sigma2: Any) -> Any:
    value = (c - b) * (1.0 + sigma2 * c) - g / c
    slope = 3.0 * sigma2 * c + 2.0 * (1.0 - sigma2 * b) - b / c
    return c - value / slope


def _beside(value: Any) -> Any:
    return ops.expand_dims(value, -1) if len(getattr(value, "shape", ())) else value
