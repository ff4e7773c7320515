"""The block `method: {kind: pencil}` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from keras_robustseg._recipe_fields import Block, number, number_or, sibling_rule

_SHARE = Annotated[float, number(ge=0, le=1)]
_BELOW_ONE = Annotated[float, number(ge=0, lt=1)]
_SHORTEST_WARMUP = 0.1


class Pencil(Block):
    """PENCIL: the masks are corrected while the network learns."""

    kind: Literal["pencil"] = "pencil"
    flip_margin: Annotated[float, number(gt=0, lt=1)] | None = Field(
        None,
        description="lead of another class (difference of probabilities) that moves a label; "
        "0.2 where neither this nor trust nor alpha is given",
    )
    trust: Annotated[float, number(gt=0, lt=0.5)] | None = Field(
        None, description="weight of the given mask, flip_margin / (1 + flip_margin)"
    )
    alpha: Annotated[float, number(gt=0)] | None = Field(
        None,
        description="the paper's alpha, flip_margin / number of classes",
        validate_default=True,
    )
    entropy: _BELOW_ONE = Field(0.1, description="weight of the entropy term, the paper's beta")
    label_rate: Annotated[float, number(gt=0)] = Field(
        1.0, description="step of the label logits, per pixel and visit"
    )
    warmup: Annotated[float | Literal["auto"], number_or("auto", ge=0, le=1)] = Field(
        "auto",
        description="share of all steps with the masks as given; auto finds it from the training "
        "curves of the classes",
    )
    finetune: _SHARE = Field(
        0.0,
        description="share of all steps, at the end, with the corrected masks fixed",
        validate_default=True,
    )
    region_weight: Annotated[float, number(ge=0)] = Field(
        1.0, description="weight of the Dice term against the corrected masks"
    )
    presence: _BELOW_ONE = Field(
        0.3,
        description="share of a class's given mass that must be predicted in an image before its "
        "labels move there; 0 lets all move",
    )
    image_weights: Annotated[float, number(ge=0)] = Field(
        1.0, description="power of the agreement by which images count; 0 counts all alike"
    )
    mass_floor: _BELOW_ONE = Field(
        0.3, description="share of its mass below which the correction of a class is given up"
    )
    store: Literal["device", "disk", "teacher", "none"] = Field(
        "device",
        description="where labels are kept: rows in memory or on a disk, averaged weights, nothing",
    )
    storage: Literal["float32", "float16", "uint8"] = Field(
        "float32", description="how a row keeps a number"
    )
    variant: Literal["paper", "official_code"] = Field(
        "paper", description="the paper's equations, or those of the released program"
    )
    direction: Literal["prediction_first", "label_first"] = Field(
        "prediction_first", description="KL(p || q) as in the paper, or KL(q || p)"
    )
    compatibility: Literal["cross_entropy", "kl"] = Field(
        "cross_entropy", description="what keeps labels near the given mask"
    )
    teacher_decay: Annotated[float, number(gt=0, lt=1)] = Field(
        0.99, description="of the averaged weights, with store teacher"
    )
    initial_logit: Annotated[float, number(gt=0)] = Field(
        10.0, description="logit of the given class when correction starts, the paper's K"
    )

    @field_validator("alpha")
    @classmethod
    def _at_most_one(cls, alpha: float | None, info: ValidationInfo) -> float | None:
        # A field whose own check failed is absent from `info.data`: it was given.
        values = {name: info.data.get(name, "bad") for name in ("flip_margin", "trust")}
        given = [name for name, value in (*values.items(), ("alpha", alpha)) if value is not None]
        if len(given) > 1:
            got = " and ".join(given)
            raise sibling_rule(f"got {got}, expected one of flip_margin, trust, alpha")
        return alpha

    @field_validator("finetune")
    @classmethod
    def _leave_steps(cls, finetune: float, info: ValidationInfo) -> float:
        warmup = info.data.get("warmup", 0.0)
        share = _SHORTEST_WARMUP if warmup == "auto" else warmup
        if share + finetune > 1:
            raise sibling_rule(
                f"got warmup {warmup if warmup == 'auto' else format(warmup, 'g')} and finetune "
                f"{finetune:g}, expected a sum of at most 1"
                + (f" (auto takes at least {_SHORTEST_WARMUP:g})" if warmup == "auto" else "")
            )
        return finetune
