"""What all label ambiguity sets share: reading labels, stance, Danskin's gradient, image means."""

from __future__ import annotations

import abc
from typing import Any, Literal, NamedTuple

import keras
from keras import ops

from keras_robustseg.labels._masks import base_weights, has_one_id_per_pixel, label_distribution
from keras_robustseg.risk._measure import checked, plain
from keras_robustseg.risk._rows import as_float, check_stance

Stance = Literal["pessimistic", "optimistic"]
Budget = Literal["pixel", "image"]

_SIGNS = {"pessimistic": 1.0, "optimistic": -1.0}


class Observed(NamedTuple):
    """Labels as they were read.

    reference: (B, *S, C) label distributions, 0 at void pixels.
    weights: (B, *S) base weights, 0 at void pixels.
    hard: whether every pixel has one class by the form of the labels (ids).
    """

    reference: Any
    weights: Any
    hard: bool


class LabelAmbiguity(abc.ABC):
    """A set of label distributions near the observed ones, and the worst or best cost over it.

        pessimistic  sup over q in the set of  <q, L>        optimistic  inf over the same set

    L (B, *S, C) are class costs: what a pixel would cost if its label were class k. The
    pessimistic stance guards against costs that a few labels can raise; with wrong masks it makes
    things worse, and the optimistic one, which lets the cheapest label near the mask count, is
    the stance for them.

    A pixel of weight 0, or void, neither gives nor takes a label; what its costs hold, NaN
    included, does not matter. Gradients are Danskin's: that of the costs against q held fixed.
    Costs of float64 are computed in float64, all others in float32.

    A radius, weight or price may be a number or a Keras variable, which can change between steps
    without a new trace; numbers out of range are refused.

    Args:
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: `stance` is neither.
    """

    def __init__(self, *, stance: Stance = "pessimistic") -> None:
        check_stance(stance)
        self.stance = stance

    @property
    @abc.abstractmethod
    def per_image(self) -> bool:
        """Whether a call returns one value an image (B,), and not one a pixel (B, *S)."""

    @abc.abstractmethod
    def solve(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        """Return the maximiser of <q, gains> - price(q) over the set, and its price.

        Args:
            gains: (B, *S, C) costs, or minus the costs for the optimistic stance; 0 at void.
            observed: the labels.

        Returns:
            q (B, *S, C), and what it costs to choose it (B, *S), or 0.0 where sets have a radius.
        """

    @property
    def variables(self) -> list[keras.Variable]:
        """Radius, weight or price, where it is a variable."""
        return [v for v in vars(self).values() if isinstance(v, keras.Variable)]

    def __call__(self, class_costs: Any, labels: Any, weights: Any = None) -> Any:
        """Return the worst (or best) cost of each pixel (B, *S), or of each image (B,).

        The cost of an image is the mean over its pixels with their weights, 0 with none left.

        Args:
            class_costs: L (B, *S, C).
            labels: ids (B, *S), negative for void, or label distributions (B, *S, C).
            weights: base weights of the pixels (B, *S), or of the images (B,); 1 by default.

        Raises:
            ValueError: shapes do not fit, or the set is only the labels themselves.
        """
        costs, observed = self._read(class_costs, labels, weights)
        return self.cost(costs, observed)

    def worst_case_labels(self, class_costs: Any, labels: Any, weights: Any = None) -> Any:
        """Return the q (B, *S, C) that the value of a call is paid against; same arguments.

        Rows are distributions, and 0 at void pixels; the value of an image is the weighted mean
        of <q, L>. For the optimistic stance q is the best case.
        """
        costs, observed = self._read(class_costs, labels, weights)
        return self.chosen(costs, observed)[0]

    def cost(self, costs: Any, observed: Observed) -> Any:
        """Return what a call returns, for labels that have been read already."""
        q, price = self.chosen(costs, observed)
        values = ops.sum(q * _where_counted(observed, costs), axis=-1) - price
        if not self.per_image:
            return values
        return ops.sum(image_shares(observed.weights) * values, axis=spatial_axes(values))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"stance": self.stance}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LabelAmbiguity:
        """Rebuild from `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({shown})"

    def chosen(self, costs: Any, observed: Observed) -> tuple[Any, Any]:
        """Return q (B, *S, C) and its price (B, *S) or (), for labels that have been read."""
        sign = _SIGNS[self.stance]
        gains = sign * ops.stop_gradient(_where_counted(observed, costs))
        q, price = self.solve(gains, observed)
        # A label without a meaning is NaN in the reference; comparisons would hide it.
        known = ops.expand_dims(ops.isfinite(ops.sum(observed.reference, axis=-1)), -1)
        q = ops.where(known, _where_counted(observed, q), float("nan"))
        return ops.stop_gradient(q), ops.stop_gradient(ops.cast(sign * price, q.dtype))

    def _read(self, class_costs: Any, labels: Any, weights: Any) -> tuple[Any, Observed]:
        costs, labels = as_float(class_costs), ops.convert_to_tensor(labels)
        rank = len(costs.shape)
        reference, valid = label_distribution(
            labels, costs.shape[-1], rank=rank, dtype=keras.backend.standardize_dtype(costs.dtype)
        )
        weights = base_weights(valid, weights)
        reference = ops.where(ops.expand_dims(weights != 0, -1), reference, 0.0)
        observed = Observed(reference, weights, has_one_id_per_pixel(labels, rank=rank))
        return costs, observed


def _where_counted(observed: Observed, values: Any) -> Any:
    return ops.where(ops.expand_dims(observed.weights != 0, -1), values, 0.0)


def spatial_axes(per_pixel: Any) -> tuple[int, ...]:
    """Axes of the pixels of (B, *S)."""
    return tuple(range(1, len(per_pixel.shape)))


def image_shares(weights: Any) -> Any:
    """Return the weights (B, *S) as shares of each image's sum, 0 where there is none."""
    total = ops.sum(weights, axis=spatial_axes(weights), keepdims=True)
    return ops.divide_no_nan(weights, total)


def top_share(gains: Any, reference: Any) -> Any:
    """Return the distribution (..., C) on the largest gains that is nearest to the reference.

    In proportion to the reference where it has mass there, else in equal parts.
    """
    top = ops.cast(gains >= ops.max(gains, axis=-1, keepdims=True), gains.dtype)
    own = top * reference
    inside = ops.sum(own, axis=-1, keepdims=True)
    equal = top / ops.maximum(ops.sum(top, axis=-1, keepdims=True), 1.0)
    return ops.where(inside > 0, ops.divide_no_nan(own, inside), equal)


def as_level(value: Any, like: Any) -> Any:
    """Return a radius, weight or price, a number or a variable, in the type of `like`."""
    if isinstance(value, (int, float)):
        return ops.convert_to_tensor(value, dtype=like.dtype)
    return ops.cast(value, like.dtype)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """Return the value, if it is one of those allowed.

    Raises:
        ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")
    return value


def radius_or_price(radius: Any, price: Any) -> tuple[Any, Any]:
    """Return both after a check, the one that is not given as None.

    Raises:
        ValueError: both or none is given, or the one is out of range.
    """
    if (radius is None) == (price is None):
        raise ValueError(
            f"Set exactly one of `radius` and `price`. Received: radius={radius}, price={price}"
        )
    if radius is None:
        return None, checked("price", price, 0.0)
    return checked("radius", radius, 0.0), None


def saved(value: Any) -> Any:
    """Return the present value of a level for a configuration; None stays None."""
    return None if value is None else plain(value)
