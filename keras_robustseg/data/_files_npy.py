"""NPY files: the header first, the array only if it is numbers and not too many of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np

from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import Header, Raster, limit_shape, reading

__all__ = ["peek", "read", "read_stream_header", "require_numbers"]


def read_stream_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that the NPY header at the start of `stream` declares."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype


def require_numbers(path: Path, dtype: np.dtype) -> None:
    """Refuses arrays of objects (which would be unpickled), text, complex numbers, records."""
    if dtype.kind not in "biuf":
        message = "holds no numbers that an image or a mask could have"
        expected = "integers or floating-point numbers"
        raise BadFile(Problem(str(path), "unreadable", message, str(dtype), expected=expected))


def _open(stream: IO[bytes], path: Path) -> tuple[int, ...]:
    shape, dtype = read_stream_header(stream)
    require_numbers(path, dtype)
    limit_shape(path, shape)
    # An array is allocated before it is filled: a short file must not ask for gigabytes.
    needed = math.prod(shape) * dtype.itemsize
    found = path.stat().st_size - stream.tell()
    if found < needed:
        raise ValueError(f"cut off: {found} bytes of pixels, the header declares {needed}")
    return shape


def peek(path: Path) -> Header:
    """Declared shape of an NPY file."""
    with reading(path, "NPY"), path.open("rb") as stream:
        return Header(_open(stream, path), None)


def read(path: Path) -> Raster:
    """Content of an NPY file."""
    with reading(path, "NPY"), path.open("rb") as stream:
        _open(stream, path)
        stream.seek(0)
        return Raster(np.lib.format.read_array(stream, allow_pickle=False), "array")
