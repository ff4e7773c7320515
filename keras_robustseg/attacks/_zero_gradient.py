"""A model whose gradient is zero looks robust, and is not: say so instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_robustseg.attacks._problem import Problem
from keras_robustseg.attacks._result import class_map, judged


def check_gradient(problem: Problem, largest: Any, what: str = "the loss") -> None:
    """Refuse a first gradient that is zero or NaN for every image that is still to be won.

    Args:
        problem: what is attacked.
        largest: (B,), abs of the first gradient at its largest.
        what: name of what was differentiated.

    Raises:
        ValueError: the gradient has no direction.
    """
    size = np.asarray(largest)
    dead = ~(np.isfinite(size) & (size > 0))
    counted = np.asarray(problem.valid).any(-1)
    if not dead[counted].all() or not counted.any():
        return
    _, success, _ = judged(problem, class_map(problem, problem.images.numpy()))
    if success[counted].all():
        return
    raise ValueError(
        f"The gradient of {what} is zero or not finite at every image, so this attack cannot move, "
        "and its failure would say nothing about robustness. Expected a model that is "
        "differentiable from image to logits. Look for rounding or argmax in the model, a "
        "saturated softmax or sigmoid (give the attack logits), or dead units; or attack by "
        "`transfer` from another model."
    )
