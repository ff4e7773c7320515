"""The block `method` of a recipe: what is minimised, a loss on the masks or a label model.

A kind of loss joins by a block here, in `Loss`, and a row in `LOSSES` of `_run_method`; a label
model by a block in `Method` and a row in `LABEL_MODELS` there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keras_robustseg._recipe_fields import Block, number, whole
from keras_robustseg._recipe_losses import RobustLoss
from keras_robustseg._recipe_pencil import Pencil
from keras_robustseg._recipe_rivals import Adele, CoTeaching, Elr
from keras_robustseg._recipe_robust import Robust

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
    CrossEntropy | SoftDice | CrossEntropyDice | Gjs | RobustLoss | Robust,
    Field(discriminator="kind"),
]


class Supervised(Block):
    """Plain training: the masks are taken as they are."""

    kind: Literal["supervised"] = "supervised"
    loss: Loss = CrossEntropy()


class ConfusionMatrices(Block):
    """A confusion matrix per annotator, learned with the network; needs `data.readers: all`."""

    kind: Literal["confusion_matrices"] = "confusion_matrices"
    matrices: Literal["global", "pixel"] = Field(
        "pixel", description="one matrix per annotator, or one per annotator and pixel"
    )
    rank: Annotated[int, whole(ge=1, le=64)] = Field(
        1, description="label profiles of an annotator at a pixel"
    )
    trace_weight: Annotated[float, number(ge=0)] = Field(
        0.01, description="weight of the trace, which keeps errors with the annotators"
    )
    warmup: _SHARE = Field(0.3, description="share of all steps with identity matrices")
    trust: Annotated[float, number(gt=0, lt=1)] = Field(
        0.9, description="diagonal that the matrices start with, above 1 / number of classes"
    )
    width: Annotated[int, whole(ge=1, le=1024)] = Field(
        16, description="channels of the convolutions that give the matrices of a pixel"
    )
    region_weight: Annotated[float, number(ge=0)] = Field(
        0.0, description="weight of the Dice term against the belief about the true class"
    )


Method = Annotated[
    Supervised | Pencil | Elr | CoTeaching | Adele | ConfusionMatrices, Field(discriminator="kind")
]
