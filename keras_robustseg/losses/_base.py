"""What all losses share: reading the mask, base weights of pixels, and the weighted mean."""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._masks import (
    base_weights,
    label_distribution,
    log_probabilities,
    num_classes_of,
)

_REDUCTIONS = ("mean_with_sample_weight", "sum", "none", None)


class SegmentationLoss(keras.losses.Loss, abc.ABC):
    """Base of the losses: sum_i w_i l_i / sum_i w_i over the pixels that have a label.

    w is the sample weight, and 0 at void pixels. A pixel of weight 0 takes no part: neither its
    label nor its prediction changes the value or the gradient, whatever they hold, NaN included.
    With no weight left the loss is 0 and so is its gradient. Computed in float32.

    The loss takes masks in every form of `labels.label_distribution`: ids (B, *S), ids of several
    readers (B, *S, R), soft labels (B, *S, C); negative ids are void. Predictions are (B, *S, C);
    C = 1 is a binary output. Sample weights are (B,) or (B, *S).

    Args:
        from_logits: whether predictions are logits; else probabilities.
        ignore_class: one more id that means void, next to the negative ones.
        reduction: "mean_with_sample_weight", "sum" (sum_i w_i l_i), or None (w_i l_i, (B, *S)).
        name: name of the loss.
        dtype: type of the result.

    Raises:
        ValueError: the reduction is none of these. Keras' own mean, which divides by the number
            of pixels with void ones included, is not offered.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_class: int | None = None,
        reduction: str | None = "mean_with_sample_weight",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}: void pixels must not count in a mean. "
                f"Received: reduction={reduction!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class

    @abc.abstractmethod
    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the terms of the loss, each reduced on its own, then added.

        Args:
            log_p: (B, *S, C) log-probabilities, float32.
            labels: (B, *S, C) observed label distributions, 0 where the weight is 0.
            weights: (B, *S) base weights.

        Returns:
            Pairs of values and their weights, both of a shape that broadcasts to (B, *S).
        """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the reduced loss."""
        # Keras would cast the mask to float here, which hides how many readers it has, and would
        # multiply by the weights after a mean that knows nothing of void.
        with keras.name_scope(self.name):
            terms = self.terms(*self._inputs(y_true, y_pred, sample_weight))
            total = sum(self._reduce(values, weights) for values, weights in terms)
            return ops.cast(total, self.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each pixel (B, *S), 0 at void ones."""
        terms = self.terms(*self._inputs(y_true, y_pred, None))
        return sum(values * weights for values, weights in terms)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
        }

    def _inputs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        y_pred = ops.convert_to_tensor(y_pred)
        labels, valid = label_distribution(
            y_true,
            num_classes_of(y_pred),
            rank=len(y_pred.shape),
            ignore_class=self.ignore_class,
        )
        weights = base_weights(valid, sample_weight)
        counted = ops.not_equal(weights, 0.0)
        if sample_weight is not None:
            labels = ops.where(ops.expand_dims(counted, -1), labels, 0.0)
        log_p = log_probabilities(y_pred, from_logits=self.from_logits, where=counted)
        return log_p, labels, weights

    def _reduce(self, values: Any, weights: Any) -> Any:
        weighted = values * weights
        if self.reduction in (None, "none"):
            return weighted
        total = ops.sum(weighted)
        if self.reduction == "mean_with_sample_weight":
            total = ops.divide_no_nan(total, ops.sum(weights)) / replica_count()
        return total


def replica_count() -> int:
    """Number of TensorFlow replicas: Keras adds up what each of them returns."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)
