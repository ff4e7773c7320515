"""From the block `method` of a recipe to a loss or a label model, by closed tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_robustseg._run_robust import robust_loss
from keras_robustseg.data import Source
from keras_robustseg.errors import RecipeError
from keras_robustseg.labels import Adele, ConfusionMatrices, CoTeaching, EarlyLearning, Pencil
from keras_robustseg.losses import (
    BackwardCorrection,
    Bootstrapping,
    CrossEntropy,
    CrossEntropyDice,
    ForwardCorrection,
    GeneralizedCrossEntropy,
    GeneralizedJensenShannon,
    LabelSmoothing,
    NoiseRobustDice,
    ProbabilityMAE,
    SoftDice,
    SymmetricCrossEntropy,
    TLoss,
    TruncatedGCE,
)
from keras_robustseg.recipes import Recipe

MakeLoss = Callable[[dict[str, Any], Source], Any]
"""Makes a loss from the fields of its block (without `kind`) and the data."""

MakeLabelModel = Callable[[dict[str, Any], Source], Any]
"""Makes a label model from the fields of its block (without `kind` and `region_weight`)."""


def plainly(kind: type) -> Callable[[dict[str, Any], Source], Any]:
    """Return the builder of a class whose keyword arguments are the fields of its block."""
    return lambda fields, source: kind(**fields)


LOSSES: dict[str, MakeLoss] = {
    "cross_entropy": plainly(CrossEntropy),
    "soft_dice": plainly(SoftDice),
    "cross_entropy_dice": plainly(CrossEntropyDice),
    "gjs": plainly(GeneralizedJensenShannon),
    "label_smoothing": plainly(LabelSmoothing),
    "bootstrapping": plainly(Bootstrapping),
    "gce": plainly(GeneralizedCrossEntropy),
    "truncated_gce": plainly(TruncatedGCE),
    "sce": plainly(SymmetricCrossEntropy),
    "mae": plainly(ProbabilityMAE),
    "noise_robust_dice": plainly(NoiseRobustDice),
    "t_loss": plainly(TLoss),
    "forward_correction": plainly(ForwardCorrection),
    "backward_correction": plainly(BackwardCorrection),
    "robust": robust_loss,
}


def confusion_matrices(fields: dict[str, Any], source: Source) -> ConfusionMatrices:
    """Return a matrix for each of the annotators that the masks of a source have places for."""
    annotators = source.load(source.split("train")[0]).mask.shape[-1]
    kind = fields.pop("matrices")
    return ConfusionMatrices(annotators, len(source.classes), kind=kind, **fields)


LABEL_MODELS: dict[str, MakeLabelModel] = {
    "pencil": plainly(Pencil),
    "elr": plainly(EarlyLearning),
    "co_teaching": plainly(CoTeaching),
    "adele": plainly(Adele),
    "confusion_matrices": confusion_matrices,
}


@dataclass(frozen=True)
class Method:
    """What a recipe's method comes to.

    Attributes:
        loss: for `compile`; None with a label model, which has its own.
        label_model: None for a plain training.
        region_weight: of the Dice term of a label model; None for its own default.
    """

    loss: Any = None
    label_model: Any = None
    region_weight: float | None = None

    @property
    def keeps_rows(self) -> bool:
        """Whether the label model keeps something for every training pixel."""
        return getattr(self.label_model, "keeps_rows", False)


def make_method(recipe: Recipe, source: Source) -> Method:
    """Return the loss or the label model that a recipe asks for.

    Args:
        recipe: the recipe.
        source: its data, whose classes and readers a method may have to know.

    Raises:
        RecipeError: the method does not fit the data.
    """
    fields = recipe.method.model_dump()
    kind = fields.pop("kind")
    try:
        if kind == "supervised":
            loss = fields["loss"]
            return Method(loss=LOSSES[loss.pop("kind")](loss, source))
        region = fields.pop("region_weight", None)
        return Method(label_model=LABEL_MODELS[kind](fields, source), region_weight=region)
    except ValueError as error:
        raise RecipeError(f"method: {error}") from error
