"""Arrays in files: written and read in pieces, hashed on the way, bit for bit, without pickle.

Bytes are stored raw, in C order, little-endian. Small arrays share one file, because a network has
hundreds of variables and every file costs a sync; a large array has a file of its own, so that a
later format can rewrite only the parts of it that changed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StateError
from . import _files
from ._atomic import write_all

LARGE = 1 << 20  # bytes from which an array has its own file
_CHUNK = 1 << 23  # bytes written, read and hashed at a time
_SHARED = "small.bin"


@dataclass(frozen=True)
class Record:
    """Where one array lies, what it is, and the SHA-256 of its bytes."""

    name: str
    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """The record that `to_json` described."""
        return cls(**{**value, "shape": tuple(value["shape"])})


class ArrayWriter:
    """Writes arrays below a directory; every file is on the disk when the context is left."""

    def __init__(self, directory: Path):
        self.records: list[Record] = []
        self._directory = directory
        self._shared = -1
        self._shared_bytes = 0

    def __enter__(self) -> ArrayWriter:
        self._shared = _files.create(self._directory / _SHARED)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                _files.sync(self._shared)
        finally:
            _files.close(self._shared)

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one array and remember where it went."""
        digest, size = hashlib.sha256(), array.nbytes
        if size < LARGE:
            file, offset = _SHARED, self._shared_bytes
            self._shared_bytes += size
            _write_pieces(self._shared, array, digest)
        else:
            file, offset = f"array-{len(self.records):05d}.bin", 0
            self._write_own_file(file, array, digest)
        self.records.append(
            Record(name, file, offset, array.dtype.name, array.shape, size, digest.hexdigest())
        )

    def _write_own_file(self, file: str, array: np.ndarray, digest: Any) -> None:
        descriptor = _files.create(self._directory / file)
        try:
            _write_pieces(descriptor, array, digest)
            _files.sync(descriptor)
        finally:
            _files.close(descriptor)


def read_array(directory: Path, record: Record) -> np.ndarray:
    """Read one array, in the byte order of this machine.

    Raises:
        ValueError: its bytes are not those that were written.
        OSError: the file cannot be read.
    """
    dtype = named_dtype(record.dtype)
    if record.bytes != math.prod(record.shape) * dtype.itemsize:
        raise ValueError(f"array {record.name!r}: size and shape disagree")
    path = directory / record.file
    if path.stat().st_size < record.offset + record.bytes:
        raise ValueError(f"{record.file} is shorter than it was")
    array = np.empty(record.shape, _little_endian(dtype))
    if _read_pieces(path, record.offset, array) != record.sha256:
        raise ValueError(f"array {record.name!r} in {record.file} has changed (SHA-256 differs)")
    return array if dtype == array.dtype else array.astype(dtype)


def checked(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays one by one; a mapping that makes them on demand need never hold them all.

    Raises:
        StateError: an array holds Python objects or text, which are never stored.
    """
    for name in arrays:
        array = np.asarray(arrays[name])
        try:
            named_dtype(array.dtype.name)
        except ValueError as error:
            raise StateError(
                f"state array {name!r}: type {array.dtype} cannot be stored; expected numbers or "
                "booleans. Put text and settings into `meta`."
            ) from error
        yield name, array


def named_dtype(name: str) -> np.dtype:
    """The NumPy type of that name; bfloat16 and its kin come from ml_dtypes.

    Raises:
        ValueError: there is no such type of numbers or booleans.
    """
    try:
        dtype = np.dtype(name)
    except TypeError:
        import ml_dtypes  # comes with TensorFlow; without it no array can have such a type

        scalar = getattr(ml_dtypes, name, None)
        if not isinstance(scalar, type):
            raise ValueError(f"unknown array type {name!r}") from None
        return np.dtype(scalar)
    if dtype.kind not in "biufcV" or dtype.name != name or dtype.names or dtype.type is np.void:
        raise ValueError(f"array type {name!r} holds no numbers")
    return dtype


def _little_endian(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "V" else dtype.newbyteorder("<")


def _write_pieces(descriptor: int, array: np.ndarray, digest: Any) -> None:
    """Write the bytes in C order through a small buffer, whatever the array's layout in memory."""
    pieces = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        order="C",
        op_dtypes=[_little_endian(array.dtype)],
        casting="equiv",
        buffersize=max(1, _CHUNK // max(1, array.itemsize)),
    )
    for piece in pieces:
        data = memoryview(np.ascontiguousarray(piece).view(np.uint8))
        digest.update(data)
        write_all(descriptor, data)


def _read_pieces(path: Path, offset: int, array: np.ndarray) -> str:
    """Fill an array from a file and return the SHA-256 of the bytes that were read."""
    digest = hashlib.sha256()
    data = memoryview(array.reshape(-1).view(np.uint8))
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while len(data):
            taken = file.readinto(data[:_CHUNK])
            if not taken:
                raise ValueError(f"{path.name} is shorter than it was")
            digest.update(data[:taken])
            data = data[taken:]
    return digest.hexdigest()
