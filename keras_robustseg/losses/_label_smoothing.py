"""Cross-entropy against labels mixed with the uniform distribution."""

from __future__ import annotations

from typing import Any

import keras

from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._cross_entropy import cross_entropy


def label_smoothing(log_p: Any, labels: Any, *, epsilon: float) -> Any:
    """Return -sum_c ((1 - epsilon) y_c + epsilon / C) log p_c of each pixel.

    Szegedy et al. (CVPR 2016, section 7). It is the loss of `CrossEntropy` in expectation over
    labels that are redrawn uniformly with probability epsilon; as it also asks for p_y < 1, a
    wrong label is never fitted with full confidence.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        epsilon: in [0, 1).

    Returns:
        (B, *S).

    Example:
        `label_smoothing(log_p, labels, epsilon=0.1)`
    """
    return cross_entropy(log_p, (1.0 - epsilon) * labels + epsilon / log_p.shape[-1])


@keras.saving.register_keras_serializable(package="keras_robustseg")
class LabelSmoothing(SegmentationLoss):
    """Mean of `label_smoothing` over the pixels that have a label.

    Args:
        epsilon: share of the label that is spread over all classes, in [0, 1).
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `epsilon` is out of its range.

    Example:
        `losses.LabelSmoothing(0.1)(mask, logits)`
    """

    def __init__(self, epsilon: float = 0.1, **kwargs: Any) -> None:
        if not 0.0 <= epsilon < 1.0:
            raise ValueError(f"`epsilon` must be in [0, 1). Received: epsilon={epsilon}")
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the smoothed cross-entropy of each pixel and its weight."""
        return [(label_smoothing(log_p, labels, epsilon=self.epsilon), weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "epsilon": self.epsilon}
