"""The block `method` of a recipe: what is minimised, a loss on the masks or a label model.

A kind of loss joins by a block here, in `Loss`, and a row in `LOSSES` of `_run_method`; a label
model by a block in `Method` and a row in `LABEL_MODELS` there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from keras_robustseg._recipe_fields import Block, number, sibling_rule
from keras_robustseg._recipe_losses import RobustLoss

_SHARE = Annotated[float, number(ge=0, le=1)]


class CrossEntropy(Block):
    """Mean over pixels of -log p of the given class."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class SoftDice(Block):
    """One minus the Dice overlap of probabilities and mask."""

    kind: Literal["soft_dice"] = "soft_dice"


class CrossEntropyDice(Block):
    """Sum of cross-entropy and soft Dice."""

    kind: Literal["cross_entropy_dice"] = "cross_entropy_dice"


class Gjs(Block):
    """Generalized Jensen-Shannon loss: PENCIL's labels, solved in closed form at each step."""

    kind: Literal["gjs"] = "gjs"
    trust: Annotated[float, number(gt=0, lt=1)] = Field(
        0.3, description="weight of the given mask against the prediction"
    )
    entropy: Annotated[float, number(ge=0, lt=1)] = Field(
        0.0, description="weight of the entropy term"
    )


Loss = Annotated[
    CrossEntropy | SoftDice | CrossEntropyDice | Gjs | RobustLoss, Field(discriminator="kind")
]


class Supervised(Block):
    """Plain training: the masks are taken as they are."""

    kind: Literal["supervised"] = "supervised"
    loss: Loss = CrossEntropy()


class Pencil(Block):
    """PENCIL: the masks are corrected while the network learns."""

    kind: Literal["pencil"] = "pencil"
    flip_margin: Annotated[float, number(gt=0, lt=1)] | None = Field(
        None, description="lead of another class (difference of probabilities) that moves a label"
    )
    trust: Annotated[float, number(gt=0, lt=0.5)] | None = Field(
        None, description="weight of the given mask, flip_margin / (1 + flip_margin)"
    )
    alpha: Annotated[float, number(gt=0)] | None = Field(
        None,
        description="the paper's alpha, flip_margin / number of classes",
        validate_default=True,
    )
    entropy: Annotated[float, number(ge=0, lt=1)] = Field(
        0.1, description="weight of the entropy term, the paper's beta"
    )
    label_rate: Annotated[float, number(gt=0)] = Field(
        1.0, description="step of the label logits, per pixel and visit"
    )
    warmup: _SHARE = Field(0.5, description="share of all steps with the masks as given")
    finetune: _SHARE = Field(
        0.0,
        description="share of all steps, at the end, with the corrected masks fixed",
        validate_default=True,
    )
    region_weight: Annotated[float, number(ge=0)] = Field(
        1.0, description="weight of the Dice term against the corrected masks"
    )
    store: Literal["device", "none"] = Field(
        "device", description="where label rows are kept; none solves for them at every step"
    )
    initial_logit: Annotated[float, number(gt=0)] = Field(
        10.0, description="logit of the given class when correction starts, the paper's K"
    )

    @field_validator("alpha")
    @classmethod
    def _exactly_one(cls, alpha: float | None, info: ValidationInfo) -> float | None:
        # A field whose own check failed is absent from `info.data`: it was given.
        values = {name: info.data.get(name, "bad") for name in ("flip_margin", "trust")}
        given = [name for name, value in (*values.items(), ("alpha", alpha)) if value is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise sibling_rule(f"got {got}, expected exactly one of flip_margin, trust, alpha")
        return alpha

    @field_validator("finetune")
    @classmethod
    def _leave_steps(cls, finetune: float, info: ValidationInfo) -> float:
        warmup = info.data.get("warmup", 0.0)
        if warmup + finetune > 1:
            raise sibling_rule(
                f"got warmup {warmup:g} and finetune {finetune:g}, expected a sum of at most 1"
            )
        return finetune


Method = Annotated[Supervised | Pencil, Field(discriminator="kind")]
