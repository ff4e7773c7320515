"""What an attack returns, and how success is judged on the images that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robustseg.attacks._problem import Problem

LEVELS = 255


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images, and what they achieve when the model sees exactly them.

    Attributes:
        adversarial: (B, *S, F), in the bounds; on 8-bit levels with `quantize=True`.
        norm: (B,), of `adversarial - images`, in the norm of the attack: the largest absolute
            value for "linf", the sum for "l1", the Euclidean length for "l2" and "l2sq".
        success_rate: (B,), share of the valid pixels that are flipped (targeted: that have the
            target class); NaN where an image has no valid pixel.
        success: (B,), bool, whether that share is at least the one asked for. An image without
            valid pixels is no success.
        predictions: (B, *S), int32, classes of the returned images.
        valid_pixels: (B,), int, how many pixels count.
        norm_name: "linf", "l1", "l2" or "l2sq".
        gradient_evaluations: how often the gradient of each image was computed.
        first_success: (B,), first iteration whose image was a success, -1 for none or where the
            attack does not follow it.
        trace: figures of each iteration by name, (steps, B), where they were asked for.
    """

    adversarial: np.ndarray
    norm: np.ndarray
    success_rate: np.ndarray
    success: np.ndarray
    predictions: np.ndarray
    valid_pixels: np.ndarray
    norm_name: str = "linf"
    gradient_evaluations: int = 0
    first_success: np.ndarray | None = None
    trace: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def minimal_norm(self) -> np.ndarray:
        """(B,), the norm, infinite where the attack failed, NaN where no pixel is valid."""
        failed = np.where(self.valid_pixels > 0, np.inf, np.nan)
        return np.where(self.success, self.norm, failed)


def conclude(
    problem: Problem,
    adversarial: Any,
    *,
    norm: str = "linf",
    eps: np.ndarray | None = None,
    **fields: Any,
) -> AttackResult:
    """Judge the images that an attack ends with.

    Args:
        problem: what was attacked.
        adversarial: images (B, *S, F).
        norm: "linf", "l1", "l2" or "l2sq".
        eps: largest distance that quantisation must keep, per image, broadcastable.
        **fields: further fields of the result.
    """
    clean = problem.images.numpy()
    images = np.clip(np.asarray(adversarial), *problem.bounds).astype(clean.dtype)
    if problem.quantize:
        images = quantized(images, clean, problem.bounds, eps)
    predictions = class_map(problem, images)
    rate, success, counts = judged(problem, predictions)
    return AttackResult(
        images,
        distances(images, clean, norm),
        rate,
        success,
        predictions,
        counts,
        norm_name=norm,
        **fields,
    )


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
    inputs = (tf.constant(images, network.dtype),)
    classes, finite = network.run(_predict, inputs, {}, jit_compile=problem.jit_compile)
    if not finite:
        raise ValueError(
            "Expected finite logits. The model gives NaN or infinite values on these images, so "
            "its robustness cannot be measured; train it again, or look for a division by zero."
        )
    return classes.numpy()


def judged(problem: Problem, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return success rate, success and the number of valid pixels, (B,) each."""
    labels, valid = problem.labels.numpy(), problem.valid.numpy()
    hits = (predictions.reshape(labels.shape) == labels) == problem.targeted
    counts = valid.sum(-1)
    with np.errstate(invalid="ignore"):
        rate = (hits & valid).sum(-1) / counts
    return rate, rate >= problem.success_rate, counts


def distances(images: np.ndarray, clean: np.ndarray, norm: str) -> np.ndarray:
    """Norm of each image's difference, in float64."""
    moved = np.abs(images.astype("float64") - clean).reshape(len(images), -1)
    if norm == "linf":
        return moved.max(-1)
    return moved.sum(-1) if norm == "l1" else np.sqrt((moved**2).sum(-1))


def quantized(
    images: np.ndarray,
    clean: np.ndarray,
    bounds: tuple[float, float],
    eps: np.ndarray | None = None,
) -> np.ndarray:
    """Round to the nearest of 256 levels; one level back where that would leave the eps ball."""
    low, level = bounds[0], (bounds[1] - bounds[0]) / LEVELS
    grid = np.rint((images.astype("float64") - low) / level)
    if eps is not None:
        moved, slack = low + grid * level - clean, eps + 1e-6 * level
        grid += (moved < -slack).astype("float64") - (moved > slack)
    return (low + np.clip(grid, 0, LEVELS) * level).astype(images.dtype)
