"""Symmetric cross-entropy: cross-entropy in both directions."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._cross_entropy import cross_entropy


def reverse_cross_entropy(log_p: Any, labels: Any, *, log_zero: float = -4.0) -> Any:
    """Return -sum_c p_c log y_c of each pixel, with log y_c no lower than `log_zero`.

    Wang et al. (ICCV 2019). For hard labels it is -log_zero (1 - p_y).

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        log_zero: A < 0, what log 0 is taken for.

    Returns:
        (B, *S).

    Example:
        `reverse_cross_entropy(log_p, labels)`
    """
    log_y = ops.log(ops.maximum(labels, math.exp(log_zero)))
    return -ops.sum(ops.exp(log_p) * log_y, axis=-1)


def symmetric_cross_entropy(
    log_p: Any, labels: Any, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0
) -> Any:
    """Return alpha CE(y, p) + beta CE(p, y) of each pixel.

    Wang et al. (ICCV 2019). The first term learns, the second is bounded and weighs
    all labels alike, as the mean absolute error does.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        alpha: weight of the cross-entropy.
        beta: weight of the reverse cross-entropy.
        log_zero: A < 0, what log 0 is taken for.

    Returns:
        (B, *S).

    Example:
        `symmetric_cross_entropy(log_p, labels, alpha=0.1, beta=1.0)`
    """
    reverse = reverse_cross_entropy(log_p, labels, log_zero=log_zero)
    return alpha * cross_entropy(log_p, labels) + beta * reverse


@keras.saving.register_keras_serializable(package="keras_robustseg")
class SymmetricCrossEntropy(SegmentationLoss):
    """Mean of `symmetric_cross_entropy` over the pixels that have a label.

    Args:
        alpha: weight of the cross-entropy, at least 0.
        beta: weight of the reverse cross-entropy, at least 0.
        log_zero: A < 0, what log 0 is taken for.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: a weight is negative, both are 0, or `log_zero` is not negative.

    Example:
        `losses.SymmetricCrossEntropy(alpha=0.1, beta=1.0)(mask, logits)`
    """

    def __init__(
        self, alpha: float = 0.1, beta: float = 1.0, *, log_zero: float = -4.0, **kwargs: Any
    ) -> None:
        if min(alpha, beta) < 0 or alpha + beta <= 0:
            raise ValueError(
                "`alpha` and `beta` must be at least 0 and not both 0. "
                f"Received: alpha={alpha}, beta={beta}"
            )
        # exp(-80) is still a normal float32.
        if not -80.0 <= log_zero < 0.0:
            raise ValueError(f"`log_zero` must be in [-80, 0). Received: log_zero={log_zero}")
        super().__init__(**kwargs)
        self.alpha = alpha
        self.beta = beta
        self.log_zero = log_zero

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the loss of each pixel and its weight."""
        values = symmetric_cross_entropy(
            log_p, labels, alpha=self.alpha, beta=self.beta, log_zero=self.log_zero
        )
        return [(values, weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        options = {"alpha": self.alpha, "beta": self.beta, "log_zero": self.log_zero}
        return {**super().get_config(), **options}
