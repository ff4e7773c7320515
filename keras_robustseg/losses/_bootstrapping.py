"""Cross-entropy against labels mixed with what the network itself says."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss
from keras_robustseg.losses._cross_entropy import cross_entropy

Belief = Literal["soft", "hard"]
# The weights of the label in the paper's experiments.
_TRUST = {"soft": 0.95, "hard": 0.8}


def bootstrapping(log_p: Any, labels: Any, *, trust: float, belief: Belief = "soft") -> Any:
    """Return -sum_c (w y_c + (1 - w) b_c) log p_c of each pixel, b being the network's belief.

    Reed et al. (ICLR 2015 workshop, arXiv 1412.6596): b = p ("soft"), which is
    w CE(y, p) + (1 - w) H(p), or b = one-hot of the largest p ("hard"). As there, the gradient
    runs through b = p too; the hard belief is piecewise constant.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        trust: w, weight of the label, in (0, 1].
        belief: "soft" or "hard".

    Returns:
        (B, *S).

    Example:
        `bootstrapping(log_p, labels, trust=0.8, belief="hard")`
    """
    own = ops.exp(log_p) if belief == "soft" else _largest(log_p)
    return cross_entropy(log_p, trust * labels + (1.0 - trust) * own)


def _largest(log_p: Any) -> Any:
    return ops.one_hot(ops.argmax(log_p, axis=-1), log_p.shape[-1], dtype="float32")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class Bootstrapping(SegmentationLoss):
    """Mean of `bootstrapping` over the pixels that have a label.

    Args:
        belief: "soft" or "hard".
        trust: weight w of the label in (0, 1]; by default the paper's, .95 (soft) or .8 (hard).
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `belief` or `trust` is none of its values.

    Example:
        `losses.Bootstrapping("hard", trust=0.8)(mask, logits)`
    """

    def __init__(
        self, belief: Belief = "soft", *, trust: float | None = None, **kwargs: Any
    ) -> None:
        if belief not in _TRUST:
            raise ValueError(f"`belief` must be 'soft' or 'hard'. Received: belief={belief!r}")
        if trust is not None and not 0.0 < trust <= 1.0:
            raise ValueError(f"`trust` must be in (0, 1]. Received: trust={trust}")
        super().__init__(**kwargs)
        self.belief = belief
        self.trust = _TRUST[belief] if trust is None else trust

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the bootstrapped cross-entropy of each pixel and its weight."""
        return [(bootstrapping(log_p, labels, trust=self.trust, belief=self.belief), weights)]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "belief": self.belief, "trust": self.trust}
