"""PNG and JPEG files, through Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._raster import Header, Raster, limit_shape, reading

__all__ = ["peek", "picture_raster", "picture_shape", "read"]

# Pillow stretches 2- and 4-bit grey levels to 0..255, which would change the classes of a mask.
_STRETCH = {"L;2": 85, "L;4": 17}
_LOSSY = {"jpeg", "tiff_jpeg", "webp", "jpeg2000"}


def peek(path: Path) -> Header:
    """Declared shape of a picture."""
    with reading(path, "PNG or JPEG"), Image.open(path, formats=["PNG", "JPEG"]) as picture:
        shape = picture_shape(picture)
        limit_shape(path, shape)
        return Header(shape, len(shape) == 3)


def read(path: Path) -> Raster:
    """Content of a picture; a palette picture as entries of its palette."""
    with reading(path, "PNG or JPEG"), Image.open(path, formats=["PNG", "JPEG"]) as picture:
        limit_shape(path, picture_shape(picture))
        return picture_raster(picture, path)


def picture_shape(picture: Image.Image) -> tuple[int, ...]:
    """`(H, W)`, or `(H, W, channels)` for colours."""
    bands = len(picture.getbands())
    size = (picture.height, picture.width)
    return size if bands == 1 else (*size, bands)


def _raw_mode(picture: Image.Image) -> str:
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else str((arguments or [""])[0])


def picture_raster(picture: Image.Image, path: Path) -> Raster:
    """Decodes one Pillow picture without changing its values."""
    raw_mode = _raw_mode(picture)
    if raw_mode.startswith(("RGB;16", "RGBA;16", "LA;16")):
        message = "has 16-bit colours, which would be cut to 8 bits; store it as TIFF or NPY"
        raise BadFile(Problem(str(path), "unreadable", message, raw_mode, expected="8-bit colours"))
    lossy = picture.format == "JPEG" or picture.info.get("compression") in _LOSSY
    picture.load()
    pixels = np.array(picture)
    if raw_mode in _STRETCH and pixels.dtype == np.uint8:
        pixels //= _STRETCH[raw_mode]
    if picture.mode == "P":
        palette = np.frombuffer(bytes(picture.getpalette() or []), np.uint8).reshape(-1, 3)
        return Raster(pixels, "palette", palette, lossy=lossy)
    return Raster(pixels, "grey" if pixels.ndim == 2 else "colour", lossy=lossy)
