"""The block `training.adversarial` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keras_robustseg._recipe_fields import Block, number, whole


class Adversarial(Block):
    """Training on images that an attack has changed (TensorFlow only).

    Sizes are shares of the range of the training images, from their least value to their greatest.
    """

    attack: Literal["segpgd", "cospgd", "pgd"] = "segpgd"
    eps: Annotated[float, number(gt=0, le=1)] = Field(
        4 / 255, description="largest change of a value, as a share of the range"
    )
    steps: Annotated[int, whole(ge=1, le=1000)] = Field(3, description="of the attack")
    step_size: Annotated[float | None, number(gt=0, null=True)] = Field(
        None, description="of a step, as a share of the range; null takes 2.5 eps / steps"
    )
    mix: Annotated[float, number(gt=0, le=1)] = Field(
        0.5, description="share of each batch that is attacked"
    )
    warmup: Annotated[float, number(ge=0, le=1)] = Field(
        0.2, description="share of all steps, from the first, without attack"
    )
