"""What attacks increase where a label is a distribution: cross-entropy, weighted pixel by pixel.

    l_j = w_j * CE_j,    CE_j = -sum_k q_jk log p_jk

| name | weight w_j | source |
|---|---|---|
| `pgd` | 1 | Madry et al., ICLR 2018 |
| `segpgd` | 1 - t/(2T) where the pixel is right, t/(2T) elsewhere | Gu et al., ECCV 2022 |
| `cospgd` | cos(p_j, q_j), held fixed | Agnihotri et al., ICML 2024 |

With one-hot q these are the published losses.
"""

from __future__ import annotations

from typing import Any

from keras import ops

TINY = 1e-37


def cross_entropy(log_p: Any, target: Any) -> Any:
    """Return -sum_k q_k log p_k, (B, *S); a class that q excludes may have log p = -inf."""
    return -ops.sum(ops.where(target > 0, target * log_p, 0.0), axis=-1)


def still_right(log_p: Any, target: Any) -> Any:
    """Return 1 where the class that q prefers is predicted, else 0, (B, *S)."""
    return ops.cast(ops.argmax(log_p, axis=-1) == ops.argmax(target, axis=-1), log_p.dtype)


def pgd_pixels(log_p: Any, target: Any, progress: float) -> Any:
    """Return the plain cross-entropy of each pixel."""
    return cross_entropy(log_p, target)


def segpgd_pixels(log_p: Any, target: Any, progress: float) -> Any:
    """Return cross-entropy that turns from right pixels to wrong ones as the attack goes on.

    Args:
        log_p: (B, *S, C) log probabilities.
        target: (B, *S, C) label distribution q.
        progress: t/T, share of the steps that are done.
    """
    wrong_share = 0.5 * progress
    right = still_right(log_p, target)
    weight = right * (1.0 - wrong_share) + (1.0 - right) * wrong_share
    return ops.stop_gradient(weight) * cross_entropy(log_p, target)


def cospgd_pixels(log_p: Any, target: Any, progress: float) -> Any:
    """Return cross-entropy, weighted by the cosine between prediction and label."""
    p = ops.exp(log_p)
    lengths = ops.sqrt(ops.sum(p * p, axis=-1) * ops.sum(target * target, axis=-1))
    cosine = ops.sum(p * target, axis=-1) / ops.maximum(lengths, TINY)
    return ops.stop_gradient(cosine) * cross_entropy(log_p, target)


PIXEL_LOSSES = {"pgd": pgd_pixels, "segpgd": segpgd_pixels, "cospgd": cospgd_pixels}
