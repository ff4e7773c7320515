"""Projected ascent by signs of the gradient, the loop of PGD and its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robustseg.attacks._success import by_image, flipped, share

PixelLoss = Callable[[Any, Any, Any, bool], Any]


def loss_gradient(
    network: Any, images: Any, labels: Any, valid: Any, loss: Callable
) -> tuple[Any, Any]:
    """Return the logits (B, pixels, C) and the gradient of the loss summed over valid pixels.

    Raises:
        ValueError: no gradient reaches the images.
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = network.pixels(images)
        value = loss(logits, labels)
        total = tf.reduce_sum(tf.where(valid, value, tf.zeros_like(value)))
    gradient = tape.gradient(total, images)
    if gradient is None:
        raise ValueError(
            "No gradient reaches the images: something in the model has no derivative, such as "
            "argmax, rounding or a cast to integers. Attack the model up to there, or a copy with "
            "a differentiable stand-in (see `transfer`)."
        )
    return logits, gradient


def project(delta: Any, images: Any, eps: Any, low: float, high: float) -> Any:
    """Return the nearest perturbation with abs <= eps that keeps the images in the bounds."""
    return tf.clip_by_value(tf.clip_by_value(delta, -eps, eps), low - images, high - images)


def ascend(
    network: Any,
    images: Any,
    labels: Any,
    valid: Any,
    start: Any,
    eps: Any,
    step_size: Any,
    momentum: Any,
    *,
    loss: PixelLoss,
    steps: int,
    best: bool,
    targeted: bool,
    bounds: tuple[float, float],
) -> tuple[Any, Any]:
    """Climb `loss` for `steps` steps of sign(gradient), in the ball of radius eps.

        d <- project(d + step_size sign(v)),  v <- momentum v + g / mean abs(g)

    Args:
        network: a `Network`.
        images: (B, *S, F).
        labels: (B, pixels).
        valid: (B, pixels), bool.
        start: perturbation to begin with, (B, *S, F).
        eps: radius, broadcastable to images.
        step_size: likewise.
        momentum: a scalar; 0 is PGD.
        loss: see `_losses`.
        steps: how many.
        best: return the iterate with the most flipped pixels, instead of the last.
        targeted: whether labels are to be reached.
        bounds: of the images.

    Returns:
        The adversarial images, and abs of the first gradient at its largest, (B,).
    """
    axes = list(range(1, len(images.shape)))
    keep = (labels, valid, targeted)

    def step(i: Any, state: tuple) -> tuple:
        delta, velocity, found, rate, first = state
        progress = tf.cast(i, images.dtype) / steps
        logits, gradient = loss_gradient(
            network, images + delta, labels, valid, lambda z, y: loss(z, y, progress, targeted)
        )
        found, rate = _better(found, rate, delta, logits, *keep)
        size = tf.reduce_mean(tf.abs(gradient), axes, keepdims=True)
        velocity = momentum * velocity + gradient / tf.maximum(size, 1e-37)
        first = tf.where(i == 0, tf.reduce_max(tf.abs(gradient), axes), first)
        delta = project(delta + step_size * tf.sign(velocity), images, eps, *bounds)
        return delta, velocity, found, rate, first

    none = tf.fill((images.shape[0],), tf.cast(-1, images.dtype))
    start = project(start, images, eps, *bounds)
    state = (start, tf.zeros_like(images), start, none, none)
    delta, _, found, rate, first = _loop(step, state, steps)
    if best:
        delta, _ = _better(found, rate, delta, network.pixels(images + delta), *keep)
    return tf.clip_by_value(images + delta, *bounds), first


def _better(
    found: Any, rate: Any, delta: Any, logits: Any, labels: Any, valid: Any, targeted: bool
) -> tuple[Any, Any]:
    """Keep the perturbation that flips most; among equals the latest."""
    now = share(flipped(logits, labels, targeted), valid, delta.dtype)
    better = now >= rate
    return tf.where(by_image(better, delta), delta, found), tf.where(better, now, rate)


def _loop(step: Callable, state: tuple, steps: int) -> tuple:
    return tf.while_loop(
        lambda i, *_: i < steps,
        lambda i, *now: (i + 1, *step(i, now)),
        (tf.constant(0), *state),
        maximum_iterations=steps,
    )[1:]
