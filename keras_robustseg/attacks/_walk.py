"""A walk along the boundary of success: sign steps in a ball whose radius follows it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_robustseg.attacks._logit_ratio import logit_ratio, scale_of
from keras_robustseg.attacks._scene import Scene, loop
from keras_robustseg.attacks._success import by_image

# Radius to begin with where the perturbation is smaller, in units of the width of the bounds.
_LEAST = 1e-3
# Growth of the radius before the first success: where all pixels are flipped but some, and what
# is added where none is, since then the boundary is far.
_OUTWARD, _FAR = 0.04, 0.15
# Share of the old direction that stays.
_MOMENTUM = 0.6
# Of the logit ratio in the loss: a pixel counts until it is flipped by about a fifth of the spread.
_SHARPNESS = 5.0


class _Walk(NamedTuple):
    delta: Any
    velocity: Any
    eps: Any
    best: Any
    best_norm: Any
    found: Any


def walk(scene: Scene, start: Any, radius_changes: Any, step_sizes: Any, *, steps: int) -> Any:
    """Make the largest value of a perturbation smaller without losing its success.

        d <- project(d + s eps sign(v), eps),   v <- .6 v + g / mean abs(g),
        eps <- eps (1 - c) after a success, eps (1 + c) after a failure, and as long as there was
               no success eps (1 + .04 + .15 u), u the share of pixels that is lacking for one

    g is the gradient of - sum over pixels of softplus(5 r), r the logit ratio; s and c fall by a
    cosine. The radius is that of FMN, begun near the boundary instead of at the clean image.

    Args:
        scene: what is attacked.
        start: perturbation, (B, *S, F).
        radius_changes: c at the first and the last step.
        step_sizes: s at the first and the last step.
        steps: gradient evaluations.

    Returns:
        The smallest successful perturbation seen, `start` included; without one the last.
    """
    images, scale = scene.images, scale_of(scene)

    def loss(logits: Any) -> Any:
        ratio = logit_ratio(logits, scene.labels, scene.targeted, scale=scale)
        return -tf.nn.softplus(_SHARPNESS * ratio)

    def step(i: Any, state: _Walk) -> _Walk:
        falls = (1 + tf.cos(math.pi * tf.cast(i, images.dtype) / steps)) / 2
        change, size = (x[1] + (x[0] - x[1]) * falls for x in (radius_changes, step_sizes))
        logits, gradient = scene.gradient(images + state.delta, loss)
        state = _followed(scene, state, scene.rate(logits), change)
        eps = by_image(state.eps, images)
        velocity = scene.mixed(state.velocity, gradient, _MOMENTUM)
        moved = state.delta + size * eps * tf.sign(velocity)
        return state._replace(delta=scene.project(moved, eps), velocity=velocity)

    zero, size = tf.zeros_like(images), scene.largest(start)
    least = tf.maximum(size, _LEAST * scene.width)
    state = _Walk(start, zero, least, start, size + float("inf"), tf.zeros_like(size, tf.bool))
    state = loop(step, state, steps)
    state = _followed(scene, state, scene.rate_at(state.delta), tf.zeros_like(size))
    return tf.where(by_image(state.found, images), state.best, state.delta)


def _followed(scene: Scene, state: _Walk, rate: Any, change: Any) -> _Walk:
    """Keep the smallest success, and let the radius follow the boundary."""
    size, success = scene.largest(state.delta), rate >= scene.success_rate
    better = success & (size <= state.best_norm)
    best_norm = tf.where(better, size, state.best_norm)
    shrunk = tf.minimum(state.eps * (1 - change), best_norm)
    outward = _OUTWARD + _FAR * tf.nn.relu(1 - rate / scene.success_rate)
    outward = tf.where(state.found, change, outward)
    grown = tf.minimum(tf.minimum(state.eps * (1 + outward), best_norm), scene.width)
    return state._replace(
        best=tf.where(by_image(better, state.delta), state.delta, state.best),
        best_norm=best_norm,
        eps=tf.where(success, shrunk, grown),
        found=state.found | success,
    )
