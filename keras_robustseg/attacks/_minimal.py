"""From an attack of fixed eps to a minimal norm, by a binary search for each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._result import AttackResult


def minimal_eps(
    attack: Callable[..., AttackResult],
    model: Any,
    images: Any,
    labels: Any,
    *,
    search_steps: int = 13,
    max_eps: float | None = None,
    **options: Any,
) -> AttackResult:
    """Find the least eps at which an attack succeeds, image by image.

        eps_0 = max_eps;  then halve the interval between the largest failure and the least success

    Args:
        attack: one that takes `eps`: `pgd`, `segpgd`, `cospgd`, `mifgsm`, `sea`.
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        search_steps: runs of the attack; their gradient evaluations add up.
        max_eps: largest radius, by default the width of the bounds.
        **options: of the attack. A `step_size` is one of absolute size; without one it follows
            eps.

    Returns:
        The successful image of least norm; where there is none, the image of the last run.

    Raises:
        ValueError: as for `pgd`, `max_eps` not positive, or `eps` among the options.

    Example:
        `minimal_eps(cospgd, model, images, masks, steps=40).minimal_norm`
    """
    if "eps" in options:
        raise ValueError("`eps` is what is searched for. Expected `max_eps` instead.")
    width = np.diff(options.get("bounds", (0.0, 1.0)))[0]
    largest = float(width if max_eps is None else max_eps)
    if not largest > 0:
        raise ValueError(f"`max_eps` must be > 0. Received: {max_eps}")
    low, high = np.zeros(len(images)), np.full(len(images), 2 * largest)
    best, spent = None, 0
    for _ in range(checked_steps(search_steps)):
        eps = (low + high) / 2
        result = attack(model, images, labels, eps=eps, **options)
        low, high = np.where(result.success, low, eps), np.where(result.success, eps, high)
        best = result if best is None else _smaller(best, result)
        spent += result.gradient_evaluations
    assert best is not None
    return dataclasses.replace(best, gradient_evaluations=spent)


def _smaller(best: AttackResult, other: AttackResult) -> AttackResult:
    """Take each image from the run with the smaller successful norm; without one the later."""
    take = (other.success & (other.norm <= best.minimal_norm)) | ~best.success

    def chosen(name: str) -> np.ndarray:
        new, old = getattr(other, name), getattr(best, name)
        return np.where(take.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    names = ("adversarial", "norm", "success_rate", "success", "predictions")
    fields: dict[str, Any] = {name: chosen(name) for name in names}
    return dataclasses.replace(best, **fields)
