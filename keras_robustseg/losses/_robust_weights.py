"""Two risks in a row, as weights of the pixels: pixels of an image, then images of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.losses._base import replica_count
from keras_robustseg.risk import AcrossReplicas, RiskMeasure
from keras_robustseg.risk._reduce import LOCAL, Local


class Composed(NamedTuple):
    """A composed risk.

    risk: (), of all replicas together where they share it.
    ratio: how much more a loss weighs than its base weight, of the shape of the losses; 0 where
        the base weight is. The weighted mean of ratio x loss is what this replica adds to the
        risk, times the number of replicas; so is its gradient.
    rest: (), risk less the weighted mean of ratio x loss over all replicas: what a penalty takes.
    """

    risk: Any
    ratio: Any
    rest: Any


def compose(
    losses: Any,
    weights: Any,
    pixel_risk: RiskMeasure | None,
    image_risk: RiskMeasure | None,
    *,
    pool: str = "image",
    scope: str = "global",
) -> Composed:
    """Return image_risk over images of pixel_risk over pixels.

    An image weighs as much as its pixels together; None for a risk is the weighted mean.

    Args:
        losses: (B, N), N losses in each image.
        weights: (B, N) base weights.
        pixel_risk: risk over the losses of an image, or of the batch.
        image_risk: risk over the images.
        pool: "image"; or "batch": all losses of the batch are one image.
        scope: "global": over all replicas; "replica": each replica by itself.

    Example:
        `compose(losses, weights, CVaR(0.1), None).risk`
    """
    reduce: Local = AcrossReplicas() if scope == "global" else LOCAL
    if pool == "batch" and pixel_risk is not None:
        row = (1, -1)
        risk, q = pixel_risk.solve(ops.reshape(losses, row), ops.reshape(weights, row), reduce)
        ratio = _ratio(ops.reshape(q, ops.shape(losses)), weights, ops.sum(weights), scope)
        return _composed(ops.squeeze(risk, 0), ratio, losses, weights, reduce)
    image = ops.sum(weights, axis=-1)
    if pixel_risk is None:
        share = ops.divide_no_nan(weights, ops.expand_dims(image, -1))
        value, ratio = ops.sum(share * losses, axis=-1), ops.cast(weights != 0, losses.dtype)
    else:
        value, q = pixel_risk.solve(losses, weights, LOCAL)
        ratio = ops.divide_no_nan(q * ops.expand_dims(image, -1), weights)
    if image_risk is None:
        risk = ops.divide_no_nan(ops.sum(image * value), ops.sum(image))
        return _composed(risk, ratio, losses, weights, LOCAL)
    risk, q = image_risk.solve(value, image, reduce)
    outer = _ratio(q, image, ops.sum(image), scope)
    return _composed(risk, ratio * ops.expand_dims(outer, -1), losses, weights, reduce)


def per_image_rows(values: Any, weights: Any) -> tuple[Any, Any]:
    """Return values and weights as (B, N): N pixels, or one value an image with all its weight."""
    batch = ops.shape(weights)[0]
    flat = ops.reshape(weights, (batch, -1))
    if all(size == 1 for size in values.shape[1:]) and weights.shape != values.shape:
        return ops.reshape(values, (batch, 1)), ops.sum(flat, axis=-1, keepdims=True)
    return ops.reshape(values, (batch, -1)), flat


def _ratio(q: Any, weights: Any, total: Any, scope: str) -> Any:
    """q over the base probabilities on this replica, times the number of replicas that share q."""
    sharing = replica_count() if scope == "global" else 1
    return ops.divide_no_nan(q * (total * sharing), weights)


def _composed(risk: Any, ratio: Any, losses: Any, weights: Any, reduce: Local) -> Composed:
    ratio, fixed = ops.stop_gradient(ratio), ops.stop_gradient(losses)
    part = ops.divide_no_nan(ops.sum(weights * ratio * fixed), ops.sum(weights))
    sharing = 1 if reduce is LOCAL else replica_count()
    paid = ops.squeeze(reduce.sum(ops.reshape(part, (1,))), axis=0) / sharing
    risk = ops.stop_gradient(risk)
    return Composed(risk, ratio, risk - paid)
