"""Writing masks: in the format and geometry of a given one, or plainly; never over a file."""

from __future__ import annotations

import gzip
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from keras_robustseg.data._files import extension, read
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.errors import DataError

__all__ = ["write_like", "write_new", "write_plain_mask"]

_PLAIN_VOID = 255


def write_new(path: Path, content: bytes) -> Path:
    """Writes a file that must not exist yet, wholly or not at all.

    Raises:
        DataError: The file exists, or cannot be written.
    """
    if path.exists():
        raise DataError(f"{path}: exists already and is never replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("xb")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    try:
        with stream:
            stream.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written: {error}") from error
    return path


def write_plain_mask(mask: np.ndarray, path_stem: str | Path) -> Path:
    """Writes class indices with void as 255: PNG in 2-D, else `.nii.gz`, or `.npy` without nibabel.

    Args:
        mask: Class indices `(*S)`, -1 is void.
        path_stem: Where to write, without an extension.

    Returns:
        The file that was written.

    Raises:
        DataError: The file exists, cannot be written, or a class does not fit into 8 bits.
    """
    values = np.where(mask < 0, _PLAIN_VOID, mask)
    if mask.max(initial=0) >= _PLAIN_VOID or values.max(initial=0) > _PLAIN_VOID:
        raise DataError(f"{path_stem}: class {int(mask.max())} does not fit into an 8-bit mask")
    pixels = values.astype(np.uint8)
    if pixels.ndim == 2:
        return write_new(_with(path_stem, ".png"), _picture_bytes(Image.fromarray(pixels), "PNG"))
    if importlib.util.find_spec("nibabel") is None:
        return write_new(_with(path_stem, ".npy"), _npy_bytes(pixels))
    import nibabel

    image = nibabel.Nifti1Image(pixels.transpose(), np.eye(4))
    return write_new(_with(path_stem, ".nii.gz"), _gzip(image.to_bytes()))


def write_like(given: Path, mask: np.ndarray, path_stem: str | Path, code: MaskCode) -> Path:
    """Writes a mask as `given` is written: format, number type, palette, affine, file values.

    Args:
        given: The mask file that the corrected mask replaces.
        mask: Class indices `(*S)`, -1 is void.
        path_stem: Where to write, without an extension; the extension is that of `given`.
        code: Class indices -> file values.

    Returns:
        The file that was written.

    Raises:
        DataError: `given` cannot be read, a class has no file value, or writing fails.
    """
    suffix = extension(given)
    encoder = _ENCODERS.get(suffix)
    if encoder is None:
        raise DataError(f"{given}: masks cannot be written as {suffix or given.suffix!r}")
    return write_new(_with(path_stem, suffix), encoder(given, mask, code))


def _with(path_stem: str | Path, suffix: str) -> Path:
    return Path(f"{path_stem}{suffix}")


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same mask gives the same bytes


def _picture_bytes(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def _npy_bytes(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(pixels), allow_pickle=False)
    return stream.getvalue()


def _fitting(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values` in the type of the given file, or in the smallest integer type that holds them."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if dtype.kind == "f" or (dtype.kind == "b" and high <= 1 and low >= 0):
        return values.astype(dtype)
    if dtype.kind in "iu" and np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
        return values.astype(dtype)
    return values.astype(np.uint8 if low >= 0 and high < 2**8 else np.int32)


def _encode_png(given: Path, mask: np.ndarray, code: MaskCode) -> bytes:
    raster = read(given)
    if raster.coding == "colour":
        return _picture_bytes(Image.fromarray(code.encode_colours(mask)), "PNG")
    if raster.coding == "palette" and raster.palette is not None:
        return _picture_bytes(_palette_picture(raster.palette, mask, code), "PNG")
    values = code.encode(mask)
    pixels = _fitting(values, raster.pixels.dtype)
    if pixels.itemsize > 2:
        pixels = values.astype(np.uint16)
    return _picture_bytes(Image.fromarray(pixels), "PNG")


def _palette_picture(palette: np.ndarray, mask: np.ndarray, code: MaskCode) -> Image.Image:
    if code.colours:
        wanted = code.encode_colours(mask)
        same = (wanted[..., np.newaxis, :] == palette).all(-1)
        if not same.any(-1).all():
            return Image.fromarray(wanted)
        entries = same.argmax(-1)
    else:
        entries = code.encode(mask)
    picture = Image.fromarray(entries.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return picture


def _encode_tiff(given: Path, mask: np.ndarray, code: MaskCode) -> bytes:
    raster = read(given)
    if raster.coding != "grey" and code.colours:
        pixels = code.encode_colours(mask)
    else:
        pixels = _fitting(code.encode(mask), raster.pixels.dtype)
    pages = pixels.reshape(raster.pixels.shape) if pixels.size == raster.pixels.size else pixels
    stream = io.BytesIO()
    if importlib.util.find_spec("tifffile") is not None:
        import tifffile

        photometric = "rgb" if raster.coding != "grey" and code.colours else "minisblack"
        tifffile.imwrite(stream, pages, photometric=photometric, compression="zlib")
        return stream.getvalue()
    volume = raster.coding == "grey" and pages.ndim == 3
    pictures = [Image.fromarray(page) for page in (pages if volume else pages[np.newaxis])]
    pictures[0].save(stream, "TIFF", save_all=True, append_images=pictures[1:])
    return stream.getvalue()


def _encode_npy(given: Path, mask: np.ndarray, code: MaskCode) -> bytes:
    raster = read(given)
    if raster.pixels.ndim == mask.ndim + 1 and raster.pixels.shape[-1] == 3:
        return _npy_bytes(code.encode_colours(mask))
    pixels = _fitting(code.encode(mask), raster.pixels.dtype)
    return _npy_bytes(pixels.reshape(raster.pixels.shape))


def _encode_nifti(given: Path, mask: np.ndarray, code: MaskCode) -> bytes:
    from keras_robustseg.data._files_nifti import open_nifti

    image = open_nifti(given)
    values = code.encode(mask)
    pixels = _fitting(values, np.asanyarray(image.dataobj).dtype)
    header = image.header.copy()
    header.set_data_dtype(pixels.dtype)
    header.set_slope_inter(1, 0)
    stored = pixels.transpose().reshape(image.shape)
    content = type(image)(stored, image.affine, header).to_bytes()
    return _gzip(content) if given.name.lower().endswith(".gz") else content


_ENCODERS: dict[str, Callable[[Path, np.ndarray, MaskCode], bytes]] = {
    ".png": _encode_png,
    ".tif": _encode_tiff,
    ".tiff": _encode_tiff,
    ".npy": _encode_npy,
    ".nii": _encode_nifti,
    ".nii.gz": _encode_nifti,
}
