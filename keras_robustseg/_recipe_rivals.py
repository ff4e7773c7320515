"""Blocks of the label models that PENCIL is compared with: ELR, co-teaching, ADELE."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from keras_robustseg._recipe_fields import Block, number, several, wrong

_SHARE = Annotated[float, number(ge=0, le=1)]
_REGION = Field(0.0, description="weight of a Dice term against the masks that are trained on")
_STORE: Any = Field("device", description="where the numbers of each pixel are kept")
_SCALES = several(number(gt=0, le=4), "a list of factors such as [0.7, 1, 1.5]", distinct=True)


class Elr(Block):
    """ELR: the average of earlier predictions for a pixel holds the network back from its label."""

    kind: Literal["elr"] = "elr"
    momentum: Annotated[float, number(ge=0, lt=1)] = Field(
        0.7, description="of the average, the paper's beta"
    )
    weight: Annotated[float, number(ge=0)] = Field(
        3.0, description="of the regulariser, the paper's lambda"
    )
    region_weight: Annotated[float, number(ge=0)] = _REGION
    store: Literal["device", "disk"] = _STORE
    storage: Literal["float32", "float16"] = "float32"


class CoTeaching(Block):
    """Co-teaching: two networks, each learns from the pixels that the other finds easy."""

    kind: Literal["co_teaching"] = "co_teaching"
    forget_rate: Annotated[float, number(ge=0, lt=1)] = Field(
        0.2, description="share of the pixels of every class that is left out in the end"
    )
    warmup: _SHARE = Field(0.25, description="share of all steps over which that share rises")
    scope: Literal["batch", "image"] = Field(
        "batch", description="among which pixels losses are compared"
    )
    served: Literal["first", "mean"] = Field(
        "first", description="what predicts and is exported: one network, or the mean of both"
    )
    region_weight: Annotated[float, number(ge=0)] = _REGION


class Adele(Block):
    """ADELE: each class is corrected from the bend of its training curve on."""

    kind: Literal["adele"] = "adele"
    confidence: Annotated[float, number(gt=0, lt=1)] = Field(
        0.8, description="least probability of a corrected pixel, the paper's tau"
    )
    slope_drop: Annotated[float, number(gt=0, lt=1)] = Field(
        0.9, description="drop of the curve's slope at which correction begins, the paper's r"
    )
    consistency: Annotated[float, number(ge=0)] = Field(
        1.0, description="weight of the divergence between scales"
    )
    gate: Annotated[float, number(ge=0, lt=1)] = Field(
        0.8, description="least probability for which scales must agree, the paper's rho"
    )
    scales: Annotated[tuple[float, ...], _SCALES] = Field(
        (0.7, 1.0, 1.5), description="factors of the image size, 1 among them"
    )
    class_constraint: bool = Field(
        True, description="whether a pixel can only become a class that its image's mask has"
    )
    repeat: bool = Field(
        True, description="correct at every visit, or only in the epoch after a class has begun"
    )
    region_weight: Annotated[float, number(ge=0)] = _REGION
    store: Literal["device", "disk"] = _STORE
    storage: Literal["float32", "float16"] = "float32"

    @field_validator("scales")
    @classmethod
    def _serves_one(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in scales:
            raise wrong("a list of factors with 1 among them")
        return scales
