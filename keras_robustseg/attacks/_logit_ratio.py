"""Margin of a pixel's logits and its ratio to their spread, the loss of Croce and Hein (2020)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_robustseg.attacks._scene import Scene

TOLERANCE = 1e-4
_SMALL = 1e-8


def _by_class(logits: Any) -> Any:
    """Return (C, B, pixels): a maximum over few classes is fast when they do not lie innermost."""
    return tf.transpose(logits, (2, 0, 1))


def margin(logits: Any, labels: Any) -> Any:
    """Return z_y - max over k != y of z_k, (B, pixels): positive while y is predicted."""
    z = _by_class(logits)
    here = tf.range(z.shape[0], dtype=labels.dtype)[:, None, None] == labels
    own = tf.reduce_sum(tf.where(here, z, tf.zeros_like(z)), 0)
    return own - tf.reduce_max(tf.where(here, tf.constant(-float("inf"), z.dtype), z), 0)


def has_spread(classes: int, targeted: bool) -> bool:
    """Whether there are enough classes for a spread that is not the margin itself."""
    return classes >= (4 if targeted else 3)


def spread(logits: Any, targeted: bool) -> Any:
    """Return z_(1) - z_(3), or z_(1) - (z_(3) + z_(4)) / 2 targeted, sorted descending."""
    if not targeted and logits.shape[-1] == 3:
        z = _by_class(logits)
        return tf.reduce_max(z, 0) - tf.reduce_min(z, 0)
    top = tf.math.top_k(logits, 4 if targeted else 3).values
    return top[..., 0] - (tf.reduce_mean(top[..., 2:], -1) if targeted else top[..., 2])


def logit_ratio(
    logits: Any,
    labels: Any,
    targeted: bool = False,
    *,
    tolerance: float = TOLERANCE,
    scale: Any = None,
) -> Any:
    """Return (margin + tolerance) / spread, negated when targeted; (B, pixels).

    Negative or 0 where the attack has what it wants. The gradient flows through both parts.

    Args:
        logits: (B, pixels, C).
        labels: (B, pixels), int; the targets when targeted.
        targeted: whether `labels` are to be reached.
        tolerance: kappa, so that a tie is not a success.
        scale: divisor in place of the spread, broadcastable to (B, pixels). Where the classes are
            too few (C < 3, targeted C < 4) the spread would be the margin itself and the ratio
            +-1 without gradient, so one must be given.
    """
    divisor = spread(logits, targeted) + _SMALL if scale is None else scale
    ratio = (margin(logits, labels) + tolerance) / divisor
    return -ratio if targeted else ratio


def constant_scale(logits: Any, labels: Any, valid: Any) -> Any:
    """Return the mean over valid pixels of abs(margin), (B, 1), without a gradient.

    Of the clean image, it stands for the spread where the classes are too few: scaling the logits
    leaves the ratio as it is, and the ratio keeps its sign and has a gradient.
    """
    size = tf.abs(tf.stop_gradient(margin(logits, labels)))
    zero = tf.zeros_like(size)
    total = tf.reduce_sum(tf.where(valid, size, zero), -1, keepdims=True)
    count = tf.reduce_sum(tf.cast(valid, size.dtype), -1, keepdims=True)
    return tf.maximum(total / tf.maximum(count, 1), _SMALL)


def scale_of(scene: Scene) -> Any:
    """Return `constant_scale` of the images where the classes are too few, else None."""
    if has_spread(scene.network.classes, scene.targeted):
        return None
    return constant_scale(scene.network.pixels(scene.images), scene.labels, scene.valid)
