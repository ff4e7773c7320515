"""LIDC: what up to four radiologists drew around the same lung nodules, on rendered patches."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import importlib_resources
import numpy as np

from keras_robustseg.data._render import render_nodule
from keras_robustseg.data._source import SPLITS, VOID, Example, Sample, Source
from keras_robustseg.errors import DataError

__all__ = ["LIDC_NOTICE", "LidcSource", "ReaderSlices", "RenderedReaders"]

LIDC_NOTICE = (
    "Masks: LIDC-IDRI, outlines by up to four radiologists, The Cancer Imaging Archive, "
    "CC BY 3.0; Armato et al., Medical Physics 38 (2011) 915. Images: rendered by this package, "
    "not CT. The authors acknowledge the National Cancer Institute and the Foundation for the "
    "National Institutes of Health, and their critical role in the creation of the free publicly "
    "available LIDC/IDRI Database used in this study."
)

READERS = 4
WINDOW = 64
_FIXTURE = "lidc_nodules.npz"
_SIZES = (32, 256)


@dataclass(frozen=True, eq=False)
class ReaderSlices:
    """Reader masks of N slices, packed to bits: the table behind both LIDC sources.

    Args:
        masks: uint8 `(N, 4, 512)`, `numpy.packbits` of the 64x64 masks, readers in a shuffled
            order (LIDC does not say who a reader was); slots past `readers` are empty.
        nodule: int32 `(N,)`, number of the nodule in the database's order.
        patient: int32 `(N,)`, number of the patient in the database's order, no identity.
        slice: int16 `(N,)`, number of the slice within the nodule.
        pixel_mm: float32 `(N,)`, edge of a pixel in mm.
        texture: float32 `(N,)`, median texture rating, 1 (ground glass) to 5 (solid).
        readers: uint8 `(N,)`, how many readers marked the nodule.
        drew: bool `(N, 4)`, whether the reader outlined this slice.
        split: uint8 `(N,)`, 0 train, 1 val, 2 test; the same for all slices of a patient.
    """

    masks: np.ndarray
    nodule: np.ndarray
    patient: np.ndarray
    slice: np.ndarray
    pixel_mm: np.ndarray
    texture: np.ndarray
    readers: np.ndarray
    drew: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.nodule)

    def reader_masks(self, index: int) -> np.ndarray:
        """bool `(4, 64, 64)` of one slice."""
        bits = np.unpackbits(self.masks[index], axis=-1)
        return bits.reshape(READERS, WINDOW, WINDOW).astype(bool)

    def take(self, indices: np.ndarray) -> ReaderSlices:
        """The table of the given slices, in the given order."""
        return ReaderSlices(**{name: column[indices] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Any]:
        """Name of each column and its array."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: str | Path) -> None:
        """Writes the table as a compressed npz."""
        np.savez_compressed(path, allow_pickle=False, **self.columns())

    @classmethod
    def read(cls, path: str | Path) -> ReaderSlices:
        """Reads what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or lacks a column.
        """
        try:
            with np.load(path) as stored:
                return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: not a readable table of LIDC slices ({error}); expected an npz that "
                "this package wrote; install the package again or delete the cached file"
            ) from None


class RenderedReaders(Source):
    """A source over a `ReaderSlices` table; the images are rendered when they are loaded.

    The truth is what at least half of the nodule's readers outlined, and the image shows the
    truth. It is empty in slices that only a minority outlined.

    Args:
        slices: The table.
        size: Edge of the square patch in pixels, 32 to 256; masks are cut or padded around
            their centre.
        seed: Seed of the rendered images; the masks do not depend on it.
    """

    channels = 1
    dims = 2
    rendered = True
    notice = LIDC_NOTICE
    classes = ("background", "nodule")

    def __init__(self, slices: ReaderSlices, *, size: int, seed: int) -> None:
        if not _SIZES[0] <= size <= _SIZES[1]:
            raise DataError(
                f"source.size: got {size}, expected {_SIZES[0]} to {_SIZES[1]}; "
                f"the readers' masks are {WINDOW} pixels wide"
            )
        self.slices = slices
        self.size = size
        self.seed = seed
        self.samples = tuple(_sample(slices, index) for index in range(len(slices)))

    def load(self, index: int) -> Example:
        """Renders one slice; see `Source.load`."""
        table, sample = self.slices, self.samples[index]
        drawn = _resize(table.reader_masks(index), self.size)
        present = int(table.readers[index])
        truth = 2 * drawn[:present].sum(axis=0) >= present
        mask = np.moveaxis(drawn, 0, -1).astype(np.int16)
        mask[..., present:] = VOID
        image = render_nodule(
            truth, texture=float(table.texture[index]), key=f"{sample.id}/{self.seed}"
        )
        edge = float(table.pixel_mm[index])
        return Example(image[..., None], mask, truth.astype(np.int16), (edge, edge))


class LidcSource(RenderedReaders):
    """About 200 LIDC nodules that come with this package, on rendered patches.

    Args:
        size: Edge of the patch in pixels.
        seed: Seed of the rendered images.

    Raises:
        DataError: The size is out of range, or the embedded file is damaged.

    Example:
        >>> source = LidcSource()
        >>> source.load(source.split("train")[0]).mask.shape
        (64, 64, 4)
    """

    kind: ClassVar[str] = "lidc"
    name = "LIDC nodules (rendered)"

    def __init__(self, *, size: int = WINDOW, seed: int = 0) -> None:
        package = importlib_resources.files("keras_robustseg.data")
        with importlib_resources.as_file(package / "fixtures" / _FIXTURE) as path:
            slices = ReaderSlices.read(path)
        super().__init__(slices, size=size, seed=seed)


def _sample(slices: ReaderSlices, index: int) -> Sample:
    nodule, number = int(slices.nodule[index]), int(slices.slice[index])
    place = f"nodule {nodule}, slice {number}"
    return Sample(
        id=f"lidc-{nodule:04d}-{number:02d}",
        split=SPLITS[slices.split[index]],
        image=f"lidc (rendered): {place}",
        mask=f"lidc: {place}",
        group=f"patient-{int(slices.patient[index]):04d}",
    )


def _resize(masks: np.ndarray, size: int) -> np.ndarray:
    """Cuts or zero-pads (R, 64, 64) around its centre to (R, size, size)."""
    missing = max(size - WINDOW, 0)
    before = missing // 2
    around = (before, missing - before)
    padded = np.pad(masks, ((0, 0), around, around))
    start = (padded.shape[-1] - size) // 2
    return padded[:, start : start + size, start : start + size]
