"""ALMA prox: the smallest perturbation that flips a given share of the pixels."""

from __future__ import annotations

from typing import Any, Unpack

from keras_robustseg.attacks._alma_loop import alma_loop
from keras_robustseg.attacks._alma_settings import PRESETS, AlmaSettings
from keras_robustseg.attacks._pgd import checked_steps
from keras_robustseg.attacks._problem import Common, Problem, prepare
from keras_robustseg.attacks._prox import PROX
from keras_robustseg.attacks._result import AttackResult, conclude
from keras_robustseg.attacks._walk import walk
from keras_robustseg.attacks._zero_gradient import check_gradient


def alma_prox(
    model: Any,
    images: Any,
    labels: Any,
    *,
    steps: int = 500,
    norm: str = "linf",
    penalty_grad: str = "exact",
    preset: str | None = None,
    settings: AlmaSettings | None = None,
    return_trace: bool = False,
    **common: Unpack[Common],
) -> AttackResult:
    """Proximal splitting attack (Rony, Pesquet, Ben Ayed, CVPR 2023): minimal perturbations.

        minimise norm(d)   subject to   c_j(d) <= 0 at a share `success_rate` of the valid pixels j
        and x + d in the bounds,   c_j = w (z_y - max over k != y of z_k + kappa) / spread of z

    by an augmented Lagrangian with a multiplier and a penalty for each pixel, and proximal steps
    of the norm in the metric of the root mean square gradients. Targeted, the sign of c_j is
    turned. The spread is z_(1) - z_(3), targeted z_(1) - (z_(3) + z_(4)) / 2. Where the classes
    are too few for it (2; targeted 3) it would be the margin itself, and the clean image's mean
    abs(margin) stands for it.

    A float64 model is attacked in float64. Images of a batch do not influence each other.

    Args:
        model: as for `pgd`.
        images: as for `pgd`.
        labels: as for `pgd`.
        steps: gradient evaluations, those of the walk included.
        norm: "linf", "l1" or "l2sq" (the squared Euclidean norm is what is minimised).
        penalty_grad: "exact", or "released", the derivative in the authors' program, which is not
            that of its penalty and seldom succeeds.
        preset: "published", the published iteration alone, with its search for the radius: in
            float64 its figures are the authors' to rounding. "walk", half of the steps for the
            iteration and half for a walk along the boundary, with norms about a third smaller (see
            `benchmarks/RESULTS.md`). None is "walk", but "published" with the released
            derivative. The walk is for "linf"; with other norms both presets are the same.
        settings: hyper-parameters in place of a preset's.
        return_trace: whether `result.trace` has the figures of each iteration before the walk:
            "linf" (the norm), "apsr" (share of flipped pixels), "best_linf", "best_apsr", means
            over the valid pixels "const", "mu", "rho", the weight "w", the step "lam", and of the
            metric "H_mean", "H_min", "H_max"; norms in units of the width of the bounds.
        **common: as for `pgd`.

    Returns:
        The smallest success of each image, otherwise the image that flipped most.

    Raises:
        ValueError: as for `pgd`, or an unknown norm, derivative or preset.

    Example:
        `alma_prox(model, images, masks, steps=200, ignore_label=255).minimal_norm`
    """
    _one_of("norm", norm, tuple(PROX))
    _one_of("penalty_grad", penalty_grad, ("exact", "released"))
    preset = preset or ("walk" if penalty_grad == "exact" else "published")
    _one_of("preset", preset, tuple(PRESETS))
    settings = settings or PRESETS[preset]
    _one_of("settings.search", settings.search, ("bisection", "ternary"))
    problem, steps = prepare(model, images, labels, **common), checked_steps(steps)
    walked = int(settings.walk_share * steps) if norm == "linf" else 0
    found = problem.run(
        alma_loop,
        trace=bool(return_trace),
        steps=steps - walked,
        norm=norm,
        penalty_grad=penalty_grad,
        settings=settings,
    )
    values = {name: value.numpy() for name, value in found.items()}
    check_gradient(problem, values.pop("first_gradient"), "the logit ratio")
    delta = values.pop("delta")
    if walked:
        delta = _walked(problem, delta, walked, settings)
    return conclude(
        problem,
        problem.images + delta,
        norm=norm,
        gradient_evaluations=steps,
        first_success=values.pop("step_found"),
        trace=values,
    )


def _walked(problem: Problem, delta: Any, steps: int, settings: AlmaSettings) -> Any:
    rates = (settings.walk_radius_changes, settings.walk_step_sizes)
    return problem.run(walk, delta, *rates, steps=steps)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"`{name}` must be one of {list(known)}. Received: {value!r}")
