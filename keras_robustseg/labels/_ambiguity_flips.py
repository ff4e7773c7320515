"""Divergences of hard labels: all their balls are one, a share d of the label that may flip.

With y one-hot at class j, D(q, y) <= eps bounds q_j from below and nothing else, so that

    sup <q, L> = (1 - d) L_j + d max_k L_k

for every divergence that charges finite mass off the label; the others hold q at y.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.labels._ambiguity_base import image_shares, spatial_axes, top_share
from keras_robustseg.labels._ambiguity_rate import rates_at_budget

# The q that a penalty of weight w leaves to a class whose cost is g below the greatest is in
# proportion to (w / g)^e.
EXPONENTS = {"reverse_kl": 1.0, "hellinger": 2.0, "neyman": 0.5}


def stays_on_support(divergence: str, order: float | None = None) -> bool:
    """Tell whether the divergence is infinite as soon as q has mass where y has none.

    Example:
        `stays_on_support("kl"), stays_on_support("tv")  # True, False`
    """
    return divergence in ("kl", "chi2", "jeffreys") or (order is not None and order > 1)


def flipped_share(divergence: str, radius: Any, order: float | None = None) -> Any:
    """Return d: how much of a hard label a ball of this radius lets go.

    Args:
        divergence: "tv", "reverse_kl", "hellinger", "neyman", or "renyi" of order below 1.
        radius: 0 or more.
        order: of the Renyi divergence.

    Example:
        `flipped_share("neyman", 0.25)  # 0.2`
    """
    if divergence == "tv":
        return ops.minimum(radius, 1.0)
    if divergence == "hellinger":
        half = ops.minimum(0.5 * radius, 1.0)
        return half * (2.0 - half)
    if divergence == "neyman":
        return radius / (1.0 + radius)
    scale = 1.0 if order is None else (1.0 - order) / order
    return -ops.expm1(-scale * radius)


def flipped_at_weight(divergence: str, gaps: Any, weight: Any) -> Any:
    """Return the d that maximises d g - weight D(d), g = max_k L_k - L_j.

    Args:
        divergence: "tv", "reverse_kl", "hellinger" or "neyman".
        gaps: g, 0 or more.
        weight: 0 or more, broadcasts to the gaps.

    Example:
        `flipped_at_weight("reverse_kl", 4.0, 1.0)  # 3/4`
    """
    beyond = gaps > weight
    if divergence == "tv":
        return ops.cast(beyond, gaps.dtype)
    kept = ops.where(beyond, weight / ops.where(beyond, gaps, 1.0), 1.0)
    return 1.0 - kept ** EXPONENTS[divergence]


def divergence_of_flip(divergence: str, flipped: Any) -> Any:
    """Return D of a hard label of which the share d has been flipped; infinite, or 2, at 1.

    Example:
        `divergence_of_flip("neyman", 0.2)  # 0.25`
    """
    if divergence == "tv":
        return flipped
    if divergence == "hellinger":
        return 2.0 * flipped / (1.0 + ops.sqrt(1.0 - flipped))
    if divergence == "neyman":
        return flipped / (1.0 - flipped)
    return -ops.log1p(-flipped)


def flipped_in_budget(divergence: str, gaps: Any, weights: Any, radius: Any) -> Any:
    """Return the d_i (B, *S) that solve  max sum_i p_i d_i g_i  s.t.  sum_i p_i D(d_i) <= radius.

    p are the weights as shares of an image.

    Args:
        divergence: "reverse_kl", "hellinger" or "neyman".
        gaps: g (B, *S).
        weights: (B, *S) base weights.
        radius: 0 or more.

    Example:
        `flipped_in_budget("hellinger", gaps, weights, 0.05)`
    """
    shares, axes = image_shares(weights), spatial_axes(gaps)

    def fits(weight: Any) -> Any:
        spent = divergence_of_flip(divergence, flipped_at_weight(divergence, gaps, weight))
        # Nothing of infinite price is bought with no share.
        spent = ops.where(shares > 0, shares * spent, 0.0)
        return ops.sum(spent, axis=axes, keepdims=True) <= radius

    _, weight = rates_at_budget(fits, ops.max(gaps, axis=axes, keepdims=True))
    return flipped_at_weight(divergence, gaps, weight)


def flip(reference: Any, gains: Any, flipped: Any) -> Any:
    """Return (1 - d) y + d top: labels (B, *S, C) of which d went to the class of largest gain."""
    flipped = ops.expand_dims(flipped, -1) if len(ops.shape(flipped)) else flipped
    return reference + flipped * (top_share(gains, reference) - reference)


def gap_of_label(reference: Any, gains: Any) -> Any:
    """Return max_k g_k - <y, g>, (B, *S)."""
    top = ops.max(gains, axis=-1)
    return top - ops.sum(reference * gains, axis=-1)
