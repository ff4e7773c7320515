"""The edge of a tail among many losses: a sample, three counts, and the few losses that are left.

    tail_edge(losses, share, target, total) -> Edge      over the last axis

A sorted sample tells the edge to a few thousandths of the mass. Counting all losses beyond a guess
tells how far off it is; a second guess from the sample and a third by the secant are off by a few
losses, which are picked out by `top_k`. Where that fails, bits of the edge are found one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_robustseg.risk._reduce import LOCAL

_SAMPLE = 4096
# As many as are picked out as fast as one (XLA sorts everything from some hundreds on).
_PICKED = 256
# From here on a sample pays.
MANY = 16 * _SAMPLE


class Edge(NamedTuple):
    """Where a tail begins, (..., 1) each.

    Attributes:
        edge: least loss of which the tail still has a part.
        above: mass of the greater losses.
        atom: mass of the losses equal to it.
    """

    edge: Any
    above: Any
    atom: Any


class _Bracket(NamedTuple):
    """Bounds of the edge, low < edge <= high, and the mass above `low`."""

    low: Any
    high: Any
    above: Any


def tail_edge(losses: Any, share: Any, target: Any, total: Any) -> Edge:
    """Return the edge of the tail of the greatest losses whose mass is the target.

    Args:
        losses: (..., n), finite where they count; n at least `MANY`.
        share: (..., n) base weights, or None for 1.
        target: (..., 1) mass, positive.
        total: mass of all, broadcastable to `target`, positive.

    Example:
        `tail_edge(losses, None, keras.ops.array([1e4]), 1e6)`
    """
    many = _Many(losses, share)
    bracket = _guessed(many, target, total)
    edge, found, exact = _picked(many, bracket, target)
    high = _halved(many, bracket, target, found)
    value = ops.where(found, edge.edge, high)

    def add(*_: Any) -> tuple[Any, ...]:
        above, atom = many.mass(losses > value), many.mass(ops.equal(losses, value))
        return ops.where(exact, edge.above, above), ops.where(exact, edge.atom, atom)

    sums = LOCAL.iterate(add, (edge.above, edge.atom), 1, lambda *_: ops.logical_not(exact))
    return Edge(value, *sums)


class _Many:
    """Losses with their masses; no array of ones is made where all weigh the same."""

    def __init__(self, losses: Any, share: Any) -> None:
        self.losses, self.share = losses, share

    def mass(self, chosen: Any) -> Any:
        """Mass of the chosen losses (..., 1)."""
        if self.share is None:
            count = ops.sum(ops.cast(chosen, "int32"), axis=-1, keepdims=True)
            return ops.cast(count, self.losses.dtype)
        return LOCAL.sum(ops.where(chosen, self.share, ops.zeros_like(self.share)))

    def at(self, indices: Any) -> Any:
        """Masses of the losses with these indices (..., k)."""
        if self.share is None:
            return ops.ones_like(ops.cast(indices, self.losses.dtype))
        return ops.take_along_axis(self.share, indices, axis=-1)


def _guessed(many: _Many, target: Any, total: Any) -> _Bracket:
    """Bounds from three guesses, the last a little below the edge."""
    sample, below = _sample(many)
    # So many losses lie between the last guess and the edge, if all goes well.
    aimed = target + (0.5 * _PICKED) * total / ops.cast(
        ops.shape(many.losses)[-1], many.losses.dtype
    )

    def quantile(level: Any) -> Any:
        index = ops.sum(ops.cast(below < level, "int32"), axis=-1, keepdims=True)
        return ops.take_along_axis(sample, ops.minimum(index, sample.shape[-1] - 1), axis=-1)

    level = 1.0 - ops.divide_no_nan(aimed, total)
    first = quantile(level)
    first_above = many.mass(many.losses > first)
    second = quantile(level + ops.divide_no_nan(first_above - aimed, total))
    second_above = many.mass(many.losses > second)
    slope = ops.divide_no_nan(second - first, second_above - first_above)
    third = second + slope * (aimed - second_above)
    third_above = many.mass(many.losses > third)
    bracket = _whole(many, total)
    guesses = (first, first_above), (second, second_above), (third, third_above)
    for guess, above in guesses:
        bracket = _narrowed(bracket, guess, above, target)
    return bracket


def _sample(many: _Many) -> tuple[Any, Any]:
    """Some of the losses in order (..., m), and the share of their mass up to each."""
    stride = many.losses.shape[-1] // _SAMPLE | 1
    losses = many.losses[..., ::stride]
    if many.share is None:
        size = losses.shape[-1]
        return ops.sort(losses, axis=-1), ops.arange(1, size + 1, dtype=losses.dtype) / size
    order = ops.argsort(losses, axis=-1)
    mass = ops.cumsum(ops.take_along_axis(many.share[..., ::stride], order, axis=-1), axis=-1)
    return ops.take_along_axis(losses, order, axis=-1), ops.divide_no_nan(mass, mass[..., -1:])


def _whole(many: _Many, total: Any) -> _Bracket:
    """All finite numbers."""
    none = ops.zeros_like(many.losses[..., :1])
    most = float(np.finfo(keras.backend.standardize_dtype(none.dtype)).max)
    return _Bracket(none - most, none + most, none + total)


def _narrowed(bracket: _Bracket, guess: Any, above: Any, target: Any) -> _Bracket:
    """The bracket with what is known of one guess."""
    below = above >= target
    low = ops.logical_and(below, guess >= bracket.low)
    high = ops.logical_and(ops.logical_not(below), guess <= bracket.high)
    return _Bracket(
        ops.where(low, guess, bracket.low),
        ops.where(high, guess, bracket.high),
        ops.where(low, above, bracket.above),
    )


def _picked(many: _Many, bracket: _Bracket, target: Any) -> tuple[Edge, Any, Any]:
    """The edge if it is one of the next losses above the lower bound.

    Also whether it is, and whether all losses equal to it are among them.
    """
    beyond = many.losses > bracket.low
    if many.share is not None:
        beyond = ops.logical_and(beyond, ops.not_equal(many.share, 0.0))
    nothing = ops.full_like(many.losses, -float("inf"))
    negated, indices = ops.top_k(ops.where(beyond, -many.losses, nothing), _PICKED)
    there = ops.isfinite(negated)
    mass = ops.where(there, many.at(indices), ops.zeros_like(negated))
    up_to = ops.cumsum(mass, axis=-1)
    reached = ops.logical_and(there, bracket.above - up_to < target)
    candidates = ops.where(reached, -negated, ops.full_like(negated, float("inf")))
    edge = ops.min(candidates, axis=-1, keepdims=True)
    found = ops.isfinite(edge)
    before = LOCAL.sum(ops.where(-negated < edge, mass, ops.zeros_like(mass)))
    atom = LOCAL.sum(ops.where(ops.equal(-negated, edge), mass, ops.zeros_like(mass)))
    # Not the last one by its index: XLA then sorts all losses.
    exact = ops.logical_and(found, ops.max(-negated, axis=-1, keepdims=True) > edge)
    return Edge(edge, bracket.above - before - atom, atom), found, exact


def _halved(many: _Many, bracket: _Bracket, target: Any, found: Any) -> Any:
    """Least number with less than the target above it, (..., 1), where it is not found yet."""

    def halve(low: Any, high: Any, first: Any) -> tuple[Any, ...]:
        # Rounded down, without overflow.
        middle = ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)
        # Where many losses are equal, a guess was the edge itself. Next below 0 are no denormal
        # numbers: they may be taken for 0.
        middle = ops.where(first, ops.where(ops.equal(high, 0), -_normal(high), high - 1), middle)
        enough = many.mass(many.losses > _number(middle)) < target
        low = ops.where(enough, low, ops.where(first, high - 1, middle))
        return low, ops.where(enough, middle, high), ops.zeros_like(first)

    def open_(low: Any, high: Any, _: Any) -> Any:
        return ops.logical_and(ops.logical_not(found), high - 1 > low)

    low, high = _key(bracket.low), _key(bracket.high)
    state = (low, high, ops.ones_like(found))
    return _number(LOCAL.iterate(halve, state, 66, open_)[1])


def _key(x: Any) -> Any:
    """Integers in the order of the floats, one for both zeros."""
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    bits = ops.view(x, "int64" if double else "int32")
    return ops.where(bits < 0, -ops.bitwise_and(bits, _most(bits)), bits)


def _number(key: Any) -> Any:
    """The float with this key."""
    double = keras.backend.standardize_dtype(key.dtype) == "int64"
    bits = ops.where(key < 0, ops.bitwise_or(-key, -_most(key) - 1), key)
    return ops.view(bits, "float64" if double else "float32")


def _normal(key: Any) -> Any:
    """Key of the least number that is not denormal."""
    double = keras.backend.standardize_dtype(key.dtype) == "int64"
    return ops.cast(2**52 if double else 2**23, key.dtype)


def _most(bits: Any) -> Any:
    """All bits but the sign."""
    double = keras.backend.standardize_dtype(bits.dtype) == "int64"
    return ops.cast(2**63 - 1 if double else 2**31 - 1, bits.dtype)
