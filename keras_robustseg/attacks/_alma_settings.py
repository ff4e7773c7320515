"""Hyper-parameters of ALMA prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AlmaSettings:
    """Hyper-parameters of ALMA prox; the defaults are the published ones, but for `search`.

    learning_rate, learning_rate_reduction: step size of the first iteration, and by what factor
        the last one is smaller.
    multiplier, penalty: mu and rho of each pixel in the beginning.
    check_every, improvement, growth: every so many iterations the rho of a pixel is multiplied by
        `growth`, unless the pixel was flipped or its constraint fell to `improvement` of before.
    smoothing: share of the old in the averages of multipliers and squared gradients.
    least_weight, weight_change: range [least, 1] of the weight of an image's constraints, and by
        which share it changes in an iteration.
    tolerance: kappa of the logit ratio.
    search: how "linf" finds its radius: "bisection" on the derivative, to the precision of the
        numbers, or "ternary" on the objective, to 1e-6, as published (float64 only).
    walk_share: share of the steps that go to the walk along the boundary in the end ("linf" only).
    walk_radius_changes, walk_step_sizes: of the walk at its first and last step, in units of the
        radius.
    """

    learning_rate: float = 1e-3
    learning_rate_reduction: float = 0.1
    multiplier: float = 1.0
    penalty: float = 0.01
    check_every: int = 10
    improvement: float = 0.95
    growth: float = 2.0
    smoothing: float = 0.8
    least_weight: float = 0.1
    weight_change: float = 0.02
    tolerance: float = 1e-4
    search: Literal["bisection", "ternary"] = "bisection"
    walk_share: float = 0.0
    walk_radius_changes: tuple[float, float] = (0.05, 0.001)
    walk_step_sizes: tuple[float, float] = (0.12, 0.012)


PRESETS = {"published": AlmaSettings(search="ternary"), "walk": AlmaSettings(walk_share=0.5)}
