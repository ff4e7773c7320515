"""A source that gives the truth as its mask: the bound that no noisy training can pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_robustseg.data._source import Example, Source
from keras_robustseg.errors import DataError


class TruthSource(Source):
    """Every sample of a source with its true mask as the only one that was given.

    Where a source does not say what the truth is, the mask of its only reader is taken for it.

    Args:
        source: the source to wrap.

    Example:
        `TruthSource(LidcSource()).load(0).mask.shape  # (64, 64, 1)`
    """

    kind = "truth"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.classes, self.channels = source.name, source.classes, source.channels
        self.dims, self.rendered, self.notice = source.dims, source.rendered, source.notice
        self.samples = source.samples

    def load(self, index: int) -> Example:
        """Load one sample.

        Raises:
            DataError: several readers drew it and the source does not know the truth.
        """
        example = self._source.load(index)
        truth = example.truth
        if truth is None:
            if example.mask.shape[-1] != 1:
                raise DataError(
                    f"data.readers: got 'truth', but {self.name} does not know the true mask of "
                    f"{self.samples[index].id}, which several readers drew"
                )
            truth = example.mask[..., 0]
        mask = np.asarray(truth, example.mask.dtype)
        return Example(example.image, mask[..., None], mask, example.spacing)

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Write a mask as the wrapped source does."""
        return self._source.save_mask(index, mask, path_stem)
