"""Mixtures of noises: each sample gets one of several kinds, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy.typing as npt

from keras_robustseg.data.noise._fields import Level
from keras_robustseg.data.noise._geometry import IntArray
from keras_robustseg.data.noise._noise import Noise, checked_mask
from keras_robustseg.data.noise._seed import Seed, generator
from keras_robustseg.errors import RecipeError


class Part(NamedTuple):
    """One noise of a mixture, its probability, and a seed that changes its draws alone."""

    noise: Noise | Mixture
    probability: float
    seed: int | None = None


@dataclass(frozen=True)
class Mixture:
    """Puts one of its parts on a mask, chosen by the seed; where none is chosen, the mask stays.

    Args:
        parts: The noises; their probabilities sum to at most 1.
    """

    parts: tuple[Part, ...]

    def __call__(
        self, mask: npt.ArrayLike, *, seed: Seed, spacing: Sequence[float] | None = None
    ) -> IntArray:
        """Returns a noisy copy of a mask; arguments as for `Noise`."""
        chosen = self.choice(seed)
        if chosen is None:
            return checked_mask(mask).copy()
        noise, own_seed = chosen
        return noise(mask, seed=own_seed, spacing=spacing)

    def choice(self, seed: Seed) -> tuple[Noise | Mixture, Seed] | None:
        """Returns the part that a seed gets and the seed it is called with; `None` for no noise."""
        share, total = self.share(seed), 0.0
        for number, part in enumerate(self.parts):
            total += part.probability
            # The last part of a full mixture must not miss a share just below 1.
            if share < total or (number == len(self.parts) - 1 and total > 1.0 - 1e-9):
                return part.noise, part_seed(seed, number, part.seed)
        return None

    @staticmethod
    def share(seed: Seed) -> float:
        """Returns the number in [0, 1) by which a seed chooses among the parts."""
        return float(generator(seed, "mixture").random())


def part_seed(seed: Seed, number: int, own: int | None = None) -> Seed:
    """Returns the seed that part `number` of a mixture is called with."""
    return (seed, number) if own is None else (seed, number, own)


def mixture(
    parts: Sequence[tuple[Noise | Mixture, float] | tuple[Noise | Mixture, float, int | None]],
) -> Mixture:
    """Returns a noise that is `parts[i][0]` with probability `parts[i][1]`, else none.

    Args:
        parts: Pairs of a noise and its probability; a third entry is a seed that changes the
            draws of this part alone.

    Returns:
        The mixture.

    Raises:
        RecipeError: A probability is outside [0, 1], or their sum is above 1.

    Example:
        `noise.mixture([(noise.reader(), 0.5), (noise.missing(0.3), 0.25)])(mask, seed=0)`
    """
    members = tuple(Part(*part) for part in parts)
    chances = [part.probability for part in members]
    if any(not 0.0 <= chance <= 1.0 for chance in chances) or sum(chances) > 1.0 + 1e-9:
        raise RecipeError(
            "noise mixture, field 'probability': expected numbers from 0 to 1 with a sum of at "
            f"most 1, received {chances}"
        )
    return Mixture(members)


def describe(noise: Noise | Mixture, seed: Seed) -> tuple[str, Level]:
    """Returns the kind and the drawn level that a seed gets; `("none", {})` for no noise.

    Example:
        `describe(noise.dilate(radius=(1, 4)), 0)  # ("dilate", {"radius": 2.9..., ...})`
    """
    while isinstance(noise, Mixture):
        chosen = noise.choice(seed)
        if chosen is None:
            return "none", {}
        noise, seed = chosen
    return noise.kind, noise.drawn(seed)
