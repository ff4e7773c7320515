"""Projected ascent by signs of the gradient, the loop of PGD and its family."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_robustseg.attacks._scene import PixelLoss, Scene, loop
from keras_robustseg.attacks._success import by_image


def ascend(
    scene: Scene,
    start: Any,
    eps: Any,
    step_size: Any,
    momentum: Any,
    *,
    loss: PixelLoss,
    steps: int,
    best: bool,
) -> tuple[Any, Any]:
    """Climb `loss` for `steps` steps of sign(gradient), in the ball of radius eps.

        d <- project(d + step_size sign(v)),  v <- momentum v + g / mean abs(g)

    Args:
        scene: what is attacked.
        start: perturbation to begin with, (B, *S, F).
        eps: radius, broadcastable to images.
        step_size: likewise.
        momentum: a scalar; 0 is PGD.
        loss: see `_losses`.
        steps: how many.
        best: return the iterate with the most flipped pixels, instead of the last.

    Returns:
        The adversarial images, and abs of the first gradient at its largest, (B,).
    """
    images = scene.images

    def step(i: Any, state: tuple) -> tuple:
        delta, velocity, found, rate, first = state
        progress = tf.cast(i, images.dtype) / steps
        logits, gradient = scene.gradient(
            images + delta, lambda z: loss(z, scene.labels, progress, scene.targeted)
        )
        found, rate = _better(found, rate, delta, scene.rate(logits))
        velocity = scene.mixed(velocity, gradient, momentum)
        first = tf.where(i == 0, scene.largest(gradient), first)
        delta = scene.project(delta + step_size * tf.sign(velocity), eps)
        return delta, velocity, found, rate, first

    none = tf.fill((images.shape[0],), tf.cast(-1, images.dtype))
    start = scene.project(start, eps)
    state = (start, tf.zeros_like(images), start, none, none)
    delta, _, found, rate, first = loop(step, state, steps)
    if best:
        delta, _ = _better(found, rate, delta, scene.rate_at(delta))
    return tf.clip_by_value(images + delta, *scene.bounds), first


def _better(found: Any, rate: Any, delta: Any, now: Any) -> tuple[Any, Any]:
    """Keep the perturbation that flips most; among equals the latest."""
    better = now >= rate
    return tf.where(by_image(better, delta), delta, found), tf.where(better, now, rate)
