"""Mean absolute error of class probabilities."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss


def probability_mae(log_p: Any, labels: Any) -> Any:
    """Return (1/2) sum_c |y_c - p_c| of each pixel, the total variation distance.

    Half the loss of Ghosh et al. (AAAI 2017): 1 - p_y for hard labels, between 0 and 1, and least
    at p = y for soft ones. Summed over all labels a pixel could have it is constant, so symmetric
    label noise does not move its minimum; it is slow to train and gives up small classes.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.

    Returns:
        (B, *S).

    Example:
        `probability_mae(log_p, labels)`
    """
    return 0.5 * ops.sum(ops.abs(labels - ops.exp(log_p)), axis=-1)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class ProbabilityMAE(SegmentationLoss):
    """Mean of `probability_mae` over the pixels that have a label.

    Unlike `keras.losses.MeanAbsoluteError` it reads masks of class ids and takes logits. The
    arguments are those of `SegmentationLoss`.

    Example:
        `losses.ProbabilityMAE()(mask, logits)`
    """

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the distance of each pixel and its weight."""
        return [(probability_mae(log_p, labels), weights)]
