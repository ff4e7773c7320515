"""SEA: the worst of four losses for each image."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from keras_robustseg.attacks import _losses
from keras_robustseg.attacks._apgd import apgd
from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._problem import Common, Problem, prepare
from keras_robustseg.attacks._result import AttackResult, class_map, conclude, judged
from keras_robustseg.attacks._scene import PixelLoss
from keras_robustseg.attacks._zero_gradient import check_gradient

LOSSES: dict[str, PixelLoss] = {
    "masked_cross_entropy": _losses.masked_cross_entropy,
    "segpgd": _losses.segpgd,
    "jensen_shannon": _losses.jensen_shannon,
    "masked_spherical": _losses.masked_spherical,
}
# Radius in units of eps, and share of the steps.
_SCHEDULE = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))


def _phases(steps: int) -> list[tuple[float, int]]:
    """Return radius and number of steps of each phase; the last has at least one."""
    counts = [int(part * steps) for _, part in _SCHEDULE[:-1]]
    counts.append(steps - sum(counts))
    return [(radius, n) for (radius, _), n in zip(_SCHEDULE, counts, strict=True) if n]


def _one(problem: Problem, loss: PixelLoss, eps: np.ndarray, steps: int, draw: np.ndarray) -> Any:
    """Attack with one loss: balls that shrink to eps, each begun where the last one ended."""
    phases = _phases(steps)
    delta = phases[0][0] * eps * draw
    for number, (radius, count) in enumerate(phases):
        delta, first = problem.run(apgd, delta, radius * eps, loss=loss, steps=count)
        if number == 0:
            check_gradient(problem, first)
    return problem.images + delta


def sea(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 300,
    losses: tuple[str, ...] = tuple(LOSSES),
    **common: Unpack[Common],
) -> AttackResult:
    """Segmentation ensemble attack (Croce et al., ECCV 2024): for each image the worst of four.

    APGD climbs each loss for `steps` steps from a random point, in balls of radius 2 eps, 1.5 eps
    and eps for 30, 30 and 40 % of them. Of the four images the one with most flipped pixels is
    returned.

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        eps: as for `pgd`.
        steps: gradient evaluations of each loss.
        losses: some of "masked_cross_entropy" (of unflipped pixels), "segpgd", "jensen_shannon"
            (of softmax and label, which fades by itself where a pixel is flipped) and
            "masked_spherical" (the label's logit over the length of the logits, of unflipped
            pixels).
        **common: as for `pgd`.

    Raises:
        ValueError: as for `pgd`, or an unknown loss.

    Example:
        `sea(model, images, masks, eps=4 / 255, steps=100)`
    """
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not losses:
        raise ValueError(f"`losses` must be some of {list(LOSSES)}. Received: {losses!r}")
    problem, steps = prepare(model, images, labels, **common), checked_steps(steps)
    radius = problem.per_image("eps", eps)
    generator = np.random.default_rng(problem.seed)
    runs = []
    for name in losses:
        draw = generator.uniform(-1, 1, tuple(problem.images.shape))
        runs.append(np.asarray(_one(problem, LOSSES[name], radius, steps, draw)))
    worst = most_flipped(problem, runs)
    return conclude(problem, worst, eps=radius, gradient_evaluations=steps * len(losses))


def most_flipped(problem: Problem, runs: list[np.ndarray]) -> np.ndarray:
    """Return for each image the run that flips most of its pixels; among equals the first."""
    rates = [judged(problem, class_map(problem, np.clip(x, *problem.bounds)))[0] for x in runs]
    pick = np.argmax(np.nan_to_num(rates), 0)
    return np.stack(runs)[pick, np.arange(len(pick))]
