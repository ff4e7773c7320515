"""Volumes as 2-D slices."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from keras_robustseg.data._source import Example, Source
from keras_robustseg.errors import DataError


class SliceSource(Source):
    """Every slice of every volume of a source along one axis, as a 2-D sample.

    Slices of a volume share its group, so they are never divided between splits. Every volume is
    loaded once while its slices are read in order.

    Args:
        source: a source of volumes.
        axis: the axis that is cut, 0 to 2.

    Raises:
        DataError: the source holds no volumes, or `axis` is none of theirs.
    """

    kind = "slices"

    def __init__(self, source: Source, *, axis: int = 0) -> None:
        if source.dims != 3 or axis not in (0, 1, 2):
            raise DataError(
                f"pipeline.slices: got axis {axis} of {source.dims}-D data ({source.name}), "
                "expected volumes and an axis 0, 1 or 2"
            )
        self._source, self._axis = source, axis
        self.name, self.classes, self.channels = source.name, source.classes, source.channels
        self.dims, self.rendered, self.notice = 2, source.rendered, source.notice
        self._volume = lru_cache(maxsize=2)(source.load)
        self._where = [
            (volume, cut)
            for volume in range(len(source.samples))
            for cut in range(self._volume(volume).image.shape[axis])
        ]
        self.samples = tuple(
            replace(
                source.samples[volume],
                id=f"{source.samples[volume].id}/{cut:04d}",
                group=source.samples[volume].group or source.samples[volume].id,
            )
            for volume, cut in self._where
        )

    def load(self, index: int) -> Example:
        """Load one slice."""
        volume, cut = self._where[index]
        whole = self._volume(volume)
        spacing = tuple(s for a, s in enumerate(whole.spacing) if a != self._axis)
        truth = None if whole.truth is None else np.take(whole.truth, cut, axis=self._axis)
        image, mask = (np.take(part, cut, axis=self._axis) for part in (whole.image, whole.mask))
        return Example(image, mask, truth, spacing)
