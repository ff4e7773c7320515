"""Attacks of fixed eps by projected ascent: PGD, SegPGD, CosPGD, MI-FGSM."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from keras_robustseg.attacks import _losses
from keras_robustseg.attacks._ascent import ascend
from keras_robustseg.attacks._problem import Common, Problem, prepare
from keras_robustseg.attacks._result import AttackResult, conclude
from keras_robustseg.attacks._scene import PixelLoss
from keras_robustseg.attacks._zero_gradient import check_gradient

_PGD_LOSSES: dict[str, PixelLoss] = {
    "cross_entropy": _losses.cross_entropy,
    "logit_ratio": _losses.negative_ratio,
}
# Steps of eps times this over the number of steps cross the ball more than twice.
_REACH = 2.5


def checked_steps(steps: Any) -> int:
    """Return a number of steps, at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`steps` must be a whole number >= 1. Received: {steps!r}")
    return int(steps)


def climb(
    problem: Problem,
    loss: PixelLoss,
    *,
    eps: Any,
    steps: int,
    step_size: Any,
    keep: str,
    random_start: bool = False,
    momentum: float = 0.0,
    start: Any = None,
) -> Any:
    """Return the images that projected ascent of a loss per pixel ends with."""
    steps = checked_steps(steps)
    if keep not in ("best", "last"):
        raise ValueError(f'`keep` must be "best" or "last". Received: {keep!r}')
    radius = problem.per_image("eps", eps)
    if step_size is None:
        step_size = _REACH * np.asarray(eps, "float64") / steps
    size = problem.per_image("step_size", step_size)
    if start is None:
        start = _start(problem, radius, random_start)
    images, first = problem.run(
        ascend, start, radius, size, momentum, loss=loss, steps=steps, best=keep == "best"
    )
    check_gradient(problem, first)
    return images


def _start(problem: Problem, radius: np.ndarray, random: bool) -> np.ndarray:
    shape = tuple(problem.images.shape)
    if not random:
        return np.zeros(shape)
    return radius * np.random.default_rng(problem.seed).uniform(-1, 1, shape)


def _attack(problem: Problem, loss: PixelLoss, eps: Any, steps: int, **options: Any) -> Any:
    images = climb(problem, loss, eps=eps, steps=steps, **options)
    radius = problem.per_image("eps", eps)
    return conclude(problem, images, eps=radius, gradient_evaluations=steps)


def pgd(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 40,
    step_size: Any = None,
    loss: str = "cross_entropy",
    random_start: bool = False,
    keep: str = "best",
    **common: Unpack[Common],
) -> AttackResult:
    """Projected gradient descent (Madry et al., 2018) on all valid pixels at once.

        maximise over abs(d) <= eps   sum over valid pixels of loss(f(x + d), y)

    by `steps` steps of the sign of the gradient, projected to the ball and the bounds.

    Args:
        model: a Keras model of one input and one output (B, *S, C): logits, softmax, or a single
            channel, as logit or sigmoid. It runs in inference mode.
        images: (B, *S, F), in `bounds`.
        labels: (B, *S), int; the targets with `targeted=True`.
        eps: largest change of a value, in units of the images; one number, or one per image.
        steps: gradient evaluations.
        step_size: default 2.5 eps / steps.
        loss: "cross_entropy", or "logit_ratio": minus the margin over the spread of the logits,
            which does not fade where the model is confident. With too few classes for a spread
            (2; targeted 3) it is the margin.
        random_start: begin at a random point of the ball, drawn from `seed`.
        keep: "best", the iterate that flips most pixels, or "last".
        **common: `targeted=False`, `ignore_label=None`, `success_rate=0.99`, `bounds=(0, 1)`,
            `from_logits=None`, `quantize=False`, `seed=0`, `jit_compile=False`; see `Common`.

    Raises:
        ValueError: wrong images, labels or options, or a model whose gradient is zero.
        TypeError: an unknown option, or no Keras model.

    Example:
        `pgd(model, images, masks, eps=4 / 255, ignore_label=255).success_rate.mean()`
    """
    if loss not in _PGD_LOSSES:
        raise ValueError(f"`loss` must be one of {list(_PGD_LOSSES)}. Received: {loss!r}")
    problem = prepare(model, images, labels, **common)
    options = {"step_size": step_size, "random_start": random_start, "keep": keep}
    return _attack(problem, _PGD_LOSSES[loss], eps, steps, **options)


def segpgd(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 20,
    step_size: Any = None,
    random_start: bool = False,
    keep: str = "best",
    **common: Unpack[Common],
) -> AttackResult:
    """SegPGD (Gu et al., ECCV 2022): PGD that turns from unflipped pixels to all of them.

    At iteration t the cross-entropy of pixels still to be flipped weighs 1 - t / 2T, that of the
    others t / 2T. Arguments, result and errors are those of `pgd`.

    Example:
        `segpgd(model, images, masks, eps=4 / 255, steps=20)`
    """
    problem = prepare(model, images, labels, **common)
    options = {"step_size": step_size, "random_start": random_start, "keep": keep}
    return _attack(problem, _losses.segpgd, eps, steps, **options)


def cospgd(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 20,
    step_size: Any = None,
    random_start: bool = False,
    keep: str = "best",
    **common: Unpack[Common],
) -> AttackResult:
    """CosPGD (Agnihotri et al., ICML 2024): PGD that weighs pixels by how right they are.

    The cross-entropy of a pixel is weighted by the cosine of its softmax and its one-hot label
    (targeted: by one minus it). Arguments, result and errors are those of `pgd`.

    Example:
        `cospgd(model, images, masks, eps=4 / 255, steps=20)`
    """
    problem = prepare(model, images, labels, **common)
    options = {"step_size": step_size, "random_start": random_start, "keep": keep}
    return _attack(problem, _losses.cospgd, eps, steps, **options)


def mifgsm(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 20,
    step_size: Any = None,
    momentum: float = 1.0,
    keep: str = "best",
    **common: Unpack[Common],
) -> AttackResult:
    """MI-FGSM (Dong et al., CVPR 2018): signs of a running sum of normalised gradients.

        v <- momentum v + g / mean abs(g),   d <- project(d + step_size sign(v))

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        eps: as for `pgd`.
        steps: gradient evaluations.
        step_size: default eps / steps, as published.
        momentum: share of the old direction that stays, >= 0.
        keep: "best" or "last".
        **common: as for `pgd`.

    Raises:
        ValueError: as for `pgd`, or a negative momentum.

    Example:
        `mifgsm(model, images, masks, eps=4 / 255, steps=10)`
    """
    if not momentum >= 0:
        raise ValueError(f"`momentum` must be >= 0. Received: {momentum}")
    problem = prepare(model, images, labels, **common)
    if step_size is None:
        step_size = np.asarray(eps, "float64") / checked_steps(steps)
    options = {"step_size": step_size, "momentum": momentum, "keep": keep}
    return _attack(problem, _losses.cross_entropy, eps, steps, **options)
