"""Divergence balls and penalties over the label of a pixel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._ambiguity_base import (
    Budget,
    LabelAmbiguity,
    Observed,
    Stance,
    as_level,
    one_of,
    saved,
)
from keras_robustseg.labels._ambiguity_flips import (
    divergence_of_flip,
    flip,
    flipped_at_weight,
    flipped_in_budget,
    flipped_share,
    gap_of_label,
    stays_on_support,
)
from keras_robustseg.labels._ambiguity_soft import (
    ball_labels,
    label_divergence,
    penalty_labels,
    shared_labels,
)
from keras_robustseg.risk._balls import DIVERGENCES, check_divergence
from keras_robustseg.risk._cvar import cvar
from keras_robustseg.risk._measure import checked


class _DivergenceSet(LabelAmbiguity):
    """What ball and penalty share: the divergence, and smoothing before it.

    Args:
        divergence: a name of `DivergenceAmbiguity`.
        order: of the Renyi divergence.
        smoothing: share of each label that is spread over all classes.
        stance: "pessimistic" or "optimistic".
    """

    def __init__(
        self, divergence: str, *, order: float | None, smoothing: float, stance: Stance
    ) -> None:
        super().__init__(stance=stance)
        one_of("divergence", divergence, DIVERGENCES)
        check_divergence(divergence, order)
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"`smoothing` must be in [0, 1). Received: smoothing={smoothing}")
        self.divergence, self.order, self.smoothing = divergence, order, float(smoothing)

    def solve(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        """Return the best labels and the price paid for them."""
        observed = self._smoothed(observed)
        if not observed.hard:
            return self._soft(gains, observed)
        if stays_on_support(self.divergence, self.order):
            raise ValueError(
                f"Around a hard label the divergence {self.divergence!r} is finite at that label "
                "alone, so this set would change nothing. Expected soft labels, or smoothing > 0, "
                'or one of "tv", "hellinger", "reverse_kl", "neyman". Received: ids, smoothing=0.0'
            )
        return self._hard(gains, observed)

    def _smoothed(self, observed: Observed) -> Observed:
        if not self.smoothing:
            return observed
        share = self.smoothing / observed.reference.shape[-1]
        smoothed = (1.0 - self.smoothing) * observed.reference + share
        counted = ops.expand_dims(observed.weights != 0, -1)
        return Observed(ops.where(counted, smoothed, 0.0), observed.weights, False)

    def _hard(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        raise NotImplementedError

    def _soft(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "divergence": self.divergence,
            "order": self.order,
            "smoothing": self.smoothing,
        }


@keras.saving.register_keras_serializable(package="keras_robustseg")
class DivergenceAmbiguity(_DivergenceSet):
    """Label distributions within a divergence of the observed ones.

        sup <q, L>  over  D(q, y) <= radius  at each pixel, or, with budget="image", over the
        labels of an image whose mean of D(q_i, y_i) is at most the radius

    D is a divergence of `risk.DivergenceBall`, except that mass on classes that y lacks is allowed
    where it is charged finitely: "tv", "hellinger", "reverse_kl", "neyman", "renyi" of order below
    1. With ids these all give (1 - d) L_y + d max_k L_k, with d a function of the radius; "kl",
    "chi2", "jeffreys" and "renyi" of order above 1 hold q at a hard label and are refused there.

    An image's budget is spent where flips gain most: with "tv" and ids the value is
    mean L_y + radius CVaR_radius(max_k L_k - L_y). A pessimistic set over cross-entropy has no
    bound, since a confident network makes max_k L_k as large as it likes: use a bounded cost
    (`RobustSegmentationLoss(cost="mae")`) or read d as a cap on confidence.

    Args:
        divergence: "kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys", "renyi".
        radius: 0 or more; from 1 on for "tv", and 2 for "hellinger", any label is in the ball.
        budget: "pixel" or "image".
        smoothing: share of each label spread over all classes before the ball is drawn, in [0, 1).
        order: of the Renyi divergence.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: a value out of range; "renyi" with an image's budget (it is no sum); or, when
            called, ids with a divergence that holds them.

    Example:
        `DivergenceAmbiguity("tv", 0.2, stance="optimistic")(costs, mask)  # (B, *S)`
    """

    def __init__(
        self,
        divergence: str,
        radius: Any,
        budget: Budget = "pixel",
        smoothing: float = 0.0,
        *,
        order: float | None = None,
        stance: Stance = "pessimistic",
    ) -> None:
        super().__init__(divergence, order=order, smoothing=smoothing, stance=stance)
        self.budget = one_of("budget", budget, ("pixel", "image"))
        if order is not None and budget == "image":
            raise ValueError(
                "The Renyi divergence is no sum over pixels, so an image has no budget of it. "
                'Expected budget="pixel". Received: budget="image"'
            )
        self.radius = checked("radius", radius, 0.0)

    @property
    def per_image(self) -> bool:
        """Whether a call returns one value an image."""
        return self.budget == "image"

    def _hard(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        radius = as_level(self.radius, gains)
        if self.per_image and self.divergence == "tv":
            return _flipped_at_unit_cost(gains, observed, radius)
        if not self.per_image:
            flipped = flipped_share(self.divergence, radius, self.order)
        else:
            gaps = gap_of_label(observed.reference, gains)
            flipped = flipped_in_budget(self.divergence, gaps, observed.weights, radius)
        return flip(observed.reference, gains, flipped), 0.0

    def _soft(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        radius, reference = as_level(self.radius, gains), observed.reference
        if self.per_image and self.divergence == "tv":
            return _flipped_at_unit_cost(gains, observed, radius)
        if self.per_image:
            return shared_labels(gains, reference, observed.weights, self.divergence, radius), 0.0
        return ball_labels(gains, reference, self.divergence, radius, self.order), 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "radius": saved(self.radius), "budget": self.budget}


@keras.saving.register_keras_serializable(package="keras_robustseg")
class DivergencePenaltyAmbiguity(_DivergenceSet):
    """Label distributions that pay for their divergence from the observed ones.

        sup <q, L> - weight D(q, y)   (optimistic: inf <q, L> + weight D(q, y))   at each pixel

    Arguments and refusals of `DivergenceAmbiguity`, without "renyi". "kl" is
    weight log sum_k y_k exp(L_k / weight); optimistic, with weight 1, cross-entropy and y a row
    of a transition matrix, it is forward correction, -log <y, p> (Patrini et al. 2017).

    Args:
        divergence: a name of `DivergenceAmbiguity`, not "renyi".
        weight: price of the divergence in the unit of L, above 0.
        smoothing: share of each label spread over all classes, in [0, 1).
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: a value out of range; or, when called, ids with a divergence that holds them.

    Example:
        `DivergencePenaltyAmbiguity("kl", 1.0, smoothing=0.1)(costs, mask)  # (B, *S)`
    """

    def __init__(
        self,
        divergence: str,
        weight: Any,
        smoothing: float = 0.0,
        *,
        stance: Stance = "pessimistic",
    ) -> None:
        super().__init__(divergence, order=None, smoothing=smoothing, stance=stance)
        self.weight = checked("weight", weight, 0.0, open_low=True)

    @property
    def per_image(self) -> bool:
        """False: each pixel pays for itself."""
        return False

    def _hard(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        weight = as_level(self.weight, gains)
        gaps = gap_of_label(observed.reference, gains)
        flipped = flipped_at_weight(self.divergence, gaps, weight)
        price = weight * divergence_of_flip(self.divergence, flipped)
        return flip(observed.reference, gains, flipped), price

    def _soft(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        weight = as_level(self.weight, gains)
        q = penalty_labels(gains, observed.reference, self.divergence, weight)
        return q, weight * label_divergence(q, observed.reference, self.divergence)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        config.pop("order")
        return {**config, "weight": saved(self.weight)}


def _flipped_at_unit_cost(gains: Any, observed: Observed, radius: Any) -> tuple[Any, Any]:
    """Total variation of an image: flips go where they gain most, the tail of the gaps.

    Atoms are the pixels, or for soft labels the classes of the pixels. What flips goes to the first
    of the classes of largest gain.
    """
    reference, weights = observed.reference, ops.expand_dims(observed.weights, -1)
    gaps = ops.max(gains, axis=-1, keepdims=True) - gains
    if observed.hard:
        gaps = ops.sum(reference * gaps, axis=-1, keepdims=True)
    mass = weights if observed.hard else weights * reference
    flat, moved = (ops.shape(gains)[0], -1), ops.minimum(radius, 1.0)
    _, tail = cvar(ops.reshape(gaps, flat), ops.reshape(mass, flat), moved)
    total = ops.sum(mass, axis=tuple(range(1, len(mass.shape))), keepdims=True)
    flipped = ops.divide_no_nan(moved * total * ops.reshape(tail, ops.shape(mass)), mass)
    flipped = reference * ops.where(gaps > 0, ops.minimum(flipped, 1.0), 0.0)
    gained = ops.sum(flipped, axis=-1, keepdims=True)
    first = ops.one_hot(ops.argmax(gains, axis=-1), gains.shape[-1], dtype=gains.dtype)
    return reference - flipped + gained * first, 0.0
