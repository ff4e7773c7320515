"""Solves the strength of a noise for the mean Dice that it is to leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keras_robustseg.data.noise._fields import saturated
from keras_robustseg.data.noise._geometry import FloatArray, IntArray
from keras_robustseg.data.noise._measure import mean_dice
from keras_robustseg.data.noise._mixture import Mixture, mixture, part_seed
from keras_robustseg.data.noise._noise import Noise, checked_mask
from keras_robustseg.data.noise._seed import Seed
from keras_robustseg.errors import DataError

Family = Callable[[float], Noise]


def to_target_dice(
    noise_family: Noise | Family,
    masks: Sequence[npt.ArrayLike],
    target: float,
    seed: Seed = 0,
    *,
    names: Sequence[Seed] | None = None,
    spacings: Sequence[Sequence[float] | None] | None = None,
    num_classes: int | None = None,
    tolerance: float = 0.01,
) -> Noise | Mixture:
    """Finds the strength t at which the mean over masks of Dice(noisy, mask) equals a target.

    The same random numbers are used at every t, and t is bisected. Where Dice jumps over the
    target between two neighbouring strengths (a whole pixel more or less), a mixture of the two
    is returned, with the share that meets the target.

    Args:
        noise_family: A noise, whose strength fields are multiplied by t (`noise.STRENGTH`), or a
            function of t >= 0 that returns a noise, stronger for larger t and none at 0.
        masks: Clean masks; those without foreground do not count.
        target: Mean over masks of the mean Dice of the foreground classes.
        seed: Mask i is given the seed `(seed, names[i])`.
        names: Names of the masks, such as sample ids; 0, 1, ... by default.
        spacings: Size of a pixel of each mask in mm, for noise that is `physical`.
        num_classes: Number of classes with background; by default the largest label plus one.
        tolerance: Largest accepted difference of the mean from `target`.

    Returns:
        The noise, whose mean Dice on `masks` with these seeds is within `tolerance`.

    Raises:
        DataError: The target cannot be reached; the message has the range that can. Or no mask
            has foreground.

    Example:
        `noise.to_target_dice(noise.dilate(1.0), masks, 0.8, seed=0)`
    """
    names = list(range(len(masks))) if names is None else list(names)
    seeds = [(seed, name) for name in names]
    trial = Trial.of(masks, seeds, spacings=spacings, num_classes=num_classes)
    family = noise_family.stronger if isinstance(noise_family, Noise) else noise_family
    return solve(family, trial, target, tolerance=tolerance)


@dataclass(frozen=True)
class Trial:
    """Masks with foreground, the seed and spacing of each, and the number of classes."""

    masks: list[IntArray]
    seeds: list[Seed]
    spacings: list[Sequence[float] | None]
    num_classes: int

    @classmethod
    def of(
        cls,
        masks: Sequence[npt.ArrayLike],
        seeds: Sequence[Seed],
        *,
        spacings: Sequence[Sequence[float] | None] | None,
        num_classes: int | None,
    ) -> Trial:
        """Leaves out masks without foreground; raises DataError where none is left."""
        sizes = [None] * len(masks) if spacings is None else spacings
        rows = zip(map(checked_mask, masks), seeds, sizes, strict=True)
        used = [row for row in rows if (row[0] > 0).any()]
        if not used:
            raise DataError("noise: a target Dice needs a mask with foreground, received none")
        largest = max(int(mask.max()) for mask, _, _ in used)
        kept_masks, kept_seeds, kept_spacings = (list(column) for column in zip(*used, strict=True))
        return cls(kept_masks, kept_seeds, kept_spacings, num_classes or largest + 1)

    def each(self, noise: Noise | Mixture, seeds: Sequence[Seed] | None = None) -> FloatArray:
        """Returns the Dice of each mask under a noise."""
        rows = zip(self.masks, seeds or self.seeds, self.spacings, strict=True)
        noisy = [(noise(mask, seed=own, spacing=spacing), mask) for mask, own, spacing in rows]
        return np.array([mean_dice(after, mask, self.num_classes) for after, mask in noisy])

    def mean(self, noise: Noise | Mixture) -> float:
        """Returns the mean of `each`."""
        return float(self.each(noise).mean())


def solve(
    family: Family, trial: Trial, target: float, *, tolerance: float = 0.01
) -> Noise | Mixture:
    """Solves the strength of a family on a trial; see `to_target_dice`."""
    weak, strong = 0.0, _strong_enough(family, trial, target, tolerance)
    while strong - weak > 1e-4 * strong:
        middle = 0.5 * (weak + strong)
        dice = trial.mean(family(middle))
        if abs(dice - target) <= 0.25 * tolerance:
            return family(middle)
        weak, strong = (middle, strong) if dice > target else (weak, middle)
    return _mixed(family(weak), family(strong), trial, target, tolerance)


def _strong_enough(family: Family, trial: Trial, target: float, tolerance: float) -> float:
    """Returns a strength whose Dice is at most the target, found by doubling."""
    strong, dice = 1.0, trial.mean(family(1.0))
    while dice > target and strong < 2**12 and not _ends(family(strong)):
        strong *= 2.0
        dice = trial.mean(family(strong))
    highest = trial.mean(family(0.0))
    if not dice - tolerance <= target <= highest + tolerance:
        raise DataError(
            f"noise: a mean Dice of {target:g} cannot be reached on these masks with this kind of "
            f"noise, only {dice:.3f} to {highest:.3f}; choose another target or another kind"
        )
    return strong


def _ends(noise: Noise) -> bool:
    return saturated(noise.kind, noise.level)


def _mixed(weak: Noise, strong: Noise, trial: Trial, target: float, tolerance: float) -> Mixture:
    """Returns the mixture of two strengths, on either side of the target, that comes nearest."""
    each = [
        trial.each(noise, [part_seed(seed, number) for seed in trial.seeds])
        for number, noise in enumerate((strong, weak))
    ]
    shares = np.array([Mixture.share(seed) for seed in trial.seeds])
    order = np.argsort(shares)
    # reached[i]: mean Dice when the i masks of smallest share get the strong noise.
    gain = np.concatenate([[0.0], np.cumsum((each[0] - each[1])[order])])
    reached = each[1].mean() + gain / len(shares)
    best = int(np.argmin(np.abs(reached - target)))
    if abs(reached[best] - target) > tolerance:
        raise DataError(
            f"noise: a mean Dice of {target:g} lies between two strengths on these "
            f"{len(shares)} masks; the nearest that can be reached is {reached[best]:.3f}"
        )
    cuts = np.concatenate([[0.0], shares[order], [1.0]])
    probability = 0.5 * (cuts[best] + cuts[best + 1]) if best else 0.0
    return mixture([(strong, probability), (weak, 1.0 - probability)])
