"""Which pixels are flipped."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def flipped(logits: Any, labels: Any, targeted: bool) -> Any:
    """Whether each pixel has left its label or, targeted, reached it; (B, pixels)."""
    same = tf.argmax(logits, -1, output_type=labels.dtype) == labels
    return same if targeted else ~same


def share(hits: Any, valid: Any, dtype: Any) -> Any:
    """Share of the valid pixels that are hit, (B,); 0 where no pixel is valid."""
    count = tf.reduce_sum(tf.cast(valid, dtype), -1)
    return tf.reduce_sum(tf.cast(hits & valid, dtype), -1) / tf.maximum(count, 1)


def by_image(values: Any, images: Any) -> Any:
    """Reshape (B,) so that it broadcasts over images."""
    return tf.reshape(values, (-1, *[1] * (len(images.shape) - 1)))
