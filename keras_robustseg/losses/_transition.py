"""Forward and backward correction: losses under a known matrix of label noise."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import TransitionMatrix, noisy_log_probabilities
from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._cross_entropy import cross_entropy


def forward_correction(log_p: Any, labels: Any, transition: Any) -> Any:
    """Return -sum_c y_c log sum_k p_k T[k, c] of each pixel.

    Patrini et al. (CVPR 2017, theorem 2): its minimum over p under noisy labels is that of the
    cross-entropy under true ones, if T is right.

    Args:
        log_p: (B, *S, C) log-probabilities of the true class.
        labels: (B, *S, C) label distributions y.
        transition: T (C, C), T[k, c] = P(given c | true k), or `labels.TransitionMatrix`.

    Returns:
        (B, *S).

    Example:
        `forward_correction(log_p, labels, [[0.9, 0.1], [0.2, 0.8]])`
    """
    return cross_entropy(noisy_log_probabilities(log_p, transition), labels)


def backward_correction(log_p: Any, labels: Any, transition: Any) -> Any:
    """Return -sum_c (y T^-1)_c log p_c of each pixel.

    Patrini et al. (CVPR 2017, theorem 1): its mean over noisy labels is the cross-entropy of the
    true label, for every p. It has weights below 0, hence no lower bound, and a variance that
    grows with the condition number of T.

    Args:
        log_p: (B, *S, C) log-probabilities of the true class.
        labels: (B, *S, C) label distributions y.
        transition: T (C, C), T[k, c] = P(given c | true k), or `labels.TransitionMatrix`.

    Returns:
        (B, *S).

    Raises:
        ValueError: T cannot be inverted.

    Example:
        `backward_correction(log_p, labels, [[0.9, 0.1], [0.2, 0.8]])`
    """
    if not isinstance(transition, TransitionMatrix):
        transition = TransitionMatrix(transition)
    inverse = ops.convert_to_tensor(transition.inverse(), dtype="float32")
    return cross_entropy(log_p, labels @ inverse)


class _TransitionLoss(SegmentationLoss):
    """Base of both losses: holds T, or the rate of symmetric noise until C is known."""

    def __init__(self, transition: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(transition, TransitionMatrix):
            transition = transition.matrix
        if np.ndim(transition) > 0:
            transition = TransitionMatrix(transition).matrix.tolist()
        elif not 0.0 <= transition < 1.0:
            raise ValueError(
                f"`transition` as a rate must be in [0, 1). Received: transition={transition}"
            )
        self.transition: Any = transition

    def matrix(self, num_classes: int) -> TransitionMatrix:
        """Return T for C classes.

        Raises:
            ValueError: T was given for another number of classes.
        """
        if not isinstance(self.transition, list):
            return TransitionMatrix.symmetric(num_classes, self.transition)
        if len(self.transition) != num_classes:
            raise ValueError(
                f"`transition` must fit the predictions, which have {num_classes} classes. "
                f"Received: a matrix for {len(self.transition)} classes"
            )
        return TransitionMatrix(self.transition)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "transition": self.transition}


@keras.saving.register_keras_serializable(package="keras_robustseg")
class ForwardCorrection(_TransitionLoss):
    """Mean of `forward_correction` over the pixels that have a label.

    Args:
        transition: T as `labels.TransitionMatrix` or rows of numbers, or one number: the rate of
            symmetric noise. `labels.estimate_transition` finds T from predictions.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: T is not row-stochastic; when called, T does not fit the number of classes.

    Example:
        `losses.ForwardCorrection([[0.95, 0.05], [0.2, 0.8]])(mask, logits)`
    """

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the corrected loss of each pixel and its weight."""
        return [(forward_correction(log_p, labels, self.matrix(log_p.shape[-1])), weights)]


@keras.saving.register_keras_serializable(package="keras_robustseg")
class BackwardCorrection(_TransitionLoss):
    """Mean of `backward_correction` over the pixels that have a label; may be negative.

    Args:
        transition: T, invertible, in the forms of `ForwardCorrection`.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: T is not row-stochastic or cannot be inverted; when called, T does not fit the
            number of classes.

    Example:
        `losses.BackwardCorrection([[0.95, 0.05], [0.2, 0.8]])(mask, logits)`
    """

    def __init__(self, transition: Any, **kwargs: Any) -> None:
        super().__init__(transition, **kwargs)
        if isinstance(self.transition, list):
            TransitionMatrix(self.transition).inverse()

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the corrected loss of each pixel and its weight."""
        return [(backward_correction(log_p, labels, self.matrix(log_p.shape[-1])), weights)]
