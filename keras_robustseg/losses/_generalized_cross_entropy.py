"""Generalised cross-entropy: between cross-entropy and the mean absolute error."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss


def generalized_cross_entropy(log_p: Any, labels: Any, *, q: float) -> Any:
    """Return sum_c y_c L_q(p_c) of each pixel, L_q(p) = (1 - p^q) / q.

    Zhang and Sabuncu (NeurIPS 2018, section 3.2), in expectation over y where labels are soft or
    come from several readers. q -> 0 is the cross-entropy, q = 1 is 1 - p_y. The gradient is that
    of the cross-entropy times p_y^q, so labels that the network denies hardly count: wrong ones,
    and those of small objects that it has not learned yet.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        q: in (0, 1].

    Returns:
        (B, *S).

    Example:
        `generalized_cross_entropy(log_p, labels, q=0.7)`
    """
    return ops.sum(labels * box_cox(log_p, q), axis=-1)


def box_cox(log_p: Any, q: float) -> Any:
    """Return L_q(p) = (1 - p^q) / q entry by entry, without cancellation for small q or p near 1.

    Example:
        `box_cox(keras.ops.log(0.25), 0.5)  # 1.0`
    """
    return -ops.expm1(q * log_p) / q


def check_q(q: float) -> None:
    """Raise ValueError unless q is in (0, 1]."""
    if not 0.0 < q <= 1.0:
        raise ValueError(
            f"`q` must be in (0, 1]; CrossEntropy is the limit q -> 0. Received: q={q}"
        )


@keras.saving.register_keras_serializable(package="keras_robustseg")
class GeneralizedCrossEntropy(SegmentationLoss):
    """Mean of `generalized_cross_entropy` over the pixels that have a label.

    Args:
        q: exponent in (0, 1].
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `q` is out of its range.

    Example:
        `losses.GeneralizedCrossEntropy(q=0.7)(mask, logits)`
    """

    def __init__(self, q: float = 0.7, **kwargs: Any) -> None:
        check_q(q)
        super().__init__(**kwargs)
        self.q = q

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the loss of each pixel and its weight."""
        return [(generalized_cross_entropy(log_p, labels, q=self.q), weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "q": self.q}
