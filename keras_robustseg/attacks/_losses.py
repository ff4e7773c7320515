"""Losses per pixel that a fixed-eps attack climbs: the greater, the better for the attacker.

Those of attacks map logits (B, pixels, C), labels (B, pixels), progress = iteration / steps and
whether the attack is targeted to (B, pixels). `SOFT_LOSSES`, of adversarial training, map
log p (B, *S, C), label distributions q (B, *S, C) and progress to (B, *S); with one-hot q they are
the same:

    l_j = w_j * CE_j,    CE_j = -sum_k q_jk log p_jk

| name | weight w_j, held fixed | source |
|---|---|---|
| `pgd` | 1 | Madry et al., ICLR 2018 |
| `segpgd` | 1 - t/(2T) where the pixel is to be won, t/(2T) elsewhere | Gu et al., ECCV 2022 |
| `cospgd` | cos(p_j, q_j) | Agnihotri et al., ICML 2024 |
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_robustseg.attacks._logit_ratio import has_spread, logit_ratio, margin
from keras_robustseg.attacks._success import flipped

_TINY = 1e-37


def turning(won: Any, progress: Any, dtype: Any) -> Any:
    """Return SegPGD's weights: 1 - progress / 2 where a pixel is to be won, else progress / 2."""
    late, early = (tf.convert_to_tensor(w, dtype) for w in (progress / 2, 1 - progress / 2))
    return tf.where(won, late, early)


def cosine(p: Any, q: Any) -> Any:
    """Return the cosine between two distributions over the last axis, without a gradient."""
    lengths = tf.sqrt(tf.reduce_sum(p * p, -1) * tf.reduce_sum(q * q, -1))
    return tf.stop_gradient(tf.reduce_sum(p * q, -1) / tf.maximum(lengths, _TINY))


def _entropy(logits: Any, labels: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def cross_entropy(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """-log p_y; targeted, log p_t."""
    loss = _entropy(logits, labels)
    return -loss if targeted else loss


def negative_ratio(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Minus the logit ratio; with too few classes for it, minus the margin (same sign of step)."""
    if has_spread(logits.shape[-1], targeted):
        return -logit_ratio(logits, labels, targeted, tolerance=0.0)
    value = margin(logits, labels)
    return value if targeted else -value


def segpgd(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Cross-entropy that turns from pixels still to be won to the others."""
    weight = turning(flipped(logits, labels, targeted), progress, logits.dtype)
    return weight * cross_entropy(logits, labels, progress, targeted)


def cospgd(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Cross-entropy weighted by cos(softmax z, one-hot y), targeted by one minus it."""
    weight = cosine(tf.nn.softmax(logits), tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
    weight = 1 - weight if targeted else weight
    return weight * cross_entropy(logits, labels, progress, targeted)


def masked_cross_entropy(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Cross-entropy at the pixels still to be won, 0 at the others."""
    loss = cross_entropy(logits, labels, progress, targeted)
    return tf.where(flipped(logits, labels, targeted), tf.zeros_like(loss), loss)


def jensen_shannon(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Jensen-Shannon divergence of softmax z and one-hot y, in [0, log 2]; its gradient fades
    where a pixel is won. With p = p_y it is

        log 2 + p log(p) / 2 - (1 + p) log(1 + p) / 2

    (the classes other than y add (1 - p) log(2) / 2, which is in it).
    """
    log_p = -_entropy(logits, labels)
    p = tf.exp(log_p)
    log_two = tf.math.log(tf.constant(2, logits.dtype))
    loss = log_two + (p * log_p - (1 + p) * tf.math.log1p(p)) / 2
    return -loss if targeted else loss


def masked_spherical(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Minus z_y over the length of z, at the pixels still to be won."""
    own = tf.gather(logits, labels, batch_dims=2)
    value = own / tf.maximum(tf.norm(logits, axis=-1), 1e-12)
    loss = value if targeted else -value
    return tf.where(flipped(logits, labels, targeted), tf.zeros_like(loss), loss)


def soft_cross_entropy(log_p: Any, q: Any, progress: Any = 0.0) -> Any:
    """-sum_k q_k log p_k; a class that q excludes may have log p = -inf."""
    return -tf.reduce_sum(tf.where(q > 0, q * log_p, tf.zeros_like(q)), -1)


def soft_segpgd(log_p: Any, q: Any, progress: Any) -> Any:
    """The same, turning from right pixels to wrong ones; right is the class that q prefers."""
    wrong = tf.argmax(log_p, -1) != tf.argmax(q, -1)
    return turning(wrong, progress, log_p.dtype) * soft_cross_entropy(log_p, q)


def soft_cospgd(log_p: Any, q: Any, progress: Any) -> Any:
    """The same, weighted by the cosine between prediction and label."""
    return cosine(tf.exp(log_p), q) * soft_cross_entropy(log_p, q)


SOFT_LOSSES = {"pgd": soft_cross_entropy, "segpgd": soft_segpgd, "cospgd": soft_cospgd}
