"""TIFF files: through tifffile where it is installed, else through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_robustseg.data._files_npy import require_numbers
from keras_robustseg.data._files_picture import picture_raster, picture_shape
from keras_robustseg.data._raster import Header, Raster, limit_shape, reading

__all__ = ["peek", "read"]

_LOSSY_COMPRESSION = {6, 7, 33003, 33004, 33005, 34712, 50001}  # JPEG, JPEG 2000, WebP
_PALETTE = 3


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError:
        return None
    return tifffile


def peek(path: Path) -> Header:
    """Declared shape of a TIFF file."""
    with reading(path, "TIFF"):
        library = _tifffile()
        if library is None:
            return _peek_pillow(path)
        with library.TiffFile(path) as tiff:
            shape, channel_axis = _layout(tiff.series[0])
            limit_shape(path, shape)
            return Header(shape, channel_axis is not None)


def read(path: Path) -> Raster:
    """Content of a TIFF file: pages become the first axis, channels the last one."""
    with reading(path, "TIFF"):
        library = _tifffile()
        if library is None:
            return _read_pillow(path)
        try:
            return _read_tifffile(path, library)
        except Exception as error:
            # tifffile leaves some compressions (LZW) to a further package; Pillow has them.
            if "imagecodecs" not in str(error):
                raise
            return _read_pillow(path)


def _layout(series: Any) -> tuple[tuple[int, ...], int | None]:
    """Shape with channels last, and where the channel axis was before."""
    axis = next((i for i, name in enumerate(series.axes) if name in "SC"), None)
    shape = list(series.shape)
    if axis is not None:
        shape.append(shape.pop(axis))
    return tuple(shape), axis


def _read_tifffile(path: Path, library: Any) -> Raster:
    with library.TiffFile(path) as tiff:
        series = tiff.series[0]
        shape, axis = _layout(series)
        limit_shape(path, shape)
        require_numbers(path, np.dtype(series.dtype))
        page = series.keyframe
        _require_complete(tiff, path)
        pixels = series.asarray()
        lossy = int(page.compression) in _LOSSY_COMPRESSION
        palette = _palette(page) if int(page.photometric) == _PALETTE else None
    if axis is not None:
        pixels = np.moveaxis(pixels, axis, -1)
    coding = "palette" if palette is not None else "grey" if axis is None else "colour"
    return Raster(pixels, coding, palette, lossy=lossy)


def _palette(page: Any) -> np.ndarray:
    """TIFF stores 16-bit palettes, `(3, entries)`; the upper byte is the colour."""
    return (np.asarray(page.colormap).T >> 8).astype(np.uint8)


def _require_complete(tiff: Any, path: Path) -> None:
    """tifffile fills strips that were cut off with zeros: a mask would turn to background."""
    size = path.stat().st_size
    for page in tiff.pages:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > size or count == 0:
                raise ValueError(f"cut off: pixels end at byte {offset + count} of {size}")


def _peek_pillow(path: Path) -> Header:
    with Image.open(path, formats=["TIFF"]) as picture:
        shape = picture_shape(picture)
        frames = getattr(picture, "n_frames", 1)
    shape_all = shape if frames == 1 else (frames, *shape)
    limit_shape(path, shape_all)
    return Header(shape_all, len(shape) == 3)


def _read_pillow(path: Path) -> Raster:
    header = _peek_pillow(path)
    with Image.open(path, formats=["TIFF"]) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames == 1:
            return picture_raster(picture, path)
        pages = np.empty(header.shape, np.asarray(picture).dtype)
        for number in range(frames):
            picture.seek(number)
            pages[number] = picture_raster(picture, path).pixels
    return Raster(pages, "colour" if header.has_channels else "grey")
