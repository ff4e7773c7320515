"""Signs that a model only looks robust: masked gradients, and attacks that are too weak."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_robustseg.attacks._evaluate_scores import Tally, pixel_accuracy

SLACK = 0.01
SUSPICIOUS_SHARE = 0.05
UNLIMITED_STEPS = 40
_NOTHING = "no image has a valid pixel"


@dataclass(frozen=True)
class Check:
    """One sign.

    Attributes:
        name: what was looked at.
        passed: None where it could not be looked at.
        detail: the figures, in words.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Probe:
    """A batch for further attacks: model, images (B, *S, F) and labels (B, *S), -1 void."""

    model: Any
    images: np.ndarray
    labels: np.ndarray


def run_checks(
    tallies: Mapping[tuple[str, float], Tally],
    minimal: Mapping[str, Sequence[float]],
    fixed: Sequence[str],
    probe: Probe,
    eps: Sequence[float],
    common: Mapping[str, Any],
) -> list[Check]:
    """Return all checks (Athalye et al., ICML 2018; Carlini et al., 2019).

    Args:
        tallies: counts by (attack, eps), with "noise" and perhaps "transfer".
        minimal: norms of each image by attack of minimal norm.
        fixed: names of the attacks of fixed eps.
        probe: the first batch.
        eps: the sizes.
        common: options of attacks.
    """
    accuracy = {
        key: float(pixel_accuracy(np.sum(tally.counts, axis=0))) for key, tally in tallies.items()
    }
    white = [*fixed, *minimal]
    return [
        falls_with_eps(accuracy, fixed, eps),
        unlimited_succeeds(probe, accuracy, white, eps, common),
        gradients_exist(probe, common),
        not_stronger("noise", accuracy, white, eps),
        not_stronger("transfer", accuracy, white, eps),
        minimal_agrees(tallies, minimal, fixed, eps, common["success_rate"]),
    ]


def falls_with_eps(
    accuracy: Mapping[tuple[str, float], float], fixed: Sequence[str], eps: Sequence[float]
) -> Check:
    """Whether accuracy falls, or stays, as eps grows."""
    name = "accuracy falls as eps grows"
    rises = [
        (accuracy[a, larger] - accuracy[a, smaller], a, larger)
        for a in fixed
        for smaller, larger in itertools.pairwise(eps)
    ]
    if not rises:
        return Check(name, None, "needs an attack of fixed eps and two sizes")
    rise, attack, size = max(rises)
    if np.isnan(rise):
        return Check(name, None, _NOTHING)
    return Check(name, rise <= SLACK, f"largest rise {rise:+.4f}, {attack} at {size:.4g}")


def unlimited_succeeds(
    probe: Probe,
    accuracy: Mapping[tuple[str, float], float],
    white: Sequence[str],
    eps: Sequence[float],
    common: Mapping[str, Any],
) -> Check:
    """Whether attacks that may change everything flip every valid pixel, or at least many more.

    Not every model can be made to err at every pixel: one that finds small objects may be unable
    to fill an image with them. So between the two nothing is claimed.
    """
    from keras_robustseg.attacks import cospgd, pgd

    (low, high), data = common["bounds"], (probe.model, probe.images, probe.labels)
    settings = {"eps": high - low, "steps": UNLIMITED_STEPS, **common}
    # No loss is enough alone: cross-entropy fades where the model is confident, and the logit
    # ratio can have local maxima where a linear model has none.
    found = (pgd(*data, **settings), pgd(*data, loss="logit_ratio", **settings))
    rates = [result.success_rate for result in (*found, cospgd(*data, **settings))]
    name, best = "an attack without limit succeeds", np.max(rates, axis=0)
    if np.isnan(best).all():
        return Check(name, None, "the first batch has no valid pixel")
    share = float(np.nanmean(best))
    limited = 1 - min(accuracy[a, eps[-1]] for a in white)
    passed = None if share > limited + SLACK else False
    passed = True if share >= common["success_rate"] - SLACK else passed
    detail = f"flips {share:.4f} of the first batch's pixels, {limited:.4f} at the largest eps"
    return Check(name, passed, detail)


def _largest_gradient(scene: Any) -> Any:
    """Abs of the gradient of the cross-entropy at its largest, (B,)."""
    from keras_robustseg.attacks._losses import cross_entropy

    _, gradient = scene.gradient(scene.images, lambda z: cross_entropy(z, scene.labels, 0.0, False))
    return scene.largest(gradient)


def gradients_exist(probe: Probe, common: Mapping[str, Any]) -> Check:
    """Whether the loss has a gradient at the images."""
    from keras_robustseg.attacks._problem import prepare

    problem = prepare(probe.model, probe.images, probe.labels, **common)
    counted = problem.valid.numpy().any(-1)
    name = "gradients are not zero"
    if not counted.any():
        return Check(name, None, "the first batch has no valid pixel")
    share = float((problem.run(_largest_gradient).numpy()[counted] == 0).mean())
    return Check(name, share <= SUSPICIOUS_SHARE, f"zero at {share:.1%} of the first batch")


def not_stronger(
    baseline: str,
    accuracy: Mapping[tuple[str, float], float],
    white: Sequence[str],
    eps: Sequence[float],
) -> Check:
    """Whether noise, or another model's attack, leaves more right pixels than the best attack."""
    name = f"{baseline} is not stronger than the attacks"
    if (baseline, eps[0]) not in accuracy:
        return Check(name, None, "needs `surrogate`, a model to transfer attacks from")
    gains = [(min(accuracy[a, e] for a in white) - accuracy[baseline, e], e) for e in eps]
    gain, size = max(gains)
    if np.isnan(gain):
        return Check(name, None, _NOTHING)
    return Check(name, gain <= SLACK, f"accuracy lower by {max(gain, 0):.4f} at {size:.4g}")


def minimal_agrees(
    tallies: Mapping[tuple[str, float], Tally],
    minimal: Mapping[str, Sequence[float]],
    fixed: Sequence[str],
    eps: Sequence[float],
    success_rate: float,
) -> Check:
    """Whether minimal norms stay below every eps at which another attack has succeeded."""
    name = "minimal norms are not above what other attacks needed"
    if not minimal or not fixed:
        return Check(name, None, "needs an attack of minimal norm and one of fixed eps")
    best = np.min([np.asarray(norms) for norms in minimal.values()], axis=0)
    if np.isnan(best).all():
        return Check(name, None, _NOTHING)
    beaten = np.zeros(len(best), bool)
    for a in fixed:
        for size in eps:
            beaten |= (1 - tallies[a, size].accuracy >= success_rate) & (best > size * (1 + 1e-6))
    share = float(beaten.mean())
    return Check(name, share <= SUSPICIOUS_SHARE, f"they are for {share:.1%} of the images")
