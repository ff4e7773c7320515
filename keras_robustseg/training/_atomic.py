"""Files that are replaced whole: a reader, or a crash, meets the old content or the new one.

The content goes to a temporary file in the same directory, is synced, and takes the final name by
a rename, which POSIX file systems do in one step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StateError
from . import _files
from ._leftovers import discard, remove_leftovers, temporary


def write_text_atomic(path: str | Path, text: str) -> None:
    """Replace a text file (UTF-8) in one step. See `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Replace a JSON file in one step; see `plain` for what becomes of arrays and NaN.

    Example:
        >>> write_json_atomic("/tmp/metrics.json", {"dice": np.float32(0.5), "hd95": math.nan})
        >>> Path("/tmp/metrics.json").read_text().split()
        ['{', '"dice":', '0.5,', '"hd95":', 'null', '}']
    """
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_text_atomic(path, text + "\n")


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Replace a file in one step.

    Args:
        path: the file; its directory must exist.
        data: the whole new content.

    Raises:
        StateError: the disk is full, read-only or broken; the old content is untouched.
    """
    path = Path(path)
    prepared = temporary(path)
    remove_leftovers(path.parent, path.name)
    try:
        write_synced(prepared, [memoryview(data)])
        _files.rename(prepared, path)
        _files.sync_directory(path.parent)
    except OSError as error:
        raise storage_error(path, error, needed=len(data)) from error
    finally:
        discard(prepared)


def write_synced(path: Path, chunks: Iterable[memoryview]) -> None:
    """Write a new file chunk by chunk and return when it is on the disk."""
    descriptor = _files.create(path)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        _files.sync(descriptor)
    finally:
        _files.close(descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write every byte of `data`: the system may take fewer than it is given."""
    while len(data):
        data = data[_files.write(descriptor, data) :]


def storage_error(path: Path, error: OSError, *, needed: int) -> StateError:
    """The `StateError` for a write that the system refused.

    Args:
        path: what was being written.
        error: what the system said.
        needed: bytes that the whole write needs.
    """
    try:
        free = f"{_files.free_bytes(path.parent):,}"
    except OSError:
        free = "unknown"
    return StateError(
        f"{path}: cannot be written: {error.strerror or error}. It needs {needed:,} bytes, free on "
        f"that disk: {free}. What was there before is unchanged. Free some space, or check the "
        "quota and the permissions of the directory, and go on with `robustseg resume`."
    )


def plain(value: Any, *, keep_nan: bool = False) -> Any:
    """The same value in the types that JSON knows.

    NumPy numbers become Python's, arrays become lists, paths become strings, and NaN and infinity,
    which JSON has no word for, become None.

    Args:
        value: nested mappings and sequences of numbers, strings, booleans, None, arrays, paths.
        keep_nan: leave NaN and infinity as they are, for files that only Python reads.

    Raises:
        TypeError: there is a value of another type.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, keep_nan=keep_nan) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), keep_nan=keep_nan)
    if isinstance(value, list | tuple):
        return [plain(item, keep_nan=keep_nan) for item in value]
    if isinstance(value, float):
        return value if keep_nan or math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")
