"""DAG: add normalised gradients of the unflipped pixels' margins until enough are flipped."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from keras_robustseg.attacks._logit_ratio import margin
from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._problem import Common, prepare
from keras_robustseg.attacks._result import AttackResult, conclude
from keras_robustseg.attacks._scene import Scene, loop
from keras_robustseg.attacks._success import by_image
from keras_robustseg.attacks._zero_gradient import check_gradient


def _unflipped_margin(logits: Any, labels: Any, targeted: bool) -> Any:
    """Minus the margin still to be overcome, 0 at flipped pixels."""
    value = margin(logits, labels)
    return -tf.nn.relu(-value if targeted else value)


def _dag(scene: Scene, step_size: Any, *, steps: int) -> tuple[Any, Any, Any]:
    """Return the images, the first gradient at its largest, and the iteration of success."""
    images = scene.images

    def step(i: Any, state: tuple) -> tuple:
        moved, first, found = state
        logits, gradient = scene.gradient(
            tf.clip_by_value(moved, *scene.bounds),
            lambda z: _unflipped_margin(z, scene.labels, scene.targeted),
        )
        won = scene.rate(logits) >= scene.success_rate
        found = tf.where(won & (found < 0), i, found)
        largest = scene.largest(gradient)
        first = tf.where(i == 0, largest, first)
        size = by_image(tf.maximum(largest, 1e-8), images)
        still = by_image(tf.cast(found < 0, images.dtype), images)
        return moved + still * step_size * gradient / size, first, found

    none = tf.fill((images.shape[0],), -1)
    moved, first, found = loop(step, (images, tf.cast(none, images.dtype), none), steps)
    return tf.clip_by_value(moved, *scene.bounds), first, found


def dag(
    model: Any,
    images: Any,
    labels: Any,
    *,
    steps: int = 200,
    step_size: float = 3e-3,
    **common: Unpack[Common],
) -> AttackResult:
    """Dense adversary generation (Xie et al., ICCV 2017).

        d <- d + step_size g / max abs(g),   g the gradient of - sum of relu(margin)

    over the valid pixels, until the share `success_rate` of them is flipped; that image is
    returned, otherwise the last one. It stops at a success and makes no norm smaller.

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        steps: gradient evaluations, at most.
        step_size: largest change of a value in one step, in units of the width of the bounds.
        **common: as for `pgd`.

    Raises:
        ValueError: as for `pgd`.

    Example:
        `dag(model, images, masks, steps=200).minimal_norm`
    """
    problem, steps = prepare(model, images, labels, **common), checked_steps(steps)
    if not step_size > 0:
        raise ValueError(f"`step_size` must be > 0. Received: {step_size}")
    adversarial, first, found = problem.run(_dag, problem.width * step_size, steps=steps)
    check_gradient(problem, first)
    fields = {"gradient_evaluations": steps, "first_success": found.numpy()}
    return conclude(problem, adversarial, **fields)
