"""APGD: projected ascent with momentum that halves its own step (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_robustseg.attacks._scene import PixelLoss, Scene, loop
from keras_robustseg.attacks._success import by_image

_MOMENTUM = 0.75
_ENOUGH_RISES = 0.75


def check_lengths(steps: int) -> np.ndarray:
    """Return for each step how many steps its check looks back, 0 where there is no check.

    Checks lie at p_0 = 0, p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06) of the steps.
    """
    lengths, before, here = np.zeros(steps), 0.0, 0.22
    last = 0
    while here < 1:
        at = int(np.ceil(round(here * steps, 6)))
        if last < at <= steps:
            lengths[at - 1], last = at - last, at
        before, here = here, here + max(here - before - 0.03, 0.06)
    return lengths


class _State(NamedTuple):
    """Perturbations now and before, the one of the greatest loss and the one that flips most."""

    delta: Any
    before: Any
    peak: Any
    peak_loss: Any
    last_loss: Any
    found: Any
    rate: Any
    step_size: Any
    rises: Any
    halved: Any
    peak_at_check: Any
    first: Any


def apgd(scene: Scene, start: Any, eps: Any, *, loss: PixelLoss, steps: int) -> tuple[Any, Any]:
    """Climb a loss per pixel in the ball of radius eps.

    Args:
        scene: what is attacked.
        start: perturbation, (B, *S, F).
        eps: radius, broadcastable to images.
        loss: see `_losses`.
        steps: gradient evaluations.

    Returns:
        The perturbation that flips most pixels, and the first gradient at its largest, (B,).
    """
    images = scene.images
    checks = tf.constant(check_lengths(steps), images.dtype)

    def step(i: Any, state: _State) -> _State:
        state, gradient = _seen(scene, state, i, steps, loss)
        state = _checked(state, checks[i], eps)
        size = by_image(state.step_size, images) * eps
        ahead = scene.project(state.delta + size * tf.sign(gradient), eps)
        share_new = tf.where(i == 0, tf.ones((), images.dtype), _MOMENTUM)
        moved = state.delta + share_new * (ahead - state.delta)
        moved += (1 - share_new) * (state.delta - state.before)
        return state._replace(delta=scene.project(moved, eps), before=state.delta)

    state = loop(step, _start(images, scene.project(start, eps)), steps)
    better = by_image(scene.rate_at(state.delta) >= state.rate, images)
    return tf.where(better, state.delta, state.found), state.first


def _start(images: Any, start: Any) -> _State:
    zero = tf.zeros((images.shape[0],), images.dtype)
    no, low = tf.zeros_like(zero, tf.bool), zero - float("inf")
    return _State(start, start, start, low, low, start, zero - 1, zero + 2, zero, no, low, zero)


def _seen(scene: Scene, state: _State, i: Any, steps: int, loss: PixelLoss) -> tuple[_State, Any]:
    """Look at the loss, its gradient and what is flipped now."""
    images, progress = scene.images, tf.cast(i, scene.images.dtype) / steps

    def of_pixels(logits: Any) -> Any:
        return loss(logits, scene.labels, progress, scene.targeted)

    logits, gradient = scene.gradient(images + state.delta, of_pixels)
    value, rate = scene.total(of_pixels(logits)), scene.rate(logits)
    higher, better = value > state.peak_loss, rate >= state.rate
    state = state._replace(
        peak=tf.where(by_image(higher, images), state.delta, state.peak),
        peak_loss=tf.maximum(value, state.peak_loss),
        last_loss=value,
        rises=state.rises + tf.cast(value > state.last_loss, value.dtype),
        found=tf.where(by_image(better, images), state.delta, state.found),
        rate=tf.maximum(rate, state.rate),
        first=tf.where(i == 0, scene.largest(gradient), state.first),
    )
    return state, gradient


def _checked(state: _State, length: Any, eps: Any) -> _State:
    """At a check: halve the step and go back to the peak where the loss did not rise enough."""
    check = length > 0
    stuck = ~state.halved & (state.peak_loss <= state.peak_at_check)
    halve = check & ((state.rises < _ENOUGH_RISES * length) | stuck)
    back = by_image(halve, eps)
    return state._replace(
        step_size=tf.where(halve, state.step_size / 2, state.step_size),
        delta=tf.where(back, state.peak, state.delta),
        before=tf.where(back, state.peak, state.before),
        rises=tf.where(check, tf.zeros_like(state.rises), state.rises),
        halved=tf.where(check, halve, state.halved),
        peak_at_check=tf.where(check, state.peak_loss, state.peak_at_check),
    )
