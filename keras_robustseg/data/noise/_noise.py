"""`Noise`: one kind of annotation noise at one level, ready to be put on masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from keras_robustseg.data.noise._fields import Level, draw, stronger
from keras_robustseg.data.noise._geometry import IntArray, nearest
from keras_robustseg.data.noise._seed import Seed, generator
from keras_robustseg.errors import DataError

Apply = Callable[[IntArray, Level, np.random.Generator], IntArray]
"""Noise on a mask without void; the level is drawn, and holds the sample's `spacing` as well."""


@dataclass(frozen=True)
class Noise:
    """A callable `noise(mask, seed=...) -> noisy mask`, the same for the same mask and seed.

    Void pixels (negative) come back as they were. While the noise works they carry the nearest
    known label, so that the edge of a void region does not count as the edge of an object.

    Args:
        kind: Name of the kind, as in recipes.
        level: All fields of the kind; a pair `(lo, hi)` is drawn anew for each seed.
        apply: What the kind does.

    Example:
        `noise.dilate(radius=(1, 4))(mask, seed=(0, "patient 12"))`
    """

    kind: str
    level: Level
    apply: Apply

    def __call__(
        self, mask: npt.ArrayLike, *, seed: Seed, spacing: Sequence[float] | None = None
    ) -> IntArray:
        """Returns a noisy copy of a mask.

        Args:
            mask: Class indices `(H, W)` or `(D, H, W)`; negative is void.
            seed: Number, text, or tuple of them; usually `(seed, sample id)`.
            spacing: Size of a pixel in mm along each axis; only `physical` noise needs it.

        Returns:
            Class indices of the same shape and type.

        Raises:
            DataError: The mask is not an integer array of two or three axes.
        """
        mask = checked_mask(mask)
        known = mask >= 0
        if not known.any():
            return mask.copy()
        level = {**self.drawn(seed), "spacing": spacing}
        noisy = self.apply(nearest(mask, known), level, generator(seed, "noise"))
        return np.where(known, noisy, mask).astype(mask.dtype)

    def drawn(self, seed: Seed) -> Level:
        """Returns the level that a seed gets: each range replaced by one value."""
        return draw(self.kind, self.level, generator(seed, "level"))

    def stronger(self, factor: float) -> Noise:
        """Returns the same kind with its strength multiplied, for instance radius or rate."""
        return replace(self, level=stronger(self.kind, self.level, factor))


def checked_mask(mask: npt.ArrayLike) -> IntArray:
    """Returns the mask as an integer array of two or three axes, or raises DataError."""
    mask = np.asarray(mask)
    if mask.dtype.kind == "b":
        mask = mask.astype(np.int16)
    if mask.dtype.kind not in "iu" or mask.ndim not in (2, 3) or not mask.size:
        raise DataError(
            "noise: expected a mask of class indices (H, W) or (D, H, W), received "
            f"{mask.dtype} of shape {mask.shape}"
        )
    return mask
