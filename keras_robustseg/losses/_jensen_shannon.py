"""The generalised Jensen-Shannon loss: PENCIL's label problem, solved in closed form."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss

_TINY = 1e-37


def generalized_jensen_shannon(
    log_p: Any, labels: Any, *, trust: float, entropy: float = 0.0
) -> Any:
    """Return the least PENCIL cost of each pixel over all label distributions q.

    min_q (1/C) KL(p || q) + alpha CE(y, q) + (beta/C) H(p)  -  alpha H(y)
        = (1/C + alpha) GJS_w(y, p) + (beta/C) H(p),        alpha = w / ((1 - w) C),
    reached at q = (1 - w) p + w y, where
    GJS_w(y, p) = H(q) - w H(y) - (1 - w) H(p), between 0 and the entropy of (w, 1 - w).

    The problem is that of Yi and Wu (CVPR 2019, equations 6 to 8) with labels that follow the
    network at once; the divergence is that of Englesson and Azizpour (NeurIPS 2021, equation 3).
    Divided by alpha it tends to the cross-entropy for w -> 0; for w -> 1 it is in proportion to
    1 - p_y. The gradient is that of (1/C) KL(p || q) at the best q held fixed (envelope theorem),
    so only first derivatives are right.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        trust: w in (0, 1), how much of q the observed label keeps. A prediction overrules a
            label only when p_k - p_y > w / (1 - w), so never for w >= 1/2.
        entropy: beta in [0, 1), weight of the entropy that keeps predictions off the middle.

    Returns:
        (B, *S).

    Example:
        `generalized_jensen_shannon(log_p, labels, trust=0.17)`
    """
    num_classes = log_p.shape[-1]
    p = ops.exp(log_p)
    fixed, log_y = ops.stop_gradient(log_p), ops.log(ops.maximum(labels, _TINY))
    # log q - log p and log q - log y, each without the cancellation of a difference.
    log_w, log_rest = math.log(trust), math.log1p(-trust)
    above_p = ops.logaddexp(log_rest, log_w + (log_y - fixed))
    above_y = ops.logaddexp(log_w, log_rest + (fixed - log_y))
    divergence = -ops.sum((1.0 - trust) * p * above_p + trust * labels * above_y, axis=-1)
    value = divergence / (num_classes * (1.0 - trust))
    if entropy:
        value -= (entropy / num_classes) * ops.sum(p * log_p, axis=-1)
    return value


@keras.saving.register_keras_serializable(package="keras_robustseg")
class GeneralizedJensenShannon(SegmentationLoss):
    """Mean of `generalized_jensen_shannon`: PENCIL without a store of labels.

    Args:
        trust: weight w in (0, 1) of the observed label.
        entropy: weight beta in [0, 1) of the entropy of the prediction. From 1 on, the problem
            for fixed labels is no longer convex and any vertex is a solution.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `trust` or `entropy` is out of its range.

    Example:
        `losses.GeneralizedJensenShannon(trust=0.17)(mask, logits)`
    """

    def __init__(self, trust: float, *, entropy: float = 0.0, **kwargs: Any) -> None:
        if not 0.0 < trust < 1.0:
            raise ValueError(f"`trust` must be in (0, 1). Received: trust={trust}")
        if not 0.0 <= entropy < 1.0:
            raise ValueError(f"`entropy` must be in [0, 1). Received: entropy={entropy}")
        super().__init__(**kwargs)
        self.trust = trust
        self.entropy = entropy

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the divergence of each pixel and its weight."""
        values = generalized_jensen_shannon(log_p, labels, trust=self.trust, entropy=self.entropy)
        return [(values, weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "trust": self.trust, "entropy": self.entropy}
