"""Generalised cross-entropy that stops at a threshold, or that gates decide where to stop."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import ops

from keras_robustseg.labels._masks import (
    base_weights,
    label_distribution,
    log_probabilities,
    num_classes_of,
)
from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._generalized_cross_entropy import (
    box_cox,
    check_q,
    generalized_cross_entropy,
)

Gate = Literal["image", "pixel"]


def truncated_gce(log_p: Any, labels: Any, *, q: float, threshold: float) -> Any:
    """Return sum_c y_c min(L_q(p_c), L_q(k)) of each pixel, L_q(p) = (1 - p^q) / q.

    Zhang and Sabuncu (NeurIPS 2018, section 3.3): a label with p_y <= k costs a constant and has
    no gradient. It is the least value of `gated_gce` over all gates. Of several readers it is the
    mean of each one's truncated loss, since y_c is the share of them who said c.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        q: in (0, 1].
        threshold: k in (0, 1).

    Returns:
        (B, *S).

    Example:
        `truncated_gce(log_p, labels, q=0.7, threshold=0.5)`
    """
    return generalized_cross_entropy(ops.maximum(log_p, math.log(threshold)), labels, q=q)


def gated_gce(log_p: Any, trusted: Any, *, q: float, threshold: float) -> Any:
    """Return the mean over readers r of g_r L_q(p_{y_r}) + (1 - g_r) L_q(k), for each pixel.

    g_r in [0, 1] says how far reader r is trusted there. The derivative to g_r is
    L_q(p) - L_q(k): the gate opens where p > k and closes where p < k, for any q and k.

    The form of the TGCE family for several annotators, with one scale for both terms (a factor
    1/K on the first alone would move the turning point away from p = k).

    Args:
        log_p: (B, *S, C) log-probabilities.
        trusted: (B, *S, C) label mass that is trusted, of `trusted_labels`; at most 1 a pixel.
        q: in (0, 1].
        threshold: k in (0, 1).

    Returns:
        (B, *S).

    Example:
        `gated_gce(log_p, trusted_labels(labels, answered, gates), q=0.7, threshold=0.5)`
    """
    rest = (1.0 - ops.sum(trusted, axis=-1)) * box_cox(math.log(threshold), q)
    return generalized_cross_entropy(log_p, trusted, q=q) + rest


def trusted_labels(labels: Any, answered: Any, gates: Any) -> Any:
    """Return sum_r a_r g_r y_r / sum_r a_r (B, *S, C), over the readers who answered.

    Args:
        labels: (B, *S, R, C) label distribution y_r of each reader.
        answered: (B, *S, R) a_r, 1 where the reader gave a label and else 0.
        gates: g_r in [0, 1], of a shape that broadcasts to (B, *S, R).

    Example:
        `trusted_labels(labels, answered, keras.ops.sigmoid(gate_logits))`
    """
    share = answered / ops.maximum(ops.sum(answered, axis=-1, keepdims=True), 1.0)
    return ops.sum(labels * ops.expand_dims(share * gates, -1), axis=-2)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class TruncatedGCE(SegmentationLoss):
    """Mean of `truncated_gce`, or of `gated_gce` with gates that the network predicts.

    With gates the last R channels of the predictions (B, *S, C + R) are gate logits, one per
    reader, and g = sigmoid of them: pixel by pixel, or ("image") of their mean over the pixels
    that have a label, so that a reader is trusted with a whole image or not at all. Masks are
    then integer ids (B, *S, R), or (B, *S) for R = 1, with -1 where a reader gave none. A pixel,
    and so an image, weighs the same however many readers answered.

    Gates at the level of pixels, and the closed form, tend to drop small classes altogether:
    train with another loss first, and look at the foreground.

    Args:
        q: exponent in (0, 1].
        threshold: k in (0, 1), by default 1/C.
        gate: None for the closed form, "image" or "pixel".
        readers: R, with a gate.
        **kwargs: arguments of `SegmentationLoss`; gates are logits whatever `from_logits` says.

    Raises:
        ValueError: an argument is out of its range, or a gate has no `readers` or the reverse.

    Example:
        `losses.TruncatedGCE(0.7, gate="image", readers=3)(masks, logits_and_gates)`
    """

    def __init__(
        self,
        q: float = 0.7,
        threshold: float | None = None,
        *,
        gate: Gate | None = None,
        readers: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_q(q)
        _check_threshold(threshold)
        _check_gate(gate, readers)
        super().__init__(**kwargs)
        self.q = q
        self.threshold = threshold
        self.gate = gate
        self.readers = readers

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the loss of each pixel and its weight."""
        form = truncated_gce if self.gate is None else gated_gce
        threshold = self.threshold or 1.0 / log_p.shape[-1]
        return [(form(log_p, labels, q=self.q, threshold=threshold), weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "q": self.q,
            "threshold": self.threshold,
            "gate": self.gate,
            "readers": self.readers,
        }

    def _inputs(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        if self.gate is None or self.readers is None:
            return super()._inputs(y_true, y_pred, sample_weight)
        y_pred = ops.convert_to_tensor(y_pred)
        scores, gates = y_pred[..., : -self.readers], y_pred[..., -self.readers :]
        labels, answered = self._each_reader(y_true, scores)
        valid = ops.cast(ops.any(answered > 0, axis=-1), "float32")
        weights = base_weights(valid, sample_weight)
        counted = ops.not_equal(weights, 0.0)
        # A pixel without weight is not read at all, so that NaN under it does no harm.
        labels = ops.where(ops.expand_dims(counted, (-1, -2)), labels, 0.0)
        trusted = trusted_labels(labels, answered, self._gates(gates, counted))
        log_p = log_probabilities(scores, from_logits=self.from_logits, where=counted)
        return log_p, trusted, weights

    def _each_reader(self, y_true: Any, scores: Any) -> tuple[Any, Any]:
        """Label distribution (B, *S, R, C) of each reader, and whether there is one (B, *S, R)."""
        y_true, rank = ops.convert_to_tensor(y_true), len(scores.shape)
        if len(y_true.shape) == rank - 1:
            y_true = ops.expand_dims(y_true, -1)
        is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y_true.dtype))
        if is_float or len(y_true.shape) != rank or y_true.shape[-1] != self.readers:
            raise ValueError(
                f"With a gate, `y_true` must hold integer ids of {self.readers} readers, "
                f"(batch, *space, {self.readers}). Received: shape={tuple(y_true.shape)}, "
                f"dtype={keras.backend.standardize_dtype(y_true.dtype)}"
            )
        return label_distribution(
            y_true, num_classes_of(scores), rank=rank + 1, ignore_class=self.ignore_class
        )

    def _gates(self, gate_logits: Any, counted: Any) -> Any:
        counted = ops.expand_dims(counted, -1)
        gate_logits = ops.where(counted, ops.cast(gate_logits, "float32"), 0.0)
        if self.gate == "image":
            axes = tuple(range(1, len(gate_logits.shape) - 1))
            count = ops.sum(ops.cast(counted, "float32"), axis=axes, keepdims=True)
            total = ops.sum(gate_logits, axis=axes, keepdims=True)
            gate_logits = total / ops.maximum(count, 1.0)
        return ops.sigmoid(gate_logits)


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise ValueError(f"`threshold` must be in (0, 1). Received: threshold={threshold}")


def _check_gate(gate: str | None, readers: int | None) -> None:
    if gate not in (None, "image", "pixel"):
        raise ValueError(f"`gate` must be None, 'image' or 'pixel'. Received: gate={gate!r}")
    if (gate is None) != (readers is None) or (readers is not None and readers < 1):
        raise ValueError(
            "`readers` must be the number of readers (1 or more) with a gate, and None without. "
            f"Received: gate={gate!r}, readers={readers}"
        )
