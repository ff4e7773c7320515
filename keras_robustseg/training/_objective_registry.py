"""Which objective trains which label model: a closed list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_robustseg.labels import Adele, ConfusionMatrices, CoTeaching, EarlyLearning, Pencil
from keras_robustseg.training._label_objective import LabelObjective
from keras_robustseg.training._objective import Objective, Setting
from keras_robustseg.training._objective_adele import AdeleObjective
from keras_robustseg.training._objective_co_teaching import CoTeachingObjective
from keras_robustseg.training._objective_confusion import ConfusionObjective
from keras_robustseg.training._objective_early_learning import EarlyLearningObjective

_Make = Callable[[Any, Setting], Objective]

OBJECTIVES: dict[type, _Make] = {
    Pencil: LabelObjective.make,
    EarlyLearning: EarlyLearningObjective,
    CoTeaching: CoTeachingObjective,
    Adele: AdeleObjective,
    ConfusionMatrices: ConfusionObjective,
}


def make_objective(label_model: Any, setting: Setting) -> Objective:
    """Return what trains a label model.

    Args:
        label_model: an instance of one of the label models of `keras_robustseg.labels`.
        setting: of the training.

    Raises:
        TypeError: it is none of them.
        ValueError: it does not fit the training.
    """
    for kind, make in OBJECTIVES.items():
        if isinstance(label_model, kind):
            return make(label_model, setting)
    names = ", ".join(kind.__name__ for kind in OBJECTIVES)
    raise TypeError(f"`label_model` must be one of {names}. Received: {label_model!r}")
