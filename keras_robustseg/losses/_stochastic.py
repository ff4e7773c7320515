"""The likelihood of whole masks under a normal distribution of their logits."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._low_rank_normal import (
    channel_seed,
    rank_of,
    sample_logits,
    unpack_normal,
)
from keras_robustseg.labels._masks import (
    base_weights,
    label_distribution,
    log_probabilities,
    num_classes_of,
)
from keras_robustseg.losses._base import SegmentationLoss


def negative_log_likelihood(log_p: Any, labels: Any, weights: Any) -> Any:
    """Return -log mean_m prod_i p_m(y_i) of each image, per pixel, a mean over its readers: (B,).

    With s_mr = sum_i u_ir sum_c y_irc log p_mic, where u are the weights of the pixels that reader
    r labelled, scaled to a mean of 1 over their number n_r, and W_r the sum of the weights,

        sum_r W_r ( log M - logsumexp_m s_mr ) / n_r  /  sum_r W_r

    Args:
        log_p: (M, B, *S, C) log-probabilities of M samples.
        labels: (B, *S, R, C) what each reader gave, 0 where he gave nothing.
        weights: (B, *S) base weights of the pixels.
    """
    samples, classes, readers = log_p.shape[0], log_p.shape[-1], labels.shape[-2]
    images = ops.shape(weights)[0]
    log_p = ops.reshape(log_p, (samples, images, -1, classes))
    labels = ops.reshape(labels, (images, -1, readers, classes))
    given = ops.cast(ops.any(ops.not_equal(labels, 0.0), axis=-1), "float32")
    weight = ops.reshape(weights, (images, -1, 1)) * given
    total = ops.sum(weight, axis=1)
    count = ops.sum(ops.cast(weight > 0, "float32"), axis=1)
    scaled = weight * ops.expand_dims(ops.divide_no_nan(count, total), 1)
    score = ops.einsum("mbnc,bnrc->mbr", log_p, labels * ops.expand_dims(scaled, -1))
    value = math.log(samples) - ops.logsumexp(score, axis=0)
    value = value / ops.maximum(count, 1.0)
    return ops.divide_no_nan(ops.sum(total * value, axis=-1), ops.sum(total, axis=-1))


@keras.saving.register_keras_serializable(package="keras_robustseg")
class StochasticSegmentationLoss(SegmentationLoss):
    """Negative log-likelihood of whole masks, for `layers.LowRankNormalHead`.

        -1/n log E_eta prod_i softmax(eta_i)[y_i]  ~  -1/n log 1/M sum_m exp sum_i log p_m(y_i)

    with M samples eta_m in mirrored pairs (Monteiro et al., NeurIPS 2020, equation 7), divided by
    the number n of labelled pixels so that it compares with a cross-entropy. The product stays
    inside the mean: pixels are independent only given the sample, and that is what the
    covariance learns from. Of several readers (B, *S, R) each drew a mask of his own, and the
    loss is the mean of theirs. Void pixels have no part in the product.

    Samples are a function of the predictions (see `LowRankNormalHead`): the same ones give the
    same loss. Plain logits (B, *S, C) are a normal without covariance, and the loss is the
    cross-entropy of each image.

    Args:
        num_classes: C.
        num_samples: M, even; memory grows with it.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: an odd number of samples, or fewer than two classes.

    Example:
        `model.compile("adam", losses.StochasticSegmentationLoss(2, num_samples=20))`
    """

    def __init__(self, num_classes: int, *, num_samples: int = 20, **kwargs: Any) -> None:
        if num_classes < 2 or num_samples < 2 or num_samples % 2:
            raise ValueError(
                "Expected num_classes >= 2 and an even num_samples >= 2. Received: "
                f"num_classes={num_classes}, num_samples={num_samples}"
            )
        super().__init__(**kwargs)
        self.num_classes, self.num_samples = num_classes, num_samples

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the value of each image, spread over its pixels, and their weights."""
        value = negative_log_likelihood(log_p, labels, weights)
        return [(ops.reshape(value, (-1, *[1] * (len(weights.shape) - 1))), weights)]

    def _inputs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        y_pred = ops.convert_to_tensor(y_pred)
        packed = self._is_packed(y_pred)
        classes = self.num_classes if packed else num_classes_of(y_pred)
        labels, valid = _each_reader(y_true, classes, len(y_pred.shape), self.ignore_class)
        weights = base_weights(valid, sample_weight)
        counted = ops.not_equal(weights, 0.0)
        labels = ops.where(counted[..., None, None], labels, 0.0)
        if not packed:
            log_p = log_probabilities(y_pred, from_logits=self.from_logits, where=counted)
            return log_p[None], labels, weights
        # Not only the samples: a variance that is not finite would have a gradient that is not.
        y_pred = ops.where(counted[..., None], ops.cast(y_pred, "float32"), 0.0)
        return log_probabilities(self._samples(y_pred), where=counted), labels, weights

    def _is_packed(self, y_pred: Any) -> bool:
        channels = y_pred.shape[-1]
        if channels in (1, self.num_classes):
            return False
        if rank_of(channels, self.num_classes) is None or not self.from_logits:
            raise ValueError(
                f"Expected what LowRankNormalHead({self.num_classes}) gives, with "
                f"from_logits=True, or {self.num_classes} logits per pixel. Received: "
                f"shape={tuple(y_pred.shape)}, from_logits={self.from_logits}"
            )
        return True

    def _samples(self, packed: Any) -> Any:
        """Samples (M, B, *S, C) by the seed in the last channel."""
        normal, seed = unpack_normal(packed, self.num_classes), channel_seed(packed)
        return sample_logits(normal, self.num_samples, seed, paired=True)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"num_classes": self.num_classes, "num_samples": self.num_samples}
        return {**super().get_config(), **own}


def _each_reader(
    y_true: Any, num_classes: int, rank: int, ignore_class: int | None
) -> tuple[Any, Any]:
    """Labels (B, *S, R, C), one row for each reader, and where anybody answered (B, *S)."""
    y_true = ops.convert_to_tensor(y_true)
    kind = keras.backend.standardize_dtype(y_true.dtype)
    if len(y_true.shape) == rank and not keras.backend.is_float_dtype(kind):
        labels, present = label_distribution(
            y_true, num_classes, rank=rank + 1, ignore_class=ignore_class
        )
        return labels, ops.max(present, axis=-1)
    labels, valid = label_distribution(y_true, num_classes, rank=rank, ignore_class=ignore_class)
    return ops.expand_dims(labels, -2), valid
