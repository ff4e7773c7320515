"""NPZ archives: headers before arrays, one array at a time, nothing unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from keras_robustseg.data._files_npy import read_stream_header
from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import limit_shape, reading, require_file

__all__ = ["npz_array", "npz_headers"]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    require_file(path)
    with reading(path, "NPZ"), zipfile.ZipFile(path) as archive:
        yield archive


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Declared shape and type of every array in an archive, by its key.

    Raises:
        DataError: The archive is damaged, or declares arrays that are too large.
    """
    headers = {}
    with _archive(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                headers[name.removesuffix(".npy")] = _header(archive, name, path)
    return headers


def _header(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(name) as stream:
        shape, dtype = read_stream_header(stream)
        start = stream.tell()
    if dtype.hasobject:
        message = f"key {name.removesuffix('.npy')!r} holds objects, which are never unpickled"
        raise BadFile(Problem(str(path), "unreadable", message, expected="numbers or text"))
    if 0 not in shape:
        limit_shape(path, shape)
    declared, found = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - start
    if declared != found:
        raise ValueError(f"{name} declares {declared} bytes of values and has {found}")
    return shape, dtype


def npz_array(path: Path, key: str) -> np.ndarray:
    """Reads one array of an archive.

    Raises:
        DataError: The key is missing, the archive is damaged, or the array is too large.
    """
    with _archive(path) as archive:
        name = f"{key}.npy"
        if name not in archive.namelist():
            keys = ", ".join(n.removesuffix(".npy") for n in archive.namelist()) or "nothing"
            raise BadFile(
                Problem(str(path), "unreadable", f"has no key {key!r}", keys, expected=repr(key))
            )
        _header(archive, name, path)
        with archive.open(name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
