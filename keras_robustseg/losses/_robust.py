"""RobustSegmentationLoss: class costs, a label model and two risk measures in a row."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._ambiguity_base import LabelAmbiguity, Observed
from keras_robustseg.labels._masks import has_one_id_per_pixel
from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._robust_costs import check_cost, class_costs
from keras_robustseg.losses._robust_figures import batch_figure
from keras_robustseg.losses._robust_weights import Composed, compose, per_image_rows
from keras_robustseg.risk import RiskMeasure


@keras.saving.register_keras_serializable(package="keras_robustseg")
class RobustSegmentationLoss(SegmentationLoss):
    """Risk over images of the risk over pixels of the worst, or best, cost near the labels.

        rho_batch( rho_image( U( c(f(x)), y ) ) )

    c are class costs, U is a label ambiguity set, rho_image goes over the pixels of an image and
    rho_batch over the images; each may be left out, and with none of them this is the weighted
    mean. Sample weights are base weights, never factors: weight 2 is the pixel twice, and a pixel
    of weight 0 is not there. An image weighs as much as its pixels together.

    The risk over the batch, and pixels pooled over it, count the images of all TensorFlow
    replicas as one batch: scalars, or one loss an image, are exchanged, and the loss of two
    replicas is that of one device with both batches. On JAX with `keras.distribution` batches are
    global anyway. scope="replica" leaves each replica alone, which is biased: of 10 images on
    one replica, the worst tenth is one image.

    Radii and levels may be Keras variables (`CVaR(keras.Variable(0.5, trainable=False))`): what a
    callback assigns holds from the next step on, without a new trace. On the JAX backend the model
    has to know them: `model.levels = loss.variables`.

    "none" as reduction gives pixel terms whose weighted mean is the loss.

    Args:
        cost: "cross_entropy", "mae" or "gce"; see `class_costs`.
        label_model: a set of `labels`, such as `DivergenceAmbiguity`; None takes labels as given.
        pixel_risk: measure of `risk` over the pixels of an image; not with a label model whose
            budget is that of an image.
        image_risk: measure of `risk` over the images of the batch.
        ignore_class: one more id that means void, next to the negative ones.
        from_logits: whether predictions are logits; else probabilities.
        pixel_pool: "image"; or "batch" for one risk over the pixels of all images at once, the
            less biased choice where few pixels of an image matter. Then no image risk.
        scope: "global" or "replica".
        gce_order: order of the cost "gce".
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: the parts do not go together, or an argument is none of its values; in a call,
            ids with a label model that would hold them.

    Example:
        `losses.RobustSegmentationLoss(image_risk=risk.CVaR(0.25))(mask, logits, sample_weight)`
    """

    def __init__(
        self,
        cost: str = "cross_entropy",
        label_model: LabelAmbiguity | None = None,
        pixel_risk: RiskMeasure | None = None,
        image_risk: RiskMeasure | None = None,
        ignore_class: int | None = None,
        from_logits: bool = True,
        *,
        pixel_pool: str = "image",
        scope: str = "global",
        gce_order: float = 0.7,
        **kwargs: Any,
    ) -> None:
        check_cost(cost, gce_order)
        _check_parts(label_model, pixel_risk, image_risk, pixel_pool, scope)
        super().__init__(from_logits=from_logits, ignore_class=ignore_class, **kwargs)
        self.cost, self.gce_order = cost, float(gce_order)
        self.label_model, self.pixel_risk, self.image_risk = label_model, pixel_risk, image_risk
        self.pixel_pool, self.scope = pixel_pool, scope

    @property
    def variables(self) -> list[keras.Variable]:
        """Radii and levels that are variables."""
        parts = (self.label_model, self.pixel_risk, self.image_risk)
        values = [value for part in parts if part is not None for value in vars(part).values()]
        return [value for value in values if isinstance(value, keras.Variable)]

    def terms(self, log_p: Any, labels: Observed, weights: Any) -> list[tuple[Any, Any]]:
        """Return pixel terms whose weighted mean is the risk, and the weights."""
        values = self.values(log_p, labels)
        if self.pixel_risk is None and self.image_risk is None:
            return [(values, weights)]
        composed = self.compose(*per_image_rows(values, weights))
        return [(ops.reshape(composed.ratio, ops.shape(values)) * values + composed.rest, weights)]

    def compose(self, losses: Any, weights: Any) -> Composed:
        """Return both risks of (B, N) losses with base weights (B, N)."""
        risks = (self.pixel_risk, self.image_risk)
        return compose(losses, weights, *risks, pool=self.pixel_pool, scope=self.scope)

    def values(self, log_p: Any, observed: Observed) -> Any:
        """Return U(c, y) of each pixel (B, *S), or of each image, (B, 1, ..., 1)."""
        costs = class_costs(log_p, self.cost, order=self.gce_order)
        if self.label_model is None:
            return ops.sum(observed.reference * costs, axis=-1)
        values = self.label_model.cost(costs, observed)
        if not self.label_model.per_image:
            return values
        return ops.reshape(values, (-1,) + (1,) * (len(costs.shape) - 2))

    def figure(
        self, name: str, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tuple[Any, Any]:
        """Return a figure of a batch, see `metrics.RiskFigure`, and the weight of the batch."""
        log_p, observed, weights = self._inputs(y_true, y_pred, sample_weight)
        return batch_figure(self, name, log_p, observed), ops.sum(weights)

    def _inputs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        y_true = ops.convert_to_tensor(y_true)
        log_p, labels, weights = super()._inputs(y_true, y_pred, sample_weight)
        hard = has_one_id_per_pixel(y_true, rank=len(log_p.shape))
        return log_p, Observed(labels, weights, hard), weights

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {
            **super().get_config(),
            "cost": self.cost,
            **{name: keras.saving.serialize_keras_object(part) for name, part in parts.items()},
            "pixel_pool": self.pixel_pool,
            "scope": self.scope,
            "gce_order": self.gce_order,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RobustSegmentationLoss:
        """Rebuild from `get_config`."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in _PARTS}
        return cls(**{**config, **parts})


_PARTS = ("label_model", "pixel_risk", "image_risk")


def _check_parts(
    label_model: Any, pixel_risk: Any, image_risk: Any, pixel_pool: str, scope: str
) -> None:
    parts: tuple[tuple[str, Any, type], ...] = (
        ("label_model", label_model, LabelAmbiguity),
        ("pixel_risk", pixel_risk, RiskMeasure),
        ("image_risk", image_risk, RiskMeasure),
    )
    for name, part, kind in parts:
        if part is not None and not isinstance(part, kind):
            raise ValueError(f"`{name}` must be None or a {kind.__name__}. Received: {part!r}")
    if pixel_pool not in ("image", "batch") or scope not in ("global", "replica"):
        raise ValueError(
            '`pixel_pool` must be "image" or "batch", and `scope` "global" or "replica". '
            f"Received: pixel_pool={pixel_pool!r}, scope={scope!r}"
        )
    if pixel_risk is not None and label_model is not None and label_model.per_image:
        raise ValueError(
            "A label model with one budget an image gives one value an image, so there is no risk "
            f"over pixels. Expected pixel_risk=None. Received: pixel_risk={pixel_risk!r}"
        )
    if pixel_pool == "batch" and (pixel_risk is None or image_risk is not None):
        raise ValueError(
            'pixel_pool="batch" is for a pixel risk over all images at once, without an image '
            f"risk. Received: pixel_risk={pixel_risk!r}, image_risk={image_risk!r}"
        )
