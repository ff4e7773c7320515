"""Readers and writers of image and mask files: every format there and back, and damaged bytes."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import blob, write_nifti
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_robustseg.data._files import peek, read, stem, with_channels
from keras_robustseg.data._files_write import write_like, write_new, write_plain_mask
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.errors import DataError


def _save(path: Path, pixels: np.ndarray) -> Path:
    """Writes with the outside libraries, not with ours."""
    import tifffile

    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix in (".tif", ".tiff"):
        colour = pixels.shape[-1] == 3
        tifffile.imwrite(path, pixels, photometric="rgb" if colour else "minisblack")
    elif path.suffix in (".nii", ".gz"):
        write_nifti(path, pixels if pixels.ndim == 3 else pixels[np.newaxis])
    else:
        Image.fromarray(pixels).save(path)
    return path


CASES = [
    ("a.png", (7, 5), np.uint8),
    ("a.png", (7, 5), np.uint16),
    ("a.tif", (7, 5), np.uint8),
    ("a.tiff", (7, 5), np.int16),
    ("a.tif", (4, 7, 5), np.uint8),
    ("a.npy", (7, 5), np.int64),
    ("a.npy", (4, 7, 5), np.uint8),
    ("a.nii", (7, 5), np.uint8),
    ("a.nii.gz", (4, 7, 5), np.int16),
]


@pytest.mark.parametrize(("name", "shape", "dtype"), CASES)
def test_a_mask_survives_reading_correcting_and_writing(tmp_path, rng, name, shape, dtype):
    """Void (3 in the file) and classes come back, in the format and number type of the input."""
    stored = blob(rng, 4, shape).astype(dtype)
    given_path = _save(tmp_path / name, stored)
    code = MaskCode(["a", "b", "c"], void=3)
    mask, problems = code.decode(read(given_path), len(shape), given_path)
    assert problems == []
    np.testing.assert_array_equal(mask, np.where(stored == 3, -1, stored.astype(int)))

    corrected = rng.permutation(mask.ravel()).reshape(shape)
    written = write_like(given_path, corrected, tmp_path / "out" / "mask", code)
    again, problems = code.decode(read(written), len(shape), written)
    assert problems == []
    np.testing.assert_array_equal(again, corrected)
    assert read(written).pixels.dtype == read(given_path).pixels.dtype
    assert written.name == "mask" + name[1:]


def test_nifti_keeps_affine_spacing_and_axis_order(tmp_path, rng):
    """The axes are (D, H, W) with the spacing in the same order; nibabel is the witness."""
    import nibabel

    volume = blob(rng, 3, (4, 6, 5))
    path = tmp_path / "v.nii.gz"
    write_nifti(path, volume, spacing=(3.0, 0.7, 0.5))
    raster = read(path)
    np.testing.assert_array_equal(raster.pixels, volume)
    np.testing.assert_allclose(raster.spacing, (3.0, 0.7, 0.5), rtol=1e-6)
    assert peek(path).shape == (4, 6, 5)

    written = write_like(path, volume.astype(int), tmp_path / "w", MaskCode(["a", "b", "c"]))
    image = nibabel.load(written)
    np.testing.assert_array_equal(image.affine, nibabel.load(path).affine)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.transpose())


def test_palette_and_colour_masks_keep_their_colours(tmp_path):
    """A palette PNG comes back as a palette PNG, an RGB one as RGB, with the same colours."""
    code = MaskCode(["sky", "cat"], colours={"#000000": 0, "#ff0000": 1, "#ffffff": -1})
    indices = np.array([[0, 1, 2], [1, 0, 0]], np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 255, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "p.png")
    picture.convert("RGB").save(tmp_path / "c.png")
    for name, mode in (("p.png", "P"), ("c.png", "RGB")):
        path = tmp_path / name
        mask, problems = code.decode(read(path), 2, path)
        assert problems == []
        np.testing.assert_array_equal(mask, [[0, 1, -1], [1, 0, 0]])
        written = write_like(path, mask.T, tmp_path / f"out_{stem(path)}", code)
        with Image.open(written) as again:
            assert again.mode == mode
            expected = np.asarray(Image.open(path).convert("RGB")).transpose(1, 0, 2)
            np.testing.assert_array_equal(np.asarray(again.convert("RGB")), expected)


def _grey_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A PNG with `bits` per grey level, written by hand (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape
    levels = (values[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(levels.reshape(height, -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_with_few_bits_keeps_its_classes(tmp_path, rng, bits):
    """Pillow stretches 2- and 4-bit grey levels to 0..255; the reader undoes it."""
    values = blob(rng, 2**bits, (6, 16))
    raster = read(_grey_png(tmp_path / "few.png", values, bits))
    np.testing.assert_array_equal(raster.pixels.astype(int), values)


def test_channels_come_last(tmp_path, rng):
    """RGB, grey and channel arrays become float32 (H, W, channels)."""
    colour = rng.integers(0, 255, (6, 4, 3), dtype=np.uint8)
    many = rng.normal(size=(6, 4, 5))
    for name, pixels in (("c.png", colour), ("c.tif", colour), ("m.npy", many)):
        path = _save(tmp_path / name, pixels)
        image = with_channels(read(path), 2, path)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, pixels.astype(np.float32))
    with pytest.raises(DataError, match=r"m\.npy: wrong number of axes, got 3 axes"):
        with_channels(read(tmp_path / "m.npy"), 1, tmp_path / "m.npy")


def test_tiff_without_tifffile(tmp_path, rng, monkeypatch):
    """The core has Pillow only: 2-D, colour and several pages read the same."""
    arrays = [rng.integers(0, 9, shape, dtype=np.uint8) for shape in ((6, 4), (6, 4, 3), (5, 6, 4))]
    paths = [_save(tmp_path / f"{i}.tif", pixels) for i, pixels in enumerate(arrays)]
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for path, pixels in zip(paths, arrays, strict=True):
        np.testing.assert_array_equal(read(path).pixels, pixels)
        assert peek(path).shape == pixels.shape


def test_nifti_without_nibabel_names_the_extra(tmp_path, rng, monkeypatch):
    """A missing package is a clear error, not an ImportError."""
    write_nifti(tmp_path / "v.nii.gz", blob(rng, 2, (3, 4, 5)))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataError, match=r"keras-robustseg\[medical\]"):
        read(tmp_path / "v.nii.gz")


def test_objects_are_never_unpickled(tmp_path):
    """An NPY of objects is refused before its bytes are looked at."""
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="object"):
        read(tmp_path / "o.npy")


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def test_declared_sizes_are_refused_before_decoding(tmp_path):
    """A header that promises gigabytes costs nothing: huge arrays, volumes and pictures."""
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "b.npy").write_bytes(_npy_header("(65536, 65536)") + b"\0" * 64)
    (tmp_path / "c.npy").write_bytes(_npy_header("(8192, 8192)") + b"\0" * 64)
    header = nibabel.Nifti1Header()
    header["dim"][:4] = (3, 32767, 32767, 32767)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "b.nii").write_bytes(header.binaryblock + b"\0" * 100)
    data = _grey_png(tmp_path / "s.png", np.zeros((1, 8), int), 1).read_bytes()
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    head = data[:8] + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    (tmp_path / "b.png").write_bytes(head + data[33:])
    for name in ("b.npy", "c.npy", "b.nii", "b.png"):
        with pytest.raises(DataError, match=f"{name}.*(larger than|cut off|exceeds limit)"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("damage", ["empty", "half", "web page", "missing", "link", "folder"])
def test_damaged_files_are_named(tmp_path, rng, name, damage):
    """Every way a file can be no file ends in a DataError that names it."""
    path = tmp_path / name
    sound = _save(tmp_path / f"sound{name}", rng.integers(0, 255, (20, 20), dtype=np.uint8))
    content = sound.read_bytes()
    if damage == "link":
        path.symlink_to(tmp_path / "nowhere")
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        kinds = {"empty": b"", "half": content[: len(content) // 2]}
        path.write_bytes(kinds.get(damage, b"<!DOCTYPE html><html></html>"))
    with pytest.raises(DataError, match=str(path)):
        read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["s.png", "s.jpg", "s.tif", "s.npy", "s.nii", "s.nii.gz"])
def test_any_bytes_give_pixels_or_a_data_error(tmp_path, name):
    """Mutated files never raise anything but DataError, whichever bytes change."""
    pixels = np.arange(120, dtype=np.uint8).reshape(10, 12)
    content = _save(tmp_path / name, pixels).read_bytes()
    path = tmp_path / f"mutated_{name}"
    edit = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    # Headers are where decoders trip: half of the edits go into the first 64 bytes.
    early = st.tuples(st.integers(0, min(63, len(content) - 1)), st.integers(0, 255))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edits=st.lists(st.one_of(edit, early), max_size=6), length=st.integers(1, len(content)))
    def attempt(edits: list[tuple[int, int]], length: int) -> None:
        changed = bytearray(content)
        for position, value in edits:
            changed[position] = value
        path.write_bytes(bytes(changed[: length if length % 3 == 0 else None]))
        try:
            kind = read(path).pixels.dtype.kind
        except DataError as error:
            message = str(error)
        else:
            message = f"{path} was read" if kind in "biuf" else f"pixels of type {kind}"
        assert str(path) in message

    attempt()


def test_nothing_is_overwritten(tmp_path):
    """A file that exists stays as it is, and the error says so."""
    path = write_new(tmp_path / "new" / "m.bin", b"first")
    with pytest.raises(DataError, match="exists already"):
        write_new(path, b"second")
    assert path.read_bytes() == b"first"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        write_new(tmp_path / "file" / "m.bin", b"x")


def test_plain_masks(tmp_path, rng):
    """2-D goes to PNG, 3-D to NIfTI; void is 255."""
    flat = blob(rng, 3).astype(np.int16) - 1
    path = write_plain_mask(flat, tmp_path / "flat")
    np.testing.assert_array_equal(read(path).pixels, np.where(flat < 0, 255, flat))
    volume = blob(rng, 3, (3, 4, 5)).astype(np.int16) - 1
    path = write_plain_mask(volume, tmp_path / "volume")
    assert path.name == "volume.nii.gz"
    np.testing.assert_array_equal(read(path).pixels, np.where(volume < 0, 255, volume))
    with pytest.raises(DataError, match="class 300 does not fit"):
        write_plain_mask(np.full((2, 2), 300), tmp_path / "many")
