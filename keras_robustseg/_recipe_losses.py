"""Losses that a recipe can name for plain training on noisy masks, one block each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import core_schema

from keras_robustseg._recipe_fields import Block, Expect, number, several, whole, wrong

_RATE = number(ge=0, lt=1)
_MATRIX = several(several(number(ge=0, le=1), "a row of numbers"), "rows of numbers", least=2)
_TRANSITION_PHRASE = (
    "the rate of symmetric noise, a number from 0 to below 1, or a square list of rows from 0 to 1 "
    "that each sum to 1"
)
_TRANSITION = Expect(core_schema.union_schema([_RATE.schema, _MATRIX.schema]), _TRANSITION_PHRASE)
_NU_PHRASE = "a number above 0, or likeliest"
_NU = Expect(
    core_schema.union_schema([number(gt=0).schema, core_schema.literal_schema(["likeliest"])]),
    _NU_PHRASE,
)


class LabelSmoothing(Block):
    """Cross-entropy with a share of each label spread over all classes."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    epsilon: Annotated[float, number(ge=0, lt=1)] = Field(
        0.1, description="share of the label that is spread"
    )


class Bootstrapping(Block):
    """Cross-entropy with labels mixed with the network's own prediction (Reed et al.)."""

    kind: Literal["bootstrapping"] = "bootstrapping"
    belief: Literal["soft", "hard"] = Field(
        "soft", description="probabilities, or the largest class"
    )
    trust: Annotated[float | None, number(gt=0, le=1, null=True)] = Field(
        None, description="weight of the label; null takes the paper's, .95 (soft) or .8 (hard)"
    )


class Gce(Block):
    """Generalised cross-entropy (1 - p^q) / q: cross-entropy for small q, 1 - p for q = 1."""

    kind: Literal["gce"] = "gce"
    q: Annotated[float, number(gt=0, le=1)] = Field(0.7, description="exponent")


class TruncatedGce(Block):
    """Generalised cross-entropy without gradient where the label's probability is below k."""

    kind: Literal["truncated_gce"] = "truncated_gce"
    q: Annotated[float, number(gt=0, le=1)] = Field(0.7, description="exponent")
    threshold: Annotated[float | None, number(gt=0, lt=1, null=True)] = Field(
        None, description="the k; null takes 1 / number of classes"
    )


class Sce(Block):
    """Symmetric cross-entropy: alpha CE(y, p) + beta CE(p, y)."""

    kind: Literal["sce"] = "sce"
    alpha: Annotated[float, number(gt=0)] = Field(0.1, description="weight of the cross-entropy")
    beta: Annotated[float, number(ge=0)] = Field(1.0, description="weight of the reverse one")
    log_zero: Annotated[float, number(ge=-80, lt=0)] = Field(
        -4.0, description="what log 0 is taken for"
    )


class Mae(Block):
    """Mean absolute error of probabilities, 1 - p of the given class."""

    kind: Literal["mae"] = "mae"


class NoiseRobustDice(Block):
    """Dice loss with |p - y|^gamma in its numerator (Wang et al.)."""

    kind: Literal["noise_robust_dice"] = "noise_robust_dice"
    gamma: Annotated[float, number(ge=1, le=2)] = Field(1.5, description="exponent")


class TLoss(Block):
    """Student-t likelihood of the error of whole images; those far off lose their pull."""

    kind: Literal["t_loss"] = "t_loss"
    nu: Annotated[float | Literal["likeliest"], _NU] = Field(
        1.0, description="degrees of freedom, a number or likeliest (found for each batch)"
    )
    dimension: Annotated[int, whole(ge=2)] = Field(
        256, description="even number of independent pixels that an image counts as"
    )

    @field_validator("dimension")
    @classmethod
    def _even(cls, dimension: int) -> int:
        if dimension % 2:
            raise wrong("an even number")
        return dimension


class _Transition(Block):
    transition: Annotated[float | tuple[tuple[float, ...], ...], _TRANSITION] = Field(
        description="P(given j | true k) as rows k, or a number, the rate of symmetric noise"
    )

    @field_validator("transition")
    @classmethod
    def _stochastic(cls, transition: Any) -> Any:
        rows = transition if isinstance(transition, tuple) else ()
        if any(len(row) != len(rows) or abs(sum(row) - 1) > 1e-6 for row in rows):
            raise wrong(_TRANSITION_PHRASE)
        return transition


class Forward(_Transition):
    """Cross-entropy of the given labels, predicted through the matrix of label noise."""

    kind: Literal["forward_correction"] = "forward_correction"


class Backward(_Transition):
    """Cross-entropy with labels undone by the inverse of the matrix of label noise."""

    kind: Literal["backward_correction"] = "backward_correction"


RobustLoss = (
    LabelSmoothing
    | Bootstrapping
    | Gce
    | TruncatedGce
    | Sce
    | Mae
    | NoiseRobustDice
    | TLoss
    | Forward
    | Backward
)
