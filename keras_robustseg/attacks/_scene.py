"""What the loop of an attack is given, and what it asks for in each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_robustseg.attacks._success import flipped, share

PixelLoss = Callable[[Any, Any, Any, bool], Any]


class Scene(NamedTuple):
    """A network, the images to attack and the aim; inside of a graph.

    Attributes:
        network: a `Network`.
        images: (B, *S, F).
        labels: (B, pixels), 0 at void pixels.
        valid: (B, pixels), bool, which pixels count.
        targeted: whether labels are to be reached.
        bounds: of the images.
        success_rate: share of the valid pixels to flip.
    """

    network: Any
    images: Any
    labels: Any
    valid: Any
    targeted: bool
    bounds: tuple[float, float]
    success_rate: float

    @property
    def width(self) -> float:
        """Width of the bounds."""
        return self.bounds[1] - self.bounds[0]

    @property
    def axes(self) -> list[int]:
        """All axes of the images but the first."""
        return list(range(1, len(self.images.shape)))

    def rate(self, logits: Any) -> Any:
        """Return the share of valid pixels that are flipped (targeted: reached), (B,)."""
        hits = flipped(logits, self.labels, self.targeted)
        return share(hits, self.valid, self.images.dtype)

    def rate_at(self, delta: Any) -> Any:
        """Return the same of the images with a perturbation."""
        return self.rate(self.network.pixels(self.images + delta))

    def total(self, values: Any) -> Any:
        """Sum over the valid pixels, (B,)."""
        return tf.reduce_sum(tf.where(self.valid, values, tf.zeros_like(values)), -1)

    def gradient(self, moved: Any, loss: Callable) -> tuple[Any, Any]:
        """Return logits (B, pixels, C) at images, and the gradient of the sum of `loss(logits)`.

        Raises:
            ValueError: no gradient reaches the images.
        """
        with tf.GradientTape() as tape:
            tape.watch(moved)
            logits = self.network.pixels(moved)
            value = loss(logits)
            total = tf.reduce_sum(tf.where(self.valid, value, tf.zeros_like(value)))
        return logits, reached(tape.gradient(total, moved))

    def project(self, delta: Any, eps: Any) -> Any:
        """Return the nearest perturbation with abs <= eps that keeps the images in the bounds."""
        low, high = (bound - self.images for bound in self.bounds)
        return tf.clip_by_value(tf.clip_by_value(delta, -eps, eps), low, high)

    def mixed(self, velocity: Any, gradient: Any, momentum: Any) -> Any:
        """Return momentum v + g / mean abs(g), image by image."""
        size = tf.reduce_mean(tf.abs(gradient), self.axes, keepdims=True)
        return momentum * velocity + gradient / tf.maximum(size, 1e-37)

    def largest(self, values: Any) -> Any:
        """Return the largest absolute value of each image, (B,)."""
        return tf.reduce_max(tf.abs(values), self.axes)


def reached(gradient: Any) -> Any:
    """Return a gradient with respect to images; refuse None.

    Raises:
        ValueError: no gradient reaches the images.
    """
    if gradient is None:
        raise ValueError(
            "No gradient reaches the images: something in the model has no derivative, such as "
            "argmax, rounding or a cast to integers. Attack the model up to there, or a copy with "
            "a differentiable stand-in (see `transfer`)."
        )
    return gradient


def loop(step: Callable, state: Any, steps: int) -> Any:
    """Return the state after `steps` times `state = step(i, state)`."""
    return tf.while_loop(
        lambda i, _: i < steps,
        lambda i, now: (i + 1, step(i, now)),
        (tf.constant(0), state),
        maximum_iterations=steps,
    )[1]
