"""NIfTI files, through nibabel (extra `medical`)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg.data._files_npy import require_numbers
from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import Header, Raster, limit_shape, reading

__all__ = ["open_nifti", "peek", "read", "require_nibabel"]

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def require_nibabel(path: Path) -> Any:
    """Imports nibabel.

    Raises:
        DataError: It is not installed; names the extra that brings it.
    """
    try:
        import nibabel
    except ImportError as error:
        message = "needs nibabel: pip install 'keras-robustseg[medical]'"
        raise BadFile(Problem(str(path), "missing_package", message)) from error
    return nibabel


def open_nifti(path: Path) -> Any:
    """Opens the header and checks what it declares; the pixels stay on disk."""
    nibabel = require_nibabel(path)
    image = nibabel.Nifti1Image.from_filename(path) if _is_nifti1(path) else nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError("not a single-file NIfTI image")
    limit_shape(path, image.shape)
    require_numbers(path, image.get_data_dtype())
    return image


def _is_nifti1(path: Path) -> bool:
    """nibabel guesses the kind of a file from its first bytes and guesses wrong on damaged ones."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as stream:
        return stream.read(4) in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")


def _order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of `(x, y, z[, channel])` reversed to `(z, y, x[, channel])`, channels kept last."""
    spatial = min(len(shape), 3)
    return (*reversed(range(spatial)), *range(spatial, len(shape)))


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drops trailing axes of length one (time, channel, the third axis of a 2-D image)."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def peek(path: Path) -> Header:
    """Declared shape of a NIfTI file, `(D, H, W[, channels])`."""
    with reading(path, "NIfTI"):
        shape = _trimmed(open_nifti(path).shape)
        return Header(tuple(shape[axis] for axis in _order(shape)), len(shape) > 3)


def read(path: Path) -> Raster:
    """Content of a NIfTI file, with its scaling applied, its spacing in mm and its affine."""
    with reading(path, "NIfTI"):
        image = open_nifti(path)
        shape = _trimmed(image.shape)
        pixels = np.asanyarray(image.dataobj).reshape(shape)
        coding = "colour" if len(shape) > 3 else "grey"
        affine = np.asarray(image.affine, dtype=np.float64)
        return Raster(
            pixels.transpose(_order(shape)),
            coding,
            spacing=_spacing(image.header, min(len(shape), 3), path),
            affine=affine,
        )


def _spacing(header: Any, axes: int, path: Path) -> tuple[float, ...]:
    scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    spacing = tuple(float(size) * scale for size in header.get_zooms()[:axes][::-1])
    if not all(np.isfinite(size) and size > 0 for size in spacing):
        message = "pixdim is no size in mm"
        raise BadFile(
            Problem(str(path), "spacing", message, str(spacing), expected="positive numbers")
        )
    return spacing
