"""Sources whose samples are files: loading, inspecting and writing back, whatever the layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_robustseg.data._check_guard import examine_image, problem_of
from keras_robustseg.data._files import extension, peek, read, with_channels
from keras_robustseg.data._files_write import write_like
from keras_robustseg.data._inspected import InspectedSource
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import Header
from keras_robustseg.data._source import VOID, Example
from keras_robustseg.errors import DataError

__all__ = ["FileSource", "SampleFiles", "guess_dims"]

_PEEKED = 5  # files that are opened to learn the number of axes and channels
_SAME_SPACING = 1e-3


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample.

    Args:
        images: One file, or one per channel group.
        masks: One file per reader; `None` where a reader gave none.
    """

    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]


class FileSource(InspectedSource):
    """A source over image and mask files; subclasses find the files.

    Args:
        files: Files of each entry of `samples`.
        code: File values <-> class indices.
        dims: Number of spatial axes; `None` to learn it from the first files.
        channels: Channels of an image; `None` to learn it from the first files.
        spacing: Size of a pixel in mm along each axis, for formats that do not say it.

    Raises:
        DataError: `spacing` or `dims` cannot be.
    """

    def __init__(
        self,
        files: Sequence[SampleFiles],
        code: MaskCode,
        *,
        dims: int | None = None,
        channels: int | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        if dims not in (None, 2, 3):
            raise DataError(f"dims: got {dims}, expected 2 or 3")
        self.files = tuple(files)
        self.code = code
        self.classes = code.classes
        self.dims = dims or guess_dims(self.files)
        self.channels = channels or _guess_channels(self.files, self.dims)
        self.spacing = _checked_spacing(spacing, self.dims)
        self.readers = max((len(entry.masks) for entry in self.files), default=1)

    def inspect(self, index: int) -> tuple[Example | None, list[Problem]]:
        """Loads one sample and lists all that is wrong with it; see `Source.inspect`."""
        problems: list[Problem] = []
        image = self._image(index, problems)
        masks = self._masks(index, image, problems)
        if image is None or not any(mask is not None for mask in masks):
            return None, problems
        size = image.pixels.shape[:-1]
        stack = np.full((*size, self.readers), VOID, np.int16)
        for reader, mask in enumerate(masks):
            if mask is not None:
                stack[..., reader] = mask
        return Example(image.pixels, stack, None, image.spacing), problems

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Writes a mask as the first given mask of the sample is written; see `Source`."""
        given = next((path for path in self.files[index].masks if path is not None), None)
        if given is None:
            return super().save_mask(index, mask, path_stem)
        return write_like(given, mask, path_stem, self.code)

    def _image(self, index: int, problems: list[Problem]) -> _Picture | None:
        files = self.files[index].images
        file = self.samples[index].image
        try:
            picture = _read_picture(files, self.dims, self.spacing)
        except DataError as error:
            problems.append(problem_of(error, file))
            return None
        problems += examine_image(picture.pixels, file, self)
        return picture

    def _masks(
        self, index: int, image: _Picture | None, problems: list[Problem]
    ) -> list[np.ndarray | None]:
        paths = self.files[index].masks
        if not any(path is not None for path in paths):
            file = self.samples[index].image
            problems.append(
                Problem(file, "missing_partner", "has no mask", expected=self._partner(index))
            )
        return [None if path is None else self._mask(path, image, problems) for path in paths]

    def _partner(self, index: int) -> str:
        """Where the mask of a sample was looked for, for messages."""
        return f"a mask named {self.samples[index].id}"

    def _mask(
        self, path: Path, image: _Picture | None, problems: list[Problem]
    ) -> np.ndarray | None:
        try:
            raster = read(path)
            mask, found = self.code.decode(raster, self.dims, path)
        except DataError as error:
            problems.append(problem_of(error, str(path)))
            return None
        problems += found
        if image is None:
            return mask
        misplaced = _misplaced(mask, raster.affine, image, path)
        problems += misplaced
        return None if any(p.kind == "wrong_size" for p in misplaced) else mask


@dataclass(frozen=True, eq=False)
class _Picture:
    pixels: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None


def _read_picture(files: Sequence[Path], dims: int, spacing: tuple[float, ...] | None) -> _Picture:
    """Reads the files of one image and joins their channels."""
    rasters = [read(path) for path in files]
    parts = [with_channels(raster, dims, path) for raster, path in zip(rasters, files, strict=True)]
    for part, path in zip(parts, files, strict=True):
        if part.shape[:-1] != parts[0].shape[:-1]:
            message = "has another size than the first channel of its image"
            found, expected = str(part.shape[:-1]), str(parts[0].shape[:-1])
            raise BadFile(Problem(str(path), "wrong_size", message, found, expected=expected))
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    own = (rasters[0].spacing or ())[-dims:]
    found_spacing = own if len(own) == dims else (1.0,) * dims
    return _Picture(pixels, spacing or found_spacing, rasters[0].affine)


def _misplaced(
    mask: np.ndarray, affine: np.ndarray | None, image: _Picture, path: Path
) -> list[Problem]:
    """A mask of another size, or turned or shifted against its image in the scanner."""
    size = image.pixels.shape[:-1]
    if mask.shape != size:
        message = "has another size than its image"
        return [
            Problem(
                str(path), "wrong_size", message, str(mask.shape), expected=f"{size}, the image's"
            )
        ]
    if affine is None or image.affine is None:
        return []
    # Writers store affines as float32: a hundredth of a pixel is their rounding.
    if np.allclose(affine, image.affine, rtol=1e-3, atol=1e-2 * max(image.spacing)):
        return []
    message = "lies elsewhere in the scanner than its image"
    found, expected = (str(np.round(a[:3], 3).tolist()) for a in (affine, image.affine))
    return [Problem(str(path), "wrong_geometry", message, found, expected=expected)]


def _checked_spacing(spacing: Sequence[float] | None, dims: int) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != dims or not all(np.isfinite(size) and size > 0 for size in sizes):
        raise DataError(f"spacing: got {list(sizes)}, expected {dims} positive numbers in mm")
    return sizes


def _headers(paths: Sequence[Path]) -> list[Header]:
    headers = []
    for path in paths:
        try:
            headers.append(peek(path))
        except DataError:
            continue  # `check` and `load` report it; here only sound files teach something
        if len(headers) == _PEEKED:
            break
    return headers


def guess_dims(files: Sequence[SampleFiles]) -> int:
    """2 or 3 spatial axes, from what the first sound files declare; 2 where none does."""
    images = [entry.images[0] for entry in files]
    known = [header for header in _headers(images) if header.has_channels is not None]
    if not known:
        # An NPY image does not say whether its last axis is channels; its mask has none.
        known = _headers([path for entry in files for path in entry.masks if path is not None])
    axes = [
        len([n for n in header.shape[: len(header.shape) - bool(header.has_channels)] if n > 1])
        for header in known
    ]
    return 3 if axes and Counter(axes).most_common(1)[0][0] >= 3 else 2


def _guess_channels(files: Sequence[SampleFiles], dims: int) -> int:
    counts: Counter[int] = Counter()
    for entry in files:
        headers = [header for path in entry.images if (header := _peek_quietly(path))]
        if len(headers) == len(entry.images):
            counts[sum(_channels(header, dims) for header in headers)] += 1
        if counts.total() == _PEEKED:
            break
    return counts.most_common(1)[0][0] if counts else 1


def _peek_quietly(path: Path) -> Header | None:
    headers = _headers([path]) if extension(path) else []
    return headers[0] if headers else None


def _channels(header: Header, dims: int) -> int:
    if header.has_channels or (header.has_channels is None and len(header.shape) == dims + 1):
        return header.shape[-1]
    return 1
