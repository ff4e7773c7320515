"""A walk along the boundary of success: sign steps in a ball whose radius follows it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_robustseg.attacks._ascent import loss_gradient, project
from keras_robustseg.attacks._logit_ratio import constant_scale, has_spread, logit_ratio
from keras_robustseg.attacks._success import by_image, flipped, share

# Radius to begin with where the perturbation is smaller, in units of the width of the bounds.
_LEAST = 1e-3
# Change of the radius before the first success: the boundary may be far.
_OUTWARD = 0.04
# Of the logit ratio in the loss: a pixel counts until it is flipped by about a fifth of the spread.
_SHARPNESS = 5.0


class _Walk(NamedTuple):
    delta: Any
    eps: Any
    best: Any
    best_norm: Any
    found: Any


def walk(
    network: Any,
    images: Any,
    labels: Any,
    valid: Any,
    start: Any,
    radius_changes: Any,
    step_sizes: Any,
    *,
    success_rate: float,
    steps: int,
    targeted: bool,
    bounds: tuple[float, float],
) -> Any:
    """Make the largest value of a perturbation smaller without losing its success.

        d <- project(d + s eps sign(g), eps),   eps <- eps (1 - c) after a success, eps (1 + c) else
                                        (eps (1 + .04) as long as there was none)

    g is the gradient of - sum over pixels of softplus(5 r), r the logit ratio; s and c fall by a
    cosine. The radius is that of FMN, begun near the boundary instead of at the clean image.

    Args:
        network: a `Network`.
        images: (B, *S, F).
        labels: (B, pixels).
        valid: (B, pixels), bool.
        start: perturbation, (B, *S, F).
        radius_changes: c at the first and the last step.
        step_sizes: s at the first and the last step.
        success_rate: share of the valid pixels to flip.
        steps: gradient evaluations.
        targeted: whether labels are to be reached.
        bounds: of the images.

    Returns:
        The smallest successful perturbation seen, `start` included; without one the last.
    """

    scale = None
    if not has_spread(network.classes, targeted):
        scale = constant_scale(network.pixels(images), labels, valid)

    def step(i: Any, state: _Walk) -> tuple:
        falls = (1 + tf.cos(math.pi * tf.cast(i, images.dtype) / steps)) / 2
        change, size = (x[1] + (x[0] - x[1]) * falls for x in (radius_changes, step_sizes))
        logits, gradient = loss_gradient(
            network,
            images + state.delta,
            labels,
            valid,
            lambda z, y: -tf.nn.softplus(_SHARPNESS * logit_ratio(z, y, targeted, scale=scale)),
        )
        success = share(flipped(logits, labels, targeted), valid, images.dtype) >= success_rate
        state = _followed(state, success, change)
        eps = by_image(state.eps, images)
        moved = state.delta + size * eps * tf.sign(gradient)
        return i + 1, state._replace(delta=project(moved, images, eps, *bounds))

    size = _largest(start)
    least = tf.maximum(size, _LEAST * (bounds[1] - bounds[0]))
    state = _Walk(start, least, start, size + float("inf"), tf.zeros_like(size, tf.bool))
    _, state = tf.while_loop(
        lambda i, _: i < steps, step, (tf.constant(0), state), maximum_iterations=steps
    )
    logits = network.pixels(images + state.delta)
    success = share(flipped(logits, labels, targeted), valid, images.dtype) >= success_rate
    state = _followed(state, success, tf.zeros_like(size))
    return tf.where(by_image(state.found, images), state.best, state.delta)


def _followed(state: _Walk, success: Any, change: Any) -> _Walk:
    """Keep the smallest success, and let the radius follow the boundary."""
    size = _largest(state.delta)
    better = success & (size <= state.best_norm)
    best_norm = tf.where(better, size, state.best_norm)
    shrunk = tf.minimum(state.eps * (1 - change), best_norm)
    outward = tf.where(state.found, change, tf.cast(_OUTWARD, size.dtype))
    grown = tf.minimum(state.eps * (1 + outward), best_norm)
    return state._replace(
        best=tf.where(by_image(better, state.delta), state.delta, state.best),
        best_norm=best_norm,
        eps=tf.where(success, shrunk, grown),
        found=state.found | success,
    )


def _largest(delta: Any) -> Any:
    return tf.reduce_max(tf.abs(delta), list(range(1, len(delta.shape))))
