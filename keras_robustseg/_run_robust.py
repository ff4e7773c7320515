"""From the recipe's loss `robust` to the loss, by closed tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_robustseg import risk
from keras_robustseg.data import Source
from keras_robustseg.labels import (
    DivergenceAmbiguity,
    DivergencePenaltyAmbiguity,
    SpatialWassersteinAmbiguity,
    WassersteinAmbiguity,
)
from keras_robustseg.losses import RobustSegmentationLoss

LABEL_SETS = {
    "divergence": DivergenceAmbiguity,
    "divergence_penalty": DivergencePenaltyAmbiguity,
    "wasserstein": WassersteinAmbiguity,
    "spatial": SpatialWassersteinAmbiguity,
}
RISKS = {
    "worst_case": risk.WorstCase,
    "cvar": risk.CVaR,
    "entropic": risk.EntropicRisk,
    "mean_semideviation": risk.MeanSemideviation,
    "divergence_ball": risk.DivergenceBall,
    "divergence_penalty": risk.DivergencePenalty,
}


def robust_loss(fields: dict[str, Any], source: Source) -> RobustSegmentationLoss:
    """Return the loss of a block `robust` (without `kind`).

    Raises:
        ValueError: its parts do not go together, or a cost is for another number of classes.
    """
    label_model = _part(LABEL_SETS, fields.pop("label_model", None))
    classes = len(source.classes)
    if isinstance(label_model, WassersteinAmbiguity) and len(label_model.matrix) != classes:
        raise ValueError(
            f"`cost` must have one row for each of the {classes} classes of the data. "
            f"Received: {len(label_model.matrix)} rows"
        )
    risks = {name: _part(RISKS, fields.pop(name, None)) for name in ("pixel_risk", "image_risk")}
    return RobustSegmentationLoss(label_model=label_model, **risks, **fields)


def _part(kinds: Mapping[str, type], block: dict[str, Any] | None) -> Any:
    """The object of a block; None for the mean and for labels as given."""
    given = dict(block or {})
    kind = kinds.get(given.pop("kind", ""))
    return None if kind is None else kind(**given)
