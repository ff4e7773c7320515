"""The recipe of a pixel classifier: features, classifier, annotators, and how it is tuned.

A recipe with the block `classifier` is one of these; `robustseg train` fits the classifier, and
`robustseg tune` finds the hyper-parameters that its block `tuning` names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import core_schema

from keras_robustseg._recipe_fields import (
    Block,
    Expect,
    number,
    rule,
    several,
    sibling_rule,
    whole,
    wrong,
)
from keras_robustseg._recipe_schema import BaseRecipe, Evaluation

_PHRASE = "a number of at least 0, or a list of such, one for each class"
_EACH = Expect(
    core_schema.union_schema(
        [number(ge=0).schema, several(number(ge=0), "a list of numbers").schema]
    ),
    _PHRASE,
)
_Each = Annotated[float | tuple[float, ...], _EACH]


class Features(Block):
    """Multi-scale features of pixels, standardized by the training images."""

    sigmas: Annotated[
        tuple[float, ...], several(number(gt=0), "a list of scales in pixels", distinct=True)
    ] = (1.0, 2.0, 4.0)
    intensity: bool = True
    gradient: bool = True
    hessian: bool = True
    structure_tensor: bool = True
    position: bool = False
    neighbourhood: Annotated[int, whole(ge=0, le=16)] = Field(
        0, description="radius of a window whose pixels are features"
    )
    noise: Annotated[float, number(ge=0)] = Field(
        0.0, description="variance of noise put on the features of training pixels alone"
    )


class LogisticRegression(Block):
    """Logistic regression with l2 and l1 penalties."""

    kind: Literal["logistic_regression"] = "logistic_regression"
    l2: _Each = 1e-3
    l1: _Each = 0.0
    formulation: Literal["auto", "binary", "multinomial"] = Field(
        "auto", description="two classes have one row of coefficients, or multinomial two"
    )


class Svm(Block):
    """Linear support vector machine."""

    kind: Literal["svm"] = "svm"
    loss: Literal["hinge", "squared_hinge", "crammer_singer"] = "squared_hinge"
    l2: _Each = 1e-3


class Qda(Block):
    """Gaussian classes whose precision matrices may know of noise in training."""

    kind: Literal["qda"] = "qda"
    precision: Literal["robust", "glasso", "empirical"] = "robust"
    sigma2: _Each = Field(0.0, description="noise variance of the training features (robust)")
    nuclear: _Each = Field(1e-3, description="penalty of the trace (robust)")
    l1: _Each = Field(1e-3, description="penalty beside the diagonal (robust, glasso)")


class Spatial(Block):
    """Scores go through the relaxed Potts problem of their image."""

    weight: _Each = Field(0.3, description="of the perimeter")
    epsilon: Annotated[float, number(gt=0)] = 0.5


class Pixels(Block):
    """How many pixels are drawn of each split, the same number of each class."""

    train: Annotated[int, whole(ge=10)] = 6000
    val: Annotated[int, whole(ge=10)] = 300
    test: Annotated[int, whole(ge=10)] = Field(8000, description="for the table of `tune`")


class Annotators(Block):
    """Simulated annotators: each training pixel has one, and the first of them are bad."""

    count: Annotated[int, whole(ge=1, le=10_000)] = 10
    bad: Annotated[int, whole(ge=0)] = 0
    flips: Annotated[float, number(ge=0, le=1)] = Field(
        0.8, description="share of a bad annotator's labels that are another class"
    )
    weights: Annotated[
        tuple[float, ...] | None, several(number(ge=0), "a list, one for each", null=True)
    ] = Field(None, description="one for each annotator; null for 1")

    @field_validator("bad")
    @classmethod
    def _some_of_them(cls, bad: int, info: ValidationInfo) -> int:
        if bad > info.data.get("count", bad):
            raise wrong("at most as many as `count`")
        return bad

    @field_validator("weights")
    @classmethod
    def _one_each(cls, weights: Any, info: ValidationInfo) -> Any:
        count = info.data.get("count")
        if weights is not None and count is not None and len(weights) != count:
            raise wrong(f"{count} weights, one for each annotator")
        return weights


class Tuned(Block):
    """A hyper-parameter that is tuned, from its value in the recipe."""

    name: Literal["l2", "l1", "sigma2", "nuclear", "weight", "epsilon", "annotator_weights"] = (
        Field(description="a field of classifier or spatial, or annotator_weights")
    )
    per: Literal["class"] | None = Field(None, description="one for each class, or null")
    bounds: Annotated[
        tuple[float, ...] | None,
        several(number(ge=0), "a list [low, high] of two", least=2, most=2, null=True),
    ] = Field(None, description="least and greatest value")
    pull: Annotated[float, number(ge=0)] = Field(0.0, description="strength of the pull to it")

    @field_validator("bounds")
    @classmethod
    def _ordered(cls, bounds: Any) -> Any:
        if bounds is not None and not bounds[0] < bounds[1]:
            raise wrong("a list [low, high] with low < high")
        return bounds


class Tuning(Block):
    """How hyper-parameters are tuned, by the gradient of a validation loss."""

    hyperparameters: Annotated[tuple[Tuned, ...], Field(strict=False, min_length=1)]
    folds: Annotated[int | None, whole(ge=2, le=100, null=True)] = Field(
        None, description="folds of the training pixels; null validates on the clean `val` split"
    )
    optimizer: Literal["adam", "lbfgs"] = "adam"
    steps: Annotated[int, whole(ge=1, le=100_000)] = 60
    learning_rate: Annotated[float, number(gt=0)] = 0.3
    baseline_cost: Literal["solves", "seconds"] = "solves"

    @field_validator("hyperparameters")
    @classmethod
    def _once(cls, tuned: tuple[Tuned, ...]) -> tuple[Tuned, ...]:
        names = [one.name for one in tuned]
        if len(set(names)) < len(names):
            raise wrong("each name once")
        return tuned


class PixelRecipe(BaseRecipe):
    """A pixel classifier: data, features, what is fitted, and what of it is tuned.

    Example:
        `load_recipe("pixel_svm_tv").classifier.l2`
    """

    features: Features = Features()
    pixels: Pixels = Pixels()
    classifier: Annotated[LogisticRegression | Svm | Qda, Field(discriminator="kind")]
    spatial: Spatial | None = Field(None, description="null classifies each pixel alone")
    annotators: Annotators | None = Field(None, description="null takes the labels as they are")
    tuning: Tuning | None = Field(None, description="null has nothing to tune")
    evaluation: Evaluation = Evaluation()

    @field_validator("classifier")
    @classmethod
    def _one_mask(cls, classifier: Any, info: ValidationInfo) -> Any:
        data = info.data.get("data")
        if data is not None and data.readers == "all":
            raise sibling_rule("got data.readers all, expected one mask of each image")
        return classifier

    @field_validator("tuning")
    @classmethod
    def _known_names(cls, tuning: Tuning | None, info: ValidationInfo) -> Tuning | None:
        known = _tunable(info.data)
        for one in tuning.hyperparameters if tuning else ():
            if known is not None and one.name not in known:
                raise rule(f"got {one.name!r}, expected one of {', '.join(known)}")
        return tuning


def _tunable(data: dict[str, Any]) -> list[str] | None:
    """Names that a recipe with these fields has a derivative for; None where that is not known."""
    if not {"classifier", "spatial", "annotators"} <= data.keys():
        return None
    classifier = data["classifier"]
    by_kind = {
        "logistic_regression": ["l2", "l1"],
        "svm": ["l2"],
        "robust": ["sigma2", "nuclear", "l1"],
        "glasso": ["l1"],
        "empirical": [],
    }
    names = list(by_kind[getattr(classifier, "precision", classifier.kind)])
    names += ["weight", "epsilon"] if data["spatial"] else []
    return names + (["annotator_weights"] if data["annotators"] else [])
