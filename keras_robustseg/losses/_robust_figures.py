"""Figures of a robust loss on a batch: who is weighed, and how far labels moved."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.labels._ambiguity_soft import label_divergence
from keras_robustseg.losses._robust_costs import class_costs
from keras_robustseg.losses._robust_weights import per_image_rows

# Sums of weights of many pixels are exact to about this share of the spread of the losses.
_SATURATED = 1e-5


def batch_figure(loss: Any, name: str, log_p: Any, observed: Any) -> Any:
    """Return one figure, (), of a `RobustSegmentationLoss`; see `metrics.RiskFigure`.

    Args:
        loss: the loss.
        name: a figure of `metrics.RiskFigure`.
        log_p: (B, *S, C) log-probabilities.
        observed: the labels as the loss reads them.

    Example:
        `loss.figure("saturation", mask, logits)`
    """
    if name.startswith("label_"):
        return _of_labels(loss, name, log_p, observed)
    losses, weights = per_image_rows(loss.values(log_p, observed), observed.weights)
    ratio = ops.ones_like(losses)
    if loss.pixel_risk is not None or loss.image_risk is not None:
        ratio = loss.compose(losses, weights).ratio
    if name == "saturation":
        return _saturation(loss, losses, weights, ratio)
    share = ops.divide_no_nan(weights, ops.sum(weights))
    if name == "effective_sample_size":
        return ops.divide_no_nan(1.0, ops.sum(share * ops.square(ratio)))
    if name == "divergence":
        measure = loss.pixel_risk or loss.image_risk
        p = ops.reshape(share, (-1,))
        return label_divergence(ops.reshape(ratio, (-1,)) * p, p, *_divergence_of(measure, "kl"))
    return _value_at_risk(loss, losses, weights, ratio)


def _of_labels(loss: Any, name: str, log_p: Any, observed: Any) -> Any:
    if loss.label_model is None:
        return ops.zeros(())
    costs = class_costs(log_p, loss.cost, order=loss.gce_order)
    q, _ = loss.label_model.chosen(costs, observed)
    if name == "label_divergence":
        kind = _divergence_of(loss.label_model, "tv")
        values = label_divergence(q, observed.reference, *kind)
    else:
        gains = _sign(loss.label_model) * costs
        top, bottom = ops.max(gains, axis=-1), ops.min(gains, axis=-1)
        near = top - _SATURATED * (top - bottom)
        moved = ops.sum(observed.reference * gains, axis=-1) < near
        values = ops.cast(ops.logical_and(moved, ops.sum(q * gains, axis=-1) >= near), "float32")
    counted = observed.weights > 0
    total = ops.sum(ops.where(counted, observed.weights * values, 0.0))
    return ops.divide_no_nan(total, ops.sum(observed.weights))


def _saturation(loss: Any, losses: Any, weights: Any, ratio: Any) -> Any:
    """Share of the images, or of the batch where it is pooled, at the greatest loss."""
    losses = _sign(loss.pixel_risk or loss.image_risk) * losses
    if loss.pixel_risk is None or loss.pixel_pool == "batch":
        if loss.pixel_risk is None:
            image = ops.sum(weights, axis=-1)
            losses = ops.divide_no_nan(ops.sum(weights * losses, axis=-1), image)
            weights, ratio = image, ops.max(ratio, axis=-1)
        losses, weights, ratio = (ops.reshape(x, (1, -1)) for x in (losses, weights, ratio))
    counted = weights > 0
    top = ops.max(ops.where(counted, losses, -float("inf")), axis=-1)
    bottom = ops.min(ops.where(counted, losses, float("inf")), axis=-1)
    mass = ops.sum(weights * ratio, axis=-1)
    risk = ops.divide_no_nan(ops.sum(weights * ratio * losses, axis=-1), mass)
    at_top = ops.logical_and(top > bottom, risk >= top - _SATURATED * (top - bottom))
    of_image = ops.sum(weights, axis=-1)
    full = ops.sum(of_image * ops.cast(at_top, of_image.dtype))
    return ops.divide_no_nan(full, ops.sum(of_image))


def _value_at_risk(loss: Any, losses: Any, weights: Any, ratio: Any) -> Any:
    """Least loss with any weight where some have none, else least whose weight is not lowered."""
    sign = _sign(loss.pixel_risk or loss.image_risk)
    counted = weights > 0
    some = ops.any(ops.logical_and(counted, ratio <= 0))
    kept = ops.where(some, ratio > 0, ratio >= 1.0)
    kept = ops.logical_and(counted, kept)
    return sign * ops.min(ops.where(kept, sign * losses, float("inf")))


def _sign(part: Any) -> float:
    return -1.0 if part is not None and part.stance == "optimistic" else 1.0


def _divergence_of(part: Any, default: str) -> tuple[str, float | None]:
    """Divergence and order of a measure or a label set that has one by name."""
    kind = getattr(part, "divergence", default)
    return (kind, getattr(part, "order", None)) if isinstance(kind, str) else (default, None)
