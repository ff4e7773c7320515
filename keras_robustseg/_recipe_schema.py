"""The recipe: what may be written in one, block by block, and what each field defaults to.

The blocks for data (sources and annotation noise) are in `_recipe_data`, those of the network in
`_recipe_model`, those of the method in `_recipe_method`. Every choice between forms is made by the
field `kind`, out of a closed list; nothing is imported or evaluated.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from keras_robustseg._recipe_adversarial import Adversarial, Robustness
from keras_robustseg._recipe_data import DataBlock
from keras_robustseg._recipe_fields import (
    Block,
    number,
    several,
    sibling_rule,
    text,
    true_or,
    whole,
    wrong,
)
from keras_robustseg._recipe_method import Method
from keras_robustseg._recipe_model import Model, UNet

# Pipeline

_PROBABILITY = Annotated[float, number(ge=0, le=1)]
_AXES = several(whole(ge=0, le=2), "a list of axes such as [0, 1]", most=3, distinct=True)


class Affine(Block):
    """Random rotation, scaling and shift of image and mask together."""

    rotation: Annotated[float, number(ge=0, le=180)] = Field(15.0, description="at most, degrees")
    scale: Annotated[float, number(ge=0, lt=1)] = Field(0.1, description="at most, share of size")
    shift: Annotated[float, number(ge=0)] = Field(4.0, description="at most, pixels")
    probability: _PROBABILITY = Field(0.5, description="how often it is applied")


class Elastic(Block):
    """Random smooth deformation of image and mask together."""

    sigma: Annotated[float, number(gt=0)] = Field(8.0, description="smoothness, pixels")
    magnitude: Annotated[float, number(ge=0)] = Field(2.0, description="typical shift, pixels")
    probability: _PROBABILITY = Field(0.5, description="how often it is applied")


class Intensity(Block):
    """Random change of the image values, which are standardized before."""

    brightness: Annotated[float, number(ge=0)] = Field(0.1, description="largest offset")
    contrast: Annotated[float, number(ge=0, lt=1)] = Field(0.1, description="largest factor - 1")
    noise: Annotated[float, number(ge=0)] = Field(0.0, description="standard deviation added")
    gamma: Annotated[float, number(ge=0, lt=1)] = Field(0.0, description="largest exponent - 1")


class Augment(Block):
    """Augmentation of the training split: a pure function of seed, epoch and sample."""

    flip: Annotated[bool | tuple[int, ...], true_or(_AXES, "a list of axes such as [0, 1]")] = (
        Field(True, description="mirror along all spatial axes (true), none, or the listed ones")
    )
    rotate90: bool = Field(False, description="turn by right angles in the last two axes")
    affine: Affine | None = None
    elastic: Elastic | None = None
    intensity: Intensity | None = None


class Pipeline(Block):
    """How samples become batches."""

    batch_size: Annotated[int, whole(ge=1, le=65536)] = 16
    crop: Annotated[
        tuple[int, ...] | None,
        several(whole(ge=1), "a list of 2 or 3 sizes such as [64, 64]", least=2, most=3, null=True),
    ] = Field(None, description="training patch; null trains on whole images, all of one size")
    slices: Annotated[int | None, whole(ge=0, le=2, null=True)] = Field(
        None, description="axis along which volumes are cut into 2-D slices"
    )
    augment: Augment = Augment()
    cache: Literal["memory", "disk", "none"] = Field(
        "memory", description="where decoded samples are kept between epochs"
    )


# Training


class Adam(Block):
    """Adam."""

    kind: Literal["adam"] = "adam"
    learning_rate: Annotated[float, number(gt=0)] = 1e-3
    weight_decay: Annotated[float, number(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"


class AdamW(Block):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Annotated[float, number(gt=0)] = 1e-3
    weight_decay: Annotated[float, number(ge=0)] = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"


class Sgd(Block):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, number(gt=0)] = 1e-2
    momentum: Annotated[float, number(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, number(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"


class Training(Block):
    """How long and how the network is trained, and how often its state is saved."""

    epochs: Annotated[int, whole(ge=1, le=1_000_000)] = 40
    optimizer: Annotated[Adam | AdamW | Sgd, Field(discriminator="kind")] = Adam()
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool = Field(False, description="XLA; slower on a CPU, faster on a GPU")
    steps_per_execution: Annotated[int, whole(ge=1)] = 1
    gradient_accumulation: Annotated[int, whole(ge=1)] = Field(
        1, description="batches whose gradients are averaged before a step"
    )
    save_every_seconds: Annotated[float | None, number(gt=0, null=True)] = 60.0
    save_every_steps: Annotated[int | None, whole(ge=1, null=True)] = None
    adversarial: Adversarial | None = Field(
        None, description="attack the images of each step; null trains on them as they are"
    )
    max_skipped_steps: Annotated[int, whole(ge=0)] = Field(
        10, description="steps with a result that is not finite before training gives up"
    )


# Evaluation, export, report


class Evaluation(Block):
    """What is measured at the end."""

    surface: bool = Field(True, description="surface distances too (HD95, ASSD, NSD)")
    tolerance: Annotated[float, number(ge=0)] = Field(1.0, description="of the NSD, mm or pixels")
    batch_size: Annotated[int, whole(ge=1)] = 16
    patch: Annotated[
        tuple[int, ...] | None,
        several(whole(ge=1), "a list of 2 or 3 sizes such as [64, 64]", least=2, most=3, null=True),
    ] = Field(None, description="size of the sliding window; null predicts whole images")
    robustness: Robustness | None = Field(
        None, description="attack the network; null does not (TensorFlow only)"
    )


class Export(Block):
    """The model that a server loads, written at the end of training."""

    enabled: bool = True
    name: Annotated[
        str | None,
        text(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            phrase="a name of letters, digits, '.', '_' and '-'",
            null=True,
        ),
    ] = Field(None, description="folder under saved_models/; null takes the recipe's name")
    formats: tuple[Literal["saved_model", "onnx", "litert"], ...] = Field(
        ("saved_model",), strict=False
    )

    @field_validator("formats")
    @classmethod
    def _once(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if not formats or len(set(formats)) < len(formats):
            raise wrong("at least one format, and each once")
        return formats


class Report(Block):
    """Figures in the run directory."""

    overlays: Annotated[int, whole(ge=0, le=1000)] = Field(8, description="samples shown")
    tensorboard: bool = Field(False, description="logs for TensorBoard in the run directory")


class BaseRecipe(Block):
    """What every recipe has: a name, a seed, data."""

    name: Annotated[
        str,
        text(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            phrase="a name of letters, digits, '.', '_' and '-'",
        ),
    ] = Field(description="names the run directory and the exported model")
    seed: Annotated[int, whole(ge=0, le=2**31 - 1)] = 0
    data: DataBlock

    def resolved(self) -> dict[str, Any]:
        """Return the recipe as plain values with every default written out."""
        return self.model_dump(mode="json")

    @property
    def data_seed(self) -> int:
        """Seed of what is drawn about the data: noise, readers, limits."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def recipe_hash(self) -> str:
        """SHA-256 of the resolved recipe; equal for two texts that mean the same."""
        content = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


class Recipe(BaseRecipe):
    """A whole training: data, network, method, and what is written at the end.

    Example:
        `load_recipe("quickstart").training.epochs`
    """

    pipeline: Pipeline = Pipeline()
    model: Model = UNet()
    method: Method
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()
    report: Report = Report(overlays=8, tensorboard=False)

    @field_validator("method")
    @classmethod
    def _annotators_apart(cls, method: Any, info: ValidationInfo) -> Any:
        data = info.data.get("data")
        if method.kind == "confusion_matrices" and data is not None and data.readers != "all":
            raise sibling_rule(f"got data.readers {data.readers}, expected all: who drew what")
        return method
