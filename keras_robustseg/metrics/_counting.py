"""Dice, IoU and pixel accuracy as Keras metrics: pixel counts that stream over batches."""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._masks import (
    base_weights,
    has_one_id_per_pixel,
    label_distribution,
)


class CountingMetric(keras.metrics.Metric, abc.ABC):
    """Base of the metrics: counts of pixels, class by class, over all batches since the reset.

    Truths come in every form of `labels.label_distribution`; several readers count by majority
    and soft labels by their largest entry, ties for the lowest class. Of predictions (B, *S, C),
    logits or probabilities, the largest entry counts; C = 1 is a binary output, cut at one half.
    Void pixels and pixels of sample weight 0 are left out; other weights count as they are. A
    class id that means nothing makes the result NaN.

    Args:
        num_classes: C, at least 2 (a binary output counts as 2).
        ignore_class: one more id that means void, next to the negative ones.
        from_logits: whether a binary output is a logit; without effect for more channels.
        name: name of the metric.
        dtype: type of the result; counts are always float32.

    Raises:
        ValueError: `num_classes` is less than 2.
    """

    default_name: str

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_class: int | None = None,
        from_logits: bool = True,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be 2 or more. Received: {num_classes}")
        super().__init__(name=name or self.default_name, dtype=dtype)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        self.from_logits = from_logits
        self.counts = self.add_variable(
            shape=(3, num_classes), initializer="zeros", dtype="float32", name="counts"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the pixels of one batch: in both maps, in the prediction, in the truth."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        truth, weights = label_distribution(
            y_true, self.num_classes, rank=len(y_pred.shape), ignore_class=self.ignore_class
        )
        if not has_one_id_per_pixel(y_true, rank=len(y_pred.shape)):
            truth = _largest(truth)
        weights = ops.expand_dims(base_weights(weights, sample_weight), -1)
        truth = ops.where(weights > 0, truth, 0.0) if sample_weight is not None else truth
        predicted = _predicted(y_pred, from_logits=self.from_logits) * weights
        counts = (predicted * truth, predicted, truth * weights)
        pixels = tuple(range(len(y_pred.shape) - 1))
        self.counts.assign_add(ops.stack([ops.sum(count, axis=pixels) for count in counts]))

    @abc.abstractmethod
    def value(self, both: Any, in_pred: Any, in_true: Any) -> Any:
        """Return the metric of counts, each (C,)."""

    def result(self) -> Any:
        """Return the metric of all pixels since the reset; NaN where it is undefined."""
        counts = ops.convert_to_tensor(self.counts)
        return ops.cast(self.value(counts[0], counts[1], counts[2]), self.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "from_logits": self.from_logits,
        }


class ClassMetric(CountingMetric):
    """Base of the metrics with one value a class.

    Args:
        num_classes: C.
        per_class: whether the result is a vector (C,), NaN at undefined classes; by default it is
            the mean over the foreground classes 1..C-1 that are defined.
        **kwargs: arguments of `CountingMetric`.
    """

    def __init__(self, num_classes: int, *, per_class: bool = False, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.per_class = per_class

    @abc.abstractmethod
    def ratio(self, both: Any, in_pred: Any, in_true: Any) -> tuple[Any, Any]:
        """Return numerator and denominator (C,); the class is undefined where the latter is 0."""

    def value(self, both: Any, in_pred: Any, in_true: Any) -> Any:
        """Return the value of each class, or its mean over the foreground."""
        part, whole = self.ratio(both, in_pred, in_true)
        if self.per_class:
            return _divide(part, whole)
        part, whole = part[1:], whole[1:]
        defined = ops.cast(ops.not_equal(whole, 0.0), "float32")
        return _divide(ops.sum(ops.divide_no_nan(part, whole)), ops.sum(defined))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "per_class": self.per_class}


@keras.saving.register_keras_serializable(package="keras_robustseg")
class Dice(ClassMetric):
    """Dice's coefficient 2 |P and T| / (|P| + |T|) of all pixels; arguments of `ClassMetric`.

    A class in neither map is undefined and leaves the mean; with no class left the result is NaN.
    All images are counted as one: `metrics.evaluate_masks` gives the mean over images.

    Example:
        `model.compile(loss=..., metrics=[metrics.Dice(num_classes=2)])`
    """

    default_name = "dice"

    def ratio(self, both: Any, in_pred: Any, in_true: Any) -> tuple[Any, Any]:
        """Return twice the shared pixels, and the pixels of both maps added."""
        return 2.0 * both, in_pred + in_true


@keras.saving.register_keras_serializable(package="keras_robustseg")
class IoU(ClassMetric):
    """Jaccard index |P and T| / |P or T| of all pixels; arguments and empty rule as `Dice`.

    Example:
        `model.compile(loss=..., metrics=[metrics.IoU(num_classes=4, per_class=True)])`
    """

    default_name = "iou"

    def ratio(self, both: Any, in_pred: Any, in_true: Any) -> tuple[Any, Any]:
        """Return the shared pixels, and the pixels of either map."""
        return both, in_pred + in_true - both


@keras.saving.register_keras_serializable(package="keras_robustseg")
class PixelAccuracy(CountingMetric):
    """Share of the pixels with the right class; arguments of `CountingMetric`.

    Example:
        `model.compile(loss=..., metrics=[metrics.PixelAccuracy(num_classes=2)])`
    """

    default_name = "pixel_accuracy"

    def value(self, both: Any, in_pred: Any, in_true: Any) -> Any:
        """Return right pixels over all pixels, NaN when there are none."""
        return _divide(ops.sum(both), ops.sum(in_true))


def _divide(part: Any, whole: Any) -> Any:
    """Quotient with NaN, not infinity, over 0."""
    return ops.where(ops.equal(whole, 0.0), float("nan"), ops.divide_no_nan(part, whole))


def _largest(scores: Any) -> Any:
    """One-hot of the largest entry, the first among equals; NaN where a score is NaN."""
    hit = ops.one_hot(ops.argmax(scores, axis=-1), scores.shape[-1], dtype="float32")
    return hit + 0.0 * scores


def _predicted(y_pred: Any, *, from_logits: bool) -> Any:
    """One-hot (B, *S, C) of the predicted class."""
    channels = y_pred.shape[-1]
    if channels > 2:
        return ops.one_hot(ops.argmax(y_pred, axis=-1), channels, dtype="float32")
    cut = 0.0 if from_logits else 0.5
    foreground = y_pred[..., 0] > cut if channels == 1 else y_pred[..., 1] > y_pred[..., 0]
    return ops.one_hot(ops.cast(foreground, "int32"), 2, dtype="float32")
