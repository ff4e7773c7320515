"""Losses per pixel that a fixed-eps attack climbs: the greater, the better for the attacker.

All map logits (B, pixels, C), labels (B, pixels), progress = iteration / steps and whether the
attack is targeted to (B, pixels).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_robustseg.attacks._logit_ratio import has_spread, logit_ratio, margin
from keras_robustseg.attacks._success import flipped


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
    """Cross-entropy, weighted 1 - progress / 2 at pixels still to be won, progress / 2 at others.

    Gu et al., SegPGD (ECCV 2022), lambda = t / 2T.
    """
    weight = tf.cast(progress, logits.dtype) / 2
    won = flipped(logits, labels, targeted)
    return tf.where(won, weight, 1 - weight) * cross_entropy(logits, labels, progress, targeted)


def cospgd(logits: Any, labels: Any, progress: Any, targeted: bool) -> Any:
    """Cross-entropy weighted by cos(softmax z, one-hot y), targeted by one minus it.

    Agnihotri et al., CosPGD (ICML 2024).
    """
    p = tf.nn.softmax(tf.stop_gradient(logits))
    own = tf.gather(p, labels, batch_dims=2)
    cosine = own / tf.norm(p, axis=-1)
    weight = 1 - cosine if targeted else cosine
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
