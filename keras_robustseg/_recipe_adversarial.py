"""The blocks `training.adversarial` and `evaluation.robustness` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from keras_robustseg._recipe_fields import Block, number, several, whole, wrong


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


Name = Literal["pgd", "segpgd", "cospgd", "mifgsm", "sea", "alma_prox", "fmn", "dag"]


class Robustness(Block):
    """A report of robustness on the test split at the end of the training, in `RUN/attack`."""

    attacks: tuple[Name, ...] = Field(
        ("segpgd", "cospgd"), strict=False, description="the worst of them counts"
    )
    eps: Annotated[
        tuple[float, ...],
        several(number(gt=0, le=1), "a list of shares such as [0.004, 0.016]", least=1, most=32),
    ] = Field(
        (1 / 255, 2 / 255, 4 / 255, 8 / 255), description="sizes, as shares of the images' range"
    )
    steps: Annotated[int, whole(ge=1, le=100_000)] = Field(20, description="of a fixed size")
    minimal_steps: Annotated[int, whole(ge=1, le=100_000)] = Field(
        100, description="of attacks of minimal norm"
    )
    limit: Annotated[int | None, whole(ge=1, null=True)] = Field(
        None, description="attack the first so many images; null takes all"
    )
    ignore_label: Annotated[int | None, whole(ge=0, null=True)] = Field(
        None, description="class that does not count; 0 attacks objects alone"
    )
    success_rate: Annotated[float, number(gt=0, le=1)] = Field(
        0.99, description="share of pixels that an attack of minimal norm must flip"
    )

    @field_validator("attacks")
    @classmethod
    def _some(cls, attacks: tuple[Name, ...]) -> tuple[Name, ...]:
        if not attacks or len(set(attacks)) < len(attacks):
            raise wrong("at least one attack, and each once")
        return attacks

    @field_validator("eps")
    @classmethod
    def _increasing(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        if list(eps) != sorted(set(eps)):
            raise wrong("sizes that increase")
        return eps
