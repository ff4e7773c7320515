"""Cross-entropy against any label distribution."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss


def cross_entropy(log_p: Any, labels: Any) -> Any:
    """Return -sum_c y_c log p_c of each pixel.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions.

    Returns:
        (B, *S).

    Example:
        `cross_entropy(keras.ops.log_softmax(logits), keras.ops.one_hot(mask, 3))`
    """
    return -ops.sum(labels * log_p, axis=-1)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class CrossEntropy(SegmentationLoss):
    """Mean cross-entropy over the pixels that have a label; arguments of `SegmentationLoss`.

    Example:
        `losses.CrossEntropy(ignore_class=255)(mask, logits, sample_weight)`
    """

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the cross-entropy of each pixel and its weight."""
        return [(cross_entropy(log_p, labels), weights)]
