"""Which pixels are flipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_robustseg.attacks._problem import Problem


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


def _predict(network: Any, images: Any) -> tuple[Any, Any]:
    logits = network(images)
    finite = tf.reduce_all(tf.math.is_finite(logits))
    return tf.argmax(logits, -1, output_type=tf.int32), finite


def class_map(problem: Problem, images: np.ndarray) -> np.ndarray:
    """Return the classes of images, (B, *S), int32.

    Raises:
        ValueError: the model gives NaN or infinite logits.
    """
    network = problem.network
    call = network.compiled(_predict, problem.jit_compile)
    classes, finite = call(tf.constant(images, network.dtype))
    if not finite:
        raise ValueError(
            "Expected finite logits. The model gives NaN or infinite values on these images, so "
            "its robustness cannot be measured; train it again, or look for a division by zero."
        )
    return classes.numpy()
