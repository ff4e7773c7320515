"""The loss `robust` of a recipe: class costs, a set of labels, a risk of pixels, one of images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from keras_robustseg._recipe_fields import Block, number, several, whole

Stance = Literal["pessimistic", "optimistic"]
Divergence = Literal["kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys", "renyi"]
Penalty = Literal["kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys"]

_LEVEL = Annotated[float, number(ge=0)]
_MAYBE_LEVEL = Annotated[float | None, number(ge=0, null=True)]
_POSITIVE = Annotated[float, number(gt=0)]
_MAYBE_POSITIVE = Annotated[float | None, number(gt=0, null=True)]
_SMOOTHING = Annotated[float, number(ge=0, lt=1)]
_COST = several(
    several(number(ge=0, null=True), "a row of numbers of 0 or more, or null"),
    "a square list of rows of numbers of 0 or more, null where a flip is forbidden",
    least=2,
)
_STANCE: Any = Field("pessimistic", description="against the worst, or with the best case")


# Sets of labels ----------------------------------------------------------------------------------


class Observed(Block):
    """Labels as they are given."""

    kind: Literal["observed"] = "observed"


class DivergenceLabels(Block):
    """Labels within a divergence of the given ones."""

    kind: Literal["divergence"] = "divergence"
    divergence: Divergence = "tv"
    radius: _LEVEL = Field(description="how far a label may move; with tv the share that may flip")
    budget: Literal["pixel", "image"] = Field("pixel", description="what the radius is for")
    smoothing: _SMOOTHING = Field(0.0, description="share of labels spread over all classes before")
    order: _MAYBE_POSITIVE = Field(None, description="of renyi")
    stance: Stance = _STANCE


class DivergencePenaltyLabels(Block):
    """Labels that pay for their divergence from the given ones."""

    kind: Literal["divergence_penalty"] = "divergence_penalty"
    divergence: Penalty = "kl"
    weight: _POSITIVE = Field(description="price of the divergence, in units of the cost")
    smoothing: _SMOOTHING = Field(0.0, description="share of labels spread over all classes before")
    stance: Stance = _STANCE


class WassersteinLabels(Block):
    """Labels within a transport cost of the given ones, between classes."""

    kind: Literal["wasserstein"] = "wasserstein"
    cost: Annotated[tuple[tuple[float | None, ...], ...], _COST] = Field(
        description="rows: what it costs to call this class each of the others; null forbids"
    )
    radius: _MAYBE_LEVEL = Field(None, description="bound on the cost; or a price")
    budget: Literal["pixel", "image"] = Field("pixel", description="what the radius is for")
    price: _MAYBE_LEVEL = Field(None, description="of a unit of cost, instead of a radius")
    stance: Stance = _STANCE


class SpatialLabels(Block):
    """Labels that moved by a few pixels."""

    kind: Literal["spatial"] = "spatial"
    window: Annotated[int, whole(ge=1, le=16)] = Field(
        description="how many pixels a label may move along each axis"
    )
    radius: _MAYBE_LEVEL = Field(None, description="mean distance, pixels; or a price")
    metric: Literal["euclidean", "sqeuclidean", "chebyshev"] = "euclidean"
    coupling: Literal["jitter", "joint"] = Field(
        "jitter", description="each pixel borrows a label, or each label finds a pixel"
    )
    price: _MAYBE_LEVEL = Field(None, description="of a pixel of distance, instead of a radius")
    stance: Stance = _STANCE


LabelSet = Annotated[
    Observed | DivergenceLabels | DivergencePenaltyLabels | WassersteinLabels | SpatialLabels,
    Field(discriminator="kind"),
]


# Risks -------------------------------------------------------------------------------------------


class Mean(Block):
    """The weighted mean."""

    kind: Literal["mean"] = "mean"


class WorstCase(Block):
    """The greatest loss."""

    kind: Literal["worst_case"] = "worst_case"
    stance: Stance = _STANCE


class Cvar(Block):
    """Mean of the worst share of the losses; optimistic, of the best (small-loss trimming)."""

    kind: Literal["cvar"] = "cvar"
    alpha: Annotated[float, number(gt=0, le=1)] = Field(description="the share")
    smoothing: Literal["entropic", "l2"] | None = None
    temperature: _MAYBE_POSITIVE = Field(None, description="of the smoothing, units of the loss")
    stance: Stance = _STANCE


class Entropic(Block):
    """Tilted mean; over images this is hardness-weighted training."""

    kind: Literal["entropic"] = "entropic"
    temperature: _POSITIVE = Field(description="units of the loss; small is near the worst case")
    stance: Stance = _STANCE


class MeanSemideviation(Block):
    """Mean plus a share of the upper semideviation."""

    kind: Literal["mean_semideviation"] = "mean_semideviation"
    coefficient: Annotated[float, number(ge=0, le=1)] = 1.0
    order: Annotated[int, whole(ge=1, le=2)] = 1
    stance: Stance = _STANCE


class DivergenceBall(Block):
    """Worst weights within a divergence of the given ones."""

    kind: Literal["divergence_ball"] = "divergence_ball"
    divergence: Divergence = "kl"
    radius: _LEVEL
    order: _MAYBE_POSITIVE = Field(None, description="of renyi")
    stance: Stance = _STANCE


class DivergencePenalty(Block):
    """Worst weights, which pay for their divergence from the given ones."""

    kind: Literal["divergence_penalty"] = "divergence_penalty"
    divergence: Penalty = "chi2"
    weight: _POSITIVE = Field(description="price of the divergence, units of the loss")
    stance: Stance = _STANCE


Risk = Annotated[
    Mean | WorstCase | Cvar | Entropic | MeanSemideviation | DivergenceBall | DivergencePenalty,
    Field(discriminator="kind"),
]


class Robust(Block):
    """Risk over images of the risk over pixels of the worst, or best, cost near the labels."""

    kind: Literal["robust"] = "robust"
    cost: Literal["cross_entropy", "mae", "gce"] = Field(
        "cross_entropy", description="of a class at a pixel; mae and gce are bounded"
    )
    gce_order: Annotated[float, number(gt=0, le=1)] = Field(0.7, description="exponent of gce")
    label_model: LabelSet = Field(Observed(), description="labels that the cost is paid against")
    pixel_risk: Risk = Field(Mean(), description="over the pixels of an image")
    image_risk: Risk = Field(Mean(), description="over the images of a batch")
    pixel_pool: Literal["image", "batch"] = Field(
        "image", description="batch takes the pixels of all images as one"
    )
    scope: Literal["global", "replica"] = Field(
        "global", description="whether replicas are one batch"
    )
