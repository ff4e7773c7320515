"""Strict readers of image and mask files, chosen by the file's extension.

PNG, JPEG, TIFF, NPY and NIfTI. Nothing is unpickled, sizes are checked before pixels are decoded,
and every failure is a `DataError` that names the file.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import Header, Raster, require_file

__all__ = [
    "EXTENSIONS",
    "extension",
    "peek",
    "read",
    "stem",
    "with_channels",
    "without_single_slices",
    "wrong_axes",
]

_READERS = {
    ".png": "_files_picture",
    ".jpg": "_files_picture",
    ".jpeg": "_files_picture",
    ".tif": "_files_tiff",
    ".tiff": "_files_tiff",
    ".npy": "_files_npy",
    ".nii": "_files_nifti",
    ".nii.gz": "_files_nifti",
}
EXTENSIONS: tuple[str, ...] = tuple(_READERS)


def extension(path: Path) -> str:
    """Extension in lower case, `.nii.gz` as one; empty where this package cannot read the file."""
    name = path.name.lower()
    return max((e for e in EXTENSIONS if name.endswith(e)), key=len, default="")


def stem(path: Path) -> str:
    """File name without its (possibly double) extension."""
    return path.name[: len(path.name) - len(extension(path))] if extension(path) else path.stem


def _reader(path: Path) -> ModuleType:
    module = _READERS.get(extension(path))
    if module is None:
        known = " ".join(EXTENSIONS)
        raise BadFile(
            Problem(str(path), "unreadable", "unknown format", path.suffix, expected=known)
        )
    require_file(path)
    return importlib.import_module(f"keras_robustseg.data.{module}")


def peek(path: str | Path) -> Header:
    """Reads what a file declares about its size, without decoding pixels.

    Args:
        path: The file.

    Returns:
        The declared shape.

    Raises:
        DataError: The file is missing, damaged or too large.
    """
    path = Path(path)
    return _reader(path).peek(path)


def read(path: str | Path) -> Raster:
    """Reads an image or mask file as it is stored.

    Volumes come as `(D, H, W)`: the axes of a NIfTI file, stored fastest first, are reversed.

    Args:
        path: A PNG, JPEG, TIFF, NPY, `.nii` or `.nii.gz` file.

    Returns:
        The pixels and what the file says about them.

    Raises:
        DataError: The file is missing, damaged, too large, or needs a package of the extra
            `medical` that is not installed.

    Example:
        ```python
        raster = read("scan.nii.gz")
        raster.pixels.shape, raster.spacing
        ```
    """
    path = Path(path)
    return _reader(path).read(path)


def with_channels(raster: Raster, dims: int, path: Path) -> np.ndarray:
    """Brings stored pixels to `(*S, channels)` with `dims` spatial axes, as float32.

    Raises:
        DataError: The array has another number of axes.
    """
    pixels = without_single_slices(raster, dims)
    if pixels.ndim == dims:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != dims + 1:
        expected = f"{dims} axes, or {dims + 1} with channels last"
        raise wrong_axes(raster, path, expected)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf and is reported so
        return np.ascontiguousarray(pixels, dtype=np.float32)


def without_single_slices(raster: Raster, dims: int) -> np.ndarray:
    """Drops leading axes of length one: a 2-D image in a volume format has one slice."""
    pixels = raster.pixels
    known = raster.coding != "array"  # an NPY file does not say which of its axes are spatial
    while known and pixels.ndim > dims + (raster.coding == "colour") and pixels.shape[0] == 1:
        pixels = pixels[0]
    return pixels


def wrong_axes(raster: Raster, path: Path, expected: str) -> BadFile:
    """The error for an array with the wrong number of axes."""
    found = f"{raster.pixels.ndim} axes {raster.pixels.shape}"
    problem = Problem(str(path), "wrong_size", "wrong number of axes", found, expected=expected)
    return BadFile(problem)
