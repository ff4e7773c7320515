"""FMN: the radius of a ball follows the boundary while the perturbation climbs inside it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

import tensorflow as tf

from keras_robustseg.attacks._logit_ratio import margin
from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._problem import Common, prepare
from keras_robustseg.attacks._prox import norms
from keras_robustseg.attacks._result import AttackResult, conclude
from keras_robustseg.attacks._scene import Scene, loop
from keras_robustseg.attacks._success import by_image
from keras_robustseg.attacks._zero_gradient import check_gradient

# Of the radius, from the first to the last iteration.
_CHANGES = (0.05, 0.001)
_DUAL = {"linf": "l1", "l2": "l2"}


class _State(NamedTuple):
    delta: Any
    eps: Any
    best: Any
    best_norm: Any
    best_rate: Any
    found: Any
    first: Any


def _fmn(scene: Scene, step_size: Any, *, steps: int, norm: str) -> tuple[Any, Any]:
    """Return the smallest successful perturbation, and the first gradient at its largest."""
    images, flat = scene.images, (scene.images.shape[0], scene.images.shape[1:].num_elements())
    counts = tf.reduce_sum(tf.cast(scene.valid, images.dtype), -1, keepdims=True)
    counts = tf.maximum(counts, 1)
    low, high = (tf.reshape(b - images, flat) for b in scene.bounds)
    largest = norms(tf.maximum(-low, high), norm)

    def loss(logits: Any) -> Any:
        value = margin(logits, scene.labels) / counts
        return value if scene.targeted else -value

    def step(i: Any, state: _State) -> _State:
        moved = images + tf.reshape(state.delta, images.shape)
        logits, gradient = scene.gradient(moved, loss)
        gradient = tf.reshape(gradient, flat)
        value, rate = tf.abs(scene.total(loss(logits))), scene.rate(logits)
        state = _followed(state, norms(state.delta, norm), rate, scene.success_rate)
        cosine = (1 + tf.cos(math.pi * tf.cast(i, images.dtype) / steps)) / 2
        change = _CHANGES[1] + (_CHANGES[0] - _CHANGES[1]) * cosine
        reach = norms(state.delta, norm) + value / tf.maximum(norms(gradient, _DUAL[norm]), 1e-12)
        eps = tf.minimum(_radius(state, rate >= scene.success_rate, change, reach), largest)
        direction = gradient / tf.maximum(tf.norm(gradient, axis=-1, keepdims=True), 1e-12)
        delta = state.delta + step_size * (0.01 + 0.99 * cosine) * direction
        delta = tf.clip_by_value(_in_ball(delta, eps[:, None], norm), low, high)
        first = tf.where(i == 0, tf.reduce_max(tf.abs(gradient), -1), state.first)
        return state._replace(delta=delta, eps=eps, first=first)

    zero, image = tf.zeros(flat, images.dtype), tf.zeros((flat[0],), images.dtype)
    never = tf.zeros_like(image, tf.bool)
    start = _State(zero, image + float("inf"), zero, largest, image, never, image)
    state = loop(step, start, steps)
    return tf.reshape(state.best, images.shape), state.first


def _followed(state: _State, size: Any, rate: Any, success_rate: float) -> _State:
    """Keep the smallest success; before there is one, what flips most."""
    success = rate >= success_rate
    closer = (size <= state.best_norm) & success
    nearer = ~state.found & (rate >= tf.minimum(state.best_rate, success_rate))
    better = closer | nearer
    return state._replace(
        best=tf.where(by_image(better, state.delta), state.delta, state.best),
        best_norm=tf.where(better, size, state.best_norm),
        best_rate=tf.where(better, rate, state.best_rate),
        found=state.found | success,
    )


def _radius(state: _State, success: Any, change: Any, reach: Any) -> Any:
    """Shrink after a success; grow after a failure, before the first success to the boundary."""
    shrunk = tf.minimum(state.eps * (1 - change), state.best_norm)
    return tf.where(success, shrunk, tf.where(state.found, state.eps * (1 + change), reach))


def _in_ball(delta: Any, eps: Any, norm: str) -> Any:
    if norm == "linf":
        return tf.clip_by_value(delta, -eps, eps)
    length = tf.maximum(tf.norm(delta, axis=-1, keepdims=True), 1e-12)
    return delta * (tf.minimum(eps, length) / length)


def fmn(
    model: Any,
    images: Any,
    labels: Any,
    *,
    steps: int = 500,
    step_size: float = 10.0,
    norm: str = "linf",
    **common: Unpack[Common],
) -> AttackResult:
    """Fast minimum-norm attack (Pintor et al., NeurIPS 2021), with the mean margin of the pixels.

        minimise norm(d)   subject to   a share `success_rate` of the valid pixels is flipped

    by normalised gradient steps inside a ball whose radius shrinks after each success and grows
    after each failure, by a share that falls from 5 % to .1 %.

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        steps: gradient evaluations.
        step_size: Euclidean length of the first step, in units of the width of the bounds; the
            last is a hundredth of it.
        norm: "linf" or "l2".
        **common: as for `pgd`.

    Raises:
        ValueError: as for `pgd`, or an unknown norm.

    Example:
        `fmn(model, images, masks, steps=200).minimal_norm`
    """
    if norm not in _DUAL:
        raise ValueError(f"`norm` must be one of {list(_DUAL)}. Received: {norm!r}")
    problem, steps = prepare(model, images, labels, **common), checked_steps(steps)
    if not step_size > 0:
        raise ValueError(f"`step_size` must be > 0. Received: {step_size}")
    delta, first = problem.run(_fmn, problem.width * step_size, steps=steps, norm=norm)
    check_gradient(problem, first)
    adversarial = problem.images + delta
    return conclude(problem, adversarial, norm=norm, gradient_evaluations=steps)
