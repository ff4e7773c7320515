"""Divergences of soft labels: worst cases whose mass may leave the classes of the reference."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.labels._ambiguity_base import as_level, image_shares, spatial_axes, top_share
from keras_robustseg.labels._ambiguity_flips import EXPONENTS, stays_on_support
from keras_robustseg.labels._ambiguity_rate import rates_at_budget
from keras_robustseg.risk._balls import ball_weights
from keras_robustseg.risk._cvar import tail_weights
from keras_robustseg.risk._penalties import divergence_penalty
from keras_robustseg.risk._reduce import Local
from keras_robustseg.risk._rows import Rows, rows, tiny

_ORDERS = {"reverse_kl": 0.0, "hellinger": 0.5, "neyman": -1.0}


def ball_labels(
    gains: Any, reference: Any, divergence: str, radius: Any, order: float | None = None
) -> Any:
    """Return the q (..., C) that maximises <q, gains> in a ball around the reference.

    On the support of the reference this is the ball over samples with base weights y. Where the
    class of largest gain is outside and the ball reaches beyond the support, the divergences of
    power form have a closed solution: q = c y gap^-e there and the rest on that class.

    Args:
        gains: (..., C).
        reference: y (..., C) label distributions; q is 0 where they have no mass at all.
        divergence: a name of `risk.DivergenceBall`.
        radius: 0 or more.
        order: of the Renyi divergence.

    Example:
        `ball_labels(gains, soft_labels, "hellinger", 0.1)`
    """
    radius = as_level(radius, gains)
    if divergence == "tv":
        moved = ops.minimum(radius, 1.0)
        of = _apart(gains, reference)
        kept = ops.moveaxis(ops.where(of.counted, tail_weights(of, 1.0 - moved), 0.0), 0, -1)
        present = ops.sum(reference, axis=-1, keepdims=True)
        return (1.0 - moved) * kept + moved * present * top_share(gains, reference)
    inside = _on_support(gains, reference, divergence, radius, order)
    if stays_on_support(divergence, order):
        return inside
    order = _ORDERS[divergence] if order is None else order
    log_y, log_gap = _logs(gains, reference)
    exponent = 1.0 / (1.0 - order)
    if order == 0.0:
        scale = ops.sum(reference * log_gap, axis=-1, keepdims=True) - radius
    else:
        moment = ops.logsumexp(log_y - order * exponent * log_gap, axis=-1, keepdims=True)
        scale = (_log_target(divergence, radius, order) - moment) / order
    return _spilled(inside, scale + log_y - exponent * log_gap, gains, reference)


class _FirstAxis(Local):
    """Reductions over the first axis: sums over few classes are fast where they lie apart."""

    def sum(self, x: Any) -> Any:
        """Return the sum."""
        return ops.sum(x, axis=0, keepdims=True)

    def max(self, x: Any) -> Any:
        """Return the maximum."""
        return ops.max(x, axis=0, keepdims=True)

    def min(self, x: Any) -> Any:
        """Return the minimum."""
        return ops.min(x, axis=0, keepdims=True)


def _on_support(
    gains: Any, reference: Any, divergence: str, radius: Any, order: float | None
) -> Any:
    """The ball over samples with base weights y; 0 where y is."""
    of = _apart(gains, reference)
    q = ball_weights(of, divergence, radius, order)
    return ops.moveaxis(ops.where(of.counted, q, 0.0), 0, -1)


def _apart(gains: Any, reference: Any) -> Rows:
    return rows(ops.moveaxis(gains, -1, 0), ops.moveaxis(reference, -1, 0), _FirstAxis())


def penalty_labels(gains: Any, reference: Any, divergence: str, weight: Any) -> Any:
    """Return the q (..., C) that maximises <q, gains> - weight D(q, reference).

    Args:
        gains: (..., C).
        reference: y (..., C), as in `ball_labels`.
        divergence: a name of `risk.DivergencePenalty`.
        weight: above 0, broadcasts to (...,).

    Example:
        `penalty_labels(gains, soft_labels, "kl", 1.0)`
    """
    weight = ops.broadcast_to(as_level(weight, gains), ops.shape(gains)[:-1])
    if divergence == "tv":
        gap = ops.max(gains, axis=-1, keepdims=True) - gains
        kept = ops.where(gap <= ops.expand_dims(weight, -1), reference, 0.0)
        moved = ops.sum(reference - kept, axis=-1, keepdims=True)
        return kept + moved * top_share(gains, reference)
    _, inside = divergence_penalty(gains, reference, divergence, weight)
    if stays_on_support(divergence):
        return inside
    log_y, log_gap = _logs(gains, reference)
    spread = ops.max(gains, axis=-1) - ops.min(gains, axis=-1)
    relative = ops.log(ops.maximum(ops.divide_no_nan(weight, spread), tiny(gains)))
    log_kept = log_y + EXPONENTS[divergence] * (ops.expand_dims(relative, -1) - log_gap)
    return _spilled(inside, log_kept, gains, reference)


def shared_labels(gains: Any, reference: Any, weights: Any, divergence: str, radius: Any) -> Any:
    """Return the q (B, *S, C) that maximises the mean of <q, gains> over the pixels of an image

    under a bound on the mean of D(q, reference). The price of the divergence is found by
    bisection, each step of which solves the penalised problem of every pixel.

    Args:
        gains: (B, *S, C).
        reference: (B, *S, C) label distributions, 0 at void pixels.
        weights: (B, *S) base weights.
        divergence: a name of `risk.DivergencePenalty`, not "tv" (`flip_classes`).
        radius: 0 or more.

    Example:
        `shared_labels(gains, soft_labels, weights, "kl", 0.1)`
    """
    shares, axes, radius = image_shares(weights), spatial_axes(weights), as_level(radius, gains)
    spread = ops.max(gains, axis=-1) - ops.min(gains, axis=-1)
    unit = ops.max(spread, axis=axes, keepdims=True)
    scaled = ops.divide_no_nan(gains, ops.expand_dims(unit, -1))

    def fits(weight: Any) -> Any:
        q = penalty_labels(scaled, reference, divergence, weight)
        spent = label_divergence(q, reference, divergence)
        return ops.sum(shares * spent, axis=axes, keepdims=True) <= radius

    top = 2.0**40 * ops.ones_like(unit)
    _, weight = rates_at_budget(fits, top, octaves=100.0)
    return penalty_labels(scaled, reference, divergence, weight)


def label_divergence(q: Any, reference: Any, divergence: str, order: float | None = None) -> Any:
    """Return D(q, y) (...,), mass off the support of y included where D charges it finitely.

    Args:
        q: (..., C).
        reference: y (..., C).
        divergence: a name of `risk.DivergenceBall`.
        order: of the Renyi divergence.

    Example:
        `label_divergence(q, soft_labels, "hellinger")`
    """
    floor = tiny(q)
    if divergence == "tv":
        return 0.5 * ops.sum(ops.abs(q - reference), axis=-1)
    if divergence == "hellinger":
        return ops.sum(ops.square(ops.sqrt(q) - ops.sqrt(reference)), axis=-1)
    if divergence == "neyman":
        q, reference = reference, q  # Pearson's with the roles changed
        divergence = "chi2"
    on, y = reference > 0, ops.maximum(reference, floor)
    change = ops.square(q - reference)
    if divergence == "chi2":
        return ops.sum(ops.where(on, change / y, ops.where(q > 0, float("inf"), 0.0)), axis=-1)
    log_ratio = ops.where(on, ops.log(ops.maximum(q, floor)) - ops.log(y), 0.0)
    if order is not None:
        moment = ops.sum(ops.where(on, y * ops.exp(order * log_ratio), 0.0), axis=-1)
        return ops.log(ops.maximum(moment, floor)) / (order - 1.0)
    # Sums of terms that are not negative: the entropies alone cancel.
    terms = {
        "kl": lambda: q * log_ratio - (q - reference),
        "reverse_kl": lambda: (q - reference) - reference * log_ratio,
        "jeffreys": lambda: (q - reference) * log_ratio,
    }
    return ops.sum(terms[divergence](), axis=-1)


def _logs(gains: Any, reference: Any) -> tuple[Any, Any]:
    """log y, and log of the gap to the largest gain of all classes in units of the spread."""
    gap = ops.max(gains, axis=-1, keepdims=True) - gains
    spread = ops.max(gap, axis=-1, keepdims=True)
    floor = tiny(gains)
    gap = ops.divide_no_nan(gap, spread)
    log_y = ops.where(reference > 0, ops.log(ops.maximum(reference, floor)), -float("inf"))
    return log_y, ops.log(ops.maximum(gap, floor))


def _log_target(divergence: str, radius: Any, order: float) -> Any:
    """log of what sum y (q / y)^order is at the edge of the ball."""
    if divergence == "hellinger":
        return ops.log(ops.maximum(1.0 - 0.5 * radius, tiny(radius)))
    return ops.log1p(radius) if divergence == "neyman" else (order - 1.0) * radius


def _spilled(inside: Any, log_kept: Any, gains: Any, reference: Any) -> Any:
    """Where the support keeps less than all mass: that, and the rest on the largest gain."""
    kept = ops.where(reference > 0, ops.exp(ops.minimum(log_kept, 0.0)), 0.0)
    mass = ops.sum(kept, axis=-1, keepdims=True)
    top = ops.max(gains, axis=-1, keepdims=True)
    outside = ops.all(ops.logical_or(reference <= 0, gains < top), axis=-1, keepdims=True)
    present = ops.any(reference > 0, axis=-1, keepdims=True)
    spills = ops.logical_and(ops.logical_and(outside, present), mass < 1.0)
    return ops.where(spills, kept + (1.0 - mass) * top_share(gains, 0.0 * kept), inside)
