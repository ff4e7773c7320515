"""ICBM152: a real head MRI with soft tissue maps, from the volumes inside the nilearn wheel.

The volumes are opened where pip put them; nilearn itself, which would load scikit-learn and
pandas, is not imported. The template is exactly symmetric, left to right, so that a split by
hemisphere would train on the test data: the split is by slabs along z, with gaps between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from keras_robustseg.data._bundled import bundled_file
from keras_robustseg.data._files_nifti import read
from keras_robustseg.data._source import Example, Sample, Source
from keras_robustseg.errors import DataError

__all__ = ["ICBM_NOTICE", "Icbm152TissueSource"]

ICBM_NOTICE = (
    "ICBM 2009a Nonlinear Symmetric template, copyright (C) 1993-2009 Louis Collins, McConnell "
    "Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to use, "
    "copy, modify, and distribute this software and its documentation for any purpose and "
    "without fee is hereby granted, provided that the above copyright notice appear in all "
    "copies. The volumes are read from the nilearn package, none is copied into this one. "
    "An average of 152 heads is smoother and easier than any one of them."
)

_SIZE = (192, 160)
_VOLUME = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_MAPS = ("t1", "gm", "wm")
# Along z: slices of each slab, in the order in which slabs follow each other; None is a gap.
_SLABS: tuple[tuple[str | None, int], ...] = (
    ("train", 10), (None, 2), ("val", 2), (None, 1), ("test", 4), (None, 7),
)  # fmt: skip
# Slices with less brain than this share of the default window, at both ends, are left out.
_LEAST_BRAIN = 0.02


class Icbm152TissueSource(Source):
    """The ICBM152 2009a head MRI with cerebrospinal fluid, grey and white matter.

    The mask is, inside the brain, the most probable tissue; `soft_truth` is the distribution
    itself. Needs the extra `mri`.

    Args:
        size: Height and width of the window in voxels of 1 mm, before downsampling; None is
            192 x 160, which holds the whole brain.
        dims: 2 gives axial slices `(H, W)`, 3 gives the slabs between the gaps, `(D, H, W)` with
            D = 10 (train), 2 (val) or 4 (test).
        downsample: Average so many voxels along height and along width into one.
        parcels: Cut every tissue into so many parts from back to front, each a class of its own:
            1 + 3 `parcels` classes. The cuts are straight lines of this package, at equal shares
            of the window's height; `soft_truth` knows nothing of them.

    Raises:
        DataError: The extra is not installed, or a field is out of range.

    Example:
        `Icbm152TissueSource(downsample=2).load(0).image.shape == (96, 80, 1)`
    """

    kind: ClassVar[str] = "icbm152_tissue"
    name = "ICBM152 tissue"
    channels = 1
    classes: tuple[str, ...] = ("background", "csf/rest", "grey", "white")
    notice = ICBM_NOTICE

    def __init__(
        self,
        *,
        size: Sequence[int] | None = None,
        dims: int = 2,
        downsample: int = 1,
        parcels: int = 1,
    ) -> None:
        window = _SIZE if size is None else tuple(size)
        if len(window) != 2 or min(window) < 8:
            raise DataError(f"source.size: got {size}, expected two edges of at least 8 voxels")
        if dims not in (2, 3):
            raise DataError(f"source.dims: got {dims}, expected 2 or 3")
        if downsample < 1 or any(edge % downsample for edge in window):
            raise DataError(
                f"source.downsample: got {downsample}, expected a divisor of both edges of {window}"
            )
        if not 1 <= parcels <= window[0] // downsample:
            raise DataError(f"source.parcels: got {parcels}, expected 1 to the window's height")
        self.dims = dims
        self.downsample = downsample
        self.parcels = parcels
        if parcels > 1:
            background, *tissues = self.classes
            parts = [f"{tissue} {part + 1}" for tissue in tissues for part in range(parcels)]
            self.classes = (background, *parts)
        self.window = (int(window[0]), int(window[1]))
        self._slabs = _slabs(_slices_with_brain(self._volumes[0]))
        if dims == 2:
            self._slabs = [(s, z, z + 1) for s, low, high in self._slabs for z in range(low, high)]
        self.samples = tuple(_sample(split, low, high) for split, low, high in self._slabs)

    @cached_property
    def _volumes(self) -> np.ndarray:
        """uint8 (3, Z, Y, X): the T1 image, and grey and white matter as probability * 255."""
        paths = [bundled_file("nilearn", _VOLUME.format(k), extra="mri") for k in _MAPS]
        return np.stack([read(path).pixels.astype(np.uint8, copy=False) for path in paths])

    @cached_property
    def _corner(self) -> tuple[int, int]:
        """First row and column of the window: the brain's own, moved where it would not fit."""
        brain = self._volumes[0].any(axis=0)
        starts = (np.argmax(brain.any(axis=1)), np.argmax(brain.any(axis=0)))
        room = (max(full - edge, 0) for full, edge in zip(brain.shape, self.window, strict=True))
        row, column = (min(int(s), most) for s, most in zip(starts, room, strict=True))
        return row, column

    def load(self, index: int) -> Example:
        """Cuts one slice or slab out of the volume; see `Source.load`."""
        image = self._pooled(self._cut(index)[0].astype(np.float32))
        soft = self.soft_truth(index)
        mask = np.where(soft[..., 0] > 0.5, 0, 1 + np.argmax(soft[..., 1:], axis=-1))
        mask = self._parcelled(mask)
        in_plane = float(self.downsample)
        spacing = (in_plane, in_plane) if self.dims == 2 else (1.0, in_plane, in_plane)
        return Example(image[..., None], mask[..., None].astype(np.int16), None, spacing)

    def _parcelled(self, mask: np.ndarray) -> np.ndarray:
        """Classes of tissue and part, of class ids (*S) of tissues; rows run from back to front."""
        height = mask.shape[-2]
        part = np.arange(height)[:, None] * self.parcels // height
        return np.where(mask > 0, 1 + (mask - 1) * self.parcels + part, 0)

    def soft_truth(self, index: int) -> np.ndarray:
        """The distribution over tissues that the template's makers give.

        Args:
            index: Position in `samples`.

        Returns:
            float32 `(*S, 4)` that sums to 1: outside the brain, csf or other, grey, white.
        """
        image, grey, white = self._cut(index).astype(np.int32)
        brain = image > 0
        parts = (np.where(brain, 0, 255), 255 - grey - white, grey, white)
        shares = [np.where(brain | (k == 0), part, 0) for k, part in enumerate(parts)]
        return np.stack([self._pooled(s.astype(np.float32) / 255.0) for s in shares], axis=-1)

    def _cut(self, index: int) -> np.ndarray:
        """uint8 (3, *S) at full resolution, zero where the window leaves the volume."""
        _, low, high = self._slabs[index]
        top, left = self._corner
        slab = self._volumes[:, low:high, top : top + self.window[0], left : left + self.window[1]]
        missing = [edge - have for edge, have in zip(self.window, slab.shape[2:], strict=True)]
        cut = np.pad(slab, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
        return cut[:, 0] if self.dims == 2 else cut

    def _pooled(self, image: np.ndarray) -> np.ndarray:
        """Averages blocks of `downsample` x `downsample` over the last two axes."""
        step = self.downsample
        height, width = (edge // step for edge in self.window)
        blocks = image.reshape(*image.shape[:-2], height, step, width, step)
        return blocks.mean(axis=(-3, -1), dtype=np.float32)


def _slices_with_brain(image: np.ndarray) -> range:
    area = (image > 0).sum(axis=(1, 2))
    enough = np.flatnonzero(area >= _LEAST_BRAIN * _SIZE[0] * _SIZE[1])
    return range(int(enough[0]), int(enough[-1]) + 1)


def _slabs(along_z: range) -> list[tuple[str, int, int]]:
    """Split, first slice and end of each slab; the last one may be cut short."""
    slabs, low = [], along_z.start
    while low < along_z.stop:
        for split, thickness in _SLABS:
            high = min(low + thickness, along_z.stop)
            if split is not None and low < high:
                slabs.append((split, low, high))
            low += thickness
    return slabs


def _sample(split: str, low: int, high: int) -> Sample:
    name = f"{low:03d}" if high == low + 1 else f"{low:03d}-{high - 1:03d}"
    place = f"icbm152: z {name}"
    return Sample(f"icbm152-z{name}", split, place, place)
