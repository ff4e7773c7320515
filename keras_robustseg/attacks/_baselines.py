"""What any attack must beat: noise, and images made for another model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._problem import Common, prepare
from keras_robustseg.attacks._result import AttackResult, conclude
from keras_robustseg.attacks._sea import most_flipped


def noise(
    model: Any,
    images: Any,
    labels: Any,
    *,
    eps: Any,
    steps: int = 10,
    kind: str = "sign",
    **common: Unpack[Common],
) -> AttackResult:
    """Best of some random perturbations: what flips without any knowledge of the model.

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        eps: as for `pgd`.
        steps: number of draws; no gradient is computed.
        kind: "sign", every value moves by eps up or down; "uniform", by up to eps.
        **common: as for `pgd`.

    Raises:
        ValueError: as for `pgd`, or an unknown kind.

    Example:
        `noise(model, images, masks, eps=8 / 255).success_rate`
    """
    if kind not in ("sign", "uniform"):
        raise ValueError(f'`kind` must be "sign" or "uniform". Received: {kind!r}')
    problem, steps = prepare(model, images, labels, **common), checked_steps(steps)
    radius = problem.per_image("eps", eps)
    clean, generator = problem.images.numpy(), np.random.default_rng(problem.seed)
    best = clean
    for _ in range(steps):
        draw = generator.uniform(-1, 1, clean.shape)
        moved = clean + radius * (np.sign(draw) if kind == "sign" else draw)
        moved = np.clip(moved, *problem.bounds).astype(clean.dtype)
        best = most_flipped(problem, [best, moved])
    return conclude(problem, best, eps=radius)


def transfer(
    attack: Callable[..., AttackResult],
    source: Any,
    model: Any,
    images: Any,
    labels: Any,
    **options: Any,
) -> AttackResult:
    """Attack one model and judge another by the images.

    Where the other model falls to these more than to its own attack, its gradients mislead that
    attack, and its robustness is not what it seems.

    Args:
        attack: such as `pgd`.
        source: model whose gradients are followed.
        model: model that sees the images.
        images: as for `pgd`.
        labels: as for `pgd`.
        **options: of the attack.

    Raises:
        ValueError: as for `pgd`.

    Example:
        `transfer(pgd, plain, hardened, images, masks, eps=4 / 255)`
    """
    found = attack(source, images, labels, **options)
    common: Any = {name: options[name] for name in Common.__annotations__ if name in options}
    problem = prepare(model, images, labels, **{**common, "quantize": False})
    return conclude(
        problem,
        found.adversarial,
        norm=found.norm_name,
        gradient_evaluations=found.gradient_evaluations,
    )
