"""A file as it is stored, before anybody says what its numbers mean; and the limits on its size."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_robustseg.data._problem import BadFile, Problem

__all__ = ["MAX_BYTES", "MAX_VALUES", "Header", "Raster", "limit_shape", "reading", "require_file"]

# A header can promise any size: both limits are checked before a byte of pixels is decoded.
MAX_VALUES = 2**29
MAX_BYTES = 2**32


@dataclass(frozen=True)
class Header:
    """What a file declares before it is decoded.

    Args:
        shape: Axes of the array that `read` will return.
        has_channels: Whether the last axis is channels; `None` where the format cannot tell.
    """

    shape: tuple[int, ...]
    has_channels: bool | None


@dataclass(frozen=True, eq=False)
class Raster:
    """The decoded content of a file.

    Args:
        pixels: `(*S)` or `(*S, channels)` as stored.
        coding: `"grey"` (spatial axes only), `"palette"` (the same, entries of `palette`),
            `"colour"` (channels last) or `"array"` (the format does not say).
        palette: uint8 `(entries, 3)` of a palette picture.
        spacing: Size of a pixel in mm along each axis of `*S`, `None` where the file has none.
        affine: Place of the volume in the scanner, `None` where the file has none.
        lossy: True for JPEG and its like: the stored values are approximations.
    """

    pixels: np.ndarray
    coding: str = "grey"
    palette: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    lossy: bool = False


_decoding = contextvars.ContextVar("decoding", default=False)


def _outside_decoding(record: logging.LogRecord) -> bool:
    return not _decoding.get()


# These libraries also log what they trip over, without the file's name; our error has it.
for _name in ("tifffile", "nibabel.global"):
    logging.getLogger(_name).addFilter(_outside_decoding)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns every failure of a decoder into a `DataError` that names the file."""
    token = _decoding.set(True)
    try:
        yield
    except BadFile:
        raise
    # Decoders raise whatever they stumble on (struct.error, zlib.error, KeyError, SyntaxError,
    # MemoryError ...): a damaged file must never end in their traceback.
    except Exception as error:
        reason = " ".join(str(error).split()).removesuffix(f" {str(path)!r}")[:200]
        raise BadFile(
            Problem(
                file=str(path),
                kind="unreadable",
                message=f"cannot be read as {what}: {reason or type(error).__name__}",
                expected=f"a complete {what} file",
            )
        ) from error
    finally:
        _decoding.reset(token)


def require_file(path: Path) -> None:
    """Refuses files that are missing, empty, too large, or not files.

    Raises:
        DataError: With the reason, naming the file.
    """
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        link = path.is_symlink()
        message = f"is a link to {os.readlink(path)}, which leads nowhere" if link else "not found"
        raise BadFile(
            Problem(str(path), "missing_file", message, expected="a readable file")
        ) from error
    if not path.is_file():
        raise BadFile(Problem(str(path), "unreadable", "is not a file"))
    if size == 0:
        raise BadFile(Problem(str(path), "unreadable", "is empty (0 bytes)"))
    if size > MAX_BYTES:
        _refuse_size(path, f"{size} bytes", f"at most {MAX_BYTES} bytes")


def limit_shape(path: Path, shape: Sequence[int]) -> None:
    """Refuses a declared shape with more than `MAX_VALUES` values, or with none."""
    if math.prod(shape) > MAX_VALUES:
        declared = "x".join(str(n) for n in shape)
        _refuse_size(path, f"{declared} values", f"at most {MAX_VALUES} values")
    if math.prod(shape) <= 0 or min(shape, default=1) < 0:
        raise BadFile(Problem(str(path), "unreadable", "has no pixels", f"shape {tuple(shape)}"))


def _refuse_size(path: Path, value: str, expected: str) -> None:
    message = "is larger than this package reads at once; cut it into pieces"
    raise BadFile(Problem(str(path), "too_large", message, value, expected=expected))
