"""Predictions in files: one archive for all samples, or a file for each of them.

    predictions.npz           probabilities (N, *S, C), mask (N, *S) or (N, *S, R); and, if you
                              have them, image (N, *S[, channels]), id (N,), classes (C,), spacing
    predictions/NAME.npz      the same without N, one archive per sample
    predictions/NAME.npy      probabilities alone; masks and images come from a data source (also
                              for .npz files without the key mask)

Classes are the last axis. Archives are read one sample at a time, compressed ones too.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_robustseg.data._files import read
from keras_robustseg.data._files_npz import npz_array, npz_headers
from keras_robustseg.data._files_write import write_new
from keras_robustseg.data._raster import reading
from keras_robustseg.data._source import Source
from keras_robustseg.errors import DataError

from ._audit_data import AuditData, AuditSample

LAYOUT = (
    "an .npz with the keys probabilities (N, *S, C) and mask (N, *S), a folder with such an .npz "
    "per sample (without N), or a folder of .npy files NAME.npy (*S, C) with --data"
)
_ORIGIN = (
    "Class probabilities from files. They tell most where the network that made them has not "
    "learned from the mask in question (out-of-fold)."
)
_STREAMED = ("probabilities", "mask", "image")


def open_predictions(
    path: str | Path, data: Source | None = None, classes: Sequence[str] = ()
) -> AuditData:
    """Open class probabilities in files, with the masks they are to be compared with.

    Args:
        path: see the head of this module for the layouts.
        data: where masks and images are, for files that hold probabilities alone; files are named
            after the ids of its samples, "/" as a folder or as "_".
        classes: class names, where the files do not hold them.

    Returns:
        Data for `audit`, read one sample at a time.

    Raises:
        DataError: nothing of this is there, or it does not fit together.

    Example:
        `audit(open_predictions("predictions.npz"), out="audit")`
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: not found, expected a run directory or predictions: {LAYOUT}")
    if data is not None:
        return _SourceData(path, data)
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(
                f"{path}: got a file {path.suffix or 'without extension'}, expected {LAYOUT}"
            )
        return _ArchiveData(path, classes)
    return _FolderData(path, classes)


class _NpzData(AuditData):
    """Shared by both npz layouts: names of classes, and corrected masks as npz."""

    origin = _ORIGIN

    def _name_classes(self, given: Sequence[str], stored: Sequence[str], count: int) -> None:
        count = max(count, 2)
        names = tuple(given) or tuple(stored)
        if names and len(names) != count:
            raise DataError(f"{self.name}: got {len(names)} class names for {count} classes")
        self.classes = names or ("background", *(f"class {k}" for k in range(1, count)))

    def save_mask(self, sample: AuditSample, mask: np.ndarray, path_stem: Path) -> Path:
        """Write `{path_stem}.npz` with the key mask; type and void values are those given."""
        given = np.asarray(sample.mask)
        given = given if given.ndim == mask.ndim else given[..., 0]
        stream = io.BytesIO()
        values = np.where(mask >= 0, mask, given).astype(given.dtype)
        parts = {"mask": values}
        if sample.spacing is not None:
            parts["spacing"] = np.asarray(sample.spacing)
        np.savez_compressed(stream, allow_pickle=False, **parts)
        return write_new(Path(f"{path_stem}.npz"), stream.getvalue())


class _FolderData(_NpzData):
    """A folder with one archive per sample."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.name = str(path)
        self.files = sorted(p for p in path.rglob("*.npz") if not p.name.startswith("."))
        self.folder = path
        if not self.files:
            loose = any(path.rglob("*.npy"))
            hint = "; .npy files hold no masks: say where those are by --data" if loose else ""
            raise DataError(f"{path}: got no .npz file in this folder, expected {LAYOUT}{hint}")
        headers = npz_headers(self.files[0])
        _require(headers, self.files[0])
        stored = npz_array(self.files[0], "classes").tolist() if "classes" in headers else ()
        self._name_classes(classes, stored, headers["probabilities"][0][-1])

    def __iter__(self) -> Iterator[AuditSample]:
        for file in self.files:
            headers = npz_headers(file)
            _require(headers, file)
            parts = {key: npz_array(file, key) for key in (*_STREAMED, "spacing") if key in headers}
            name = file.relative_to(self.folder).with_suffix("").as_posix()
            yield _sample(name, parts)


class _ArchiveData(_NpzData):
    """One archive: its arrays are streamed, so that it may be larger than memory."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.name, self.path = str(path), path
        with reading(path, "NPZ"), zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            self.keys = [key for key in _STREAMED if key in names]
            _require(names, path)
            shapes = {key: _peek(archive, key, path) for key in self.keys}
        lengths = {key: shape[0] for key, shape in shapes.items()}
        if len(set(lengths.values())) > 1 or not lengths["mask"]:
            text = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise DataError(f"{path}: got {text} samples, expected equal numbers above 0")
        self.count = lengths["mask"]
        small = {key: npz_array(path, key) for key in ("id", "classes", "spacing") if key in names}
        width = len(str(self.count - 1))
        self.ids = [str(v) for v in small.get("id", [f"{i:0{width}d}" for i in range(self.count)])]
        if len(self.ids) != self.count or len(set(self.ids)) != self.count:
            raise DataError(f"{path}: key 'id': expected {self.count} different names")
        self.spacing = small.get("spacing")
        stored = [str(value) for value in small.get("classes", ())]
        self._name_classes(classes, stored, shapes["probabilities"][-1])

    def __iter__(self) -> Iterator[AuditSample]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            streams = {
                key: _Member(stack.enter_context(archive.open(f"{key}.npy")), key, self.path)
                for key in self.keys
            }
            for number, name in enumerate(self.ids):
                parts = {key: stream.next() for key, stream in streams.items()}
                if self.spacing is not None:
                    parts["spacing"] = (
                        self.spacing[number] if self.spacing.ndim > 1 else self.spacing
                    )
                yield _sample(name, parts)


class _Member:
    """One array of an archive, read sample by sample along its first axis."""

    def __init__(self, stream: IO[bytes], key: str, path: Path) -> None:
        self._stream, self._key, self._path = stream, key, path
        self.shape, self._dtype = _header(stream, key, path)

    def next(self) -> np.ndarray:
        size = self.shape[1:]
        needed = math.prod(size) * self._dtype.itemsize
        with reading(self._path, "NPZ"):
            content = self._stream.read(needed)
            if len(content) < needed:
                raise ValueError(f"key {self._key!r} is cut off")
        return np.frombuffer(content, self._dtype).reshape(size)


def _peek(archive: zipfile.ZipFile, key: str, path: Path) -> tuple[int, ...]:
    with archive.open(f"{key}.npy") as stream:
        shape, _ = _header(stream, key, path)
    if not shape:
        raise DataError(f"{path}: key {key!r} is a single number, expected one array per sample")
    return shape


def _header(stream: IO[bytes], key: str, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    old = version == (1, 0)
    reader = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if fortran or dtype.kind not in "biuf":
        order = "Fortran order" if fortran else f"type {dtype}"
        raise DataError(f"{path}: key {key!r} has {order}, expected numbers in C order")
    return shape, dtype


def _require(keys: Any, path: Path) -> None:
    missing = [key for key in ("probabilities", "mask") if key not in keys]
    if missing:
        found = ", ".join(sorted(keys)) or "nothing"
        more = "; or say by --data where the masks are" if missing == ["mask"] else ""
        raise DataError(f"{path}: got the keys {found}, expected {missing[0]!r} among them{more}")


def _sample(name: str, parts: dict[str, np.ndarray]) -> AuditSample:
    spacing = parts.get("spacing")
    return AuditSample(
        name,
        parts["mask"],
        parts["probabilities"],
        image=parts.get("image"),
        spacing=None if spacing is None else tuple(float(s) for s in spacing),
    )


class _SourceData(AuditData):
    """Masks and images of a data source, probabilities in a file per sample."""

    origin = _ORIGIN

    def __init__(self, path: Path, source: Source) -> None:
        if not path.is_dir():
            raise DataError(f"{path}: got a file, expected a folder of NAME.npy or NAME.npz")
        self.source, self.name = source, str(path)
        self.classes, self.rendered, self.notice = source.classes, source.rendered, source.notice
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".npy", ".npz"))
        names = {p.relative_to(path).with_suffix("").as_posix(): p for p in files}
        self.files: dict[int, Path] = {}
        for index, sample in enumerate(source.samples):
            for name in (sample.id, sample.id.replace("/", "_")):
                if name in names:
                    self.files[index] = names.pop(name)
                    break
        if names or not self.files:
            stray = next(iter(names), "no file at all")
            first = source.samples[0].id if source.samples else "none"
            raise DataError(
                f"{path}: got {stray!r}, which names no sample of {source.name}, expected files "
                f"named after its samples, such as {first}.npy"
            )
        self._index = {source.samples[index].id: index for index in self.files}
        left_out = len(source.samples) - len(self.files)
        self.origin = _ORIGIN + (f" {left_out} samples have none." if left_out else "")

    def __iter__(self) -> Iterator[AuditSample]:
        for index, file in self.files.items():
            example = self.source.load(index)
            yield AuditSample(
                self.source.samples[index].id,
                example.mask,
                _probabilities(file),
                image=example.image,
                spacing=example.spacing,
            )

    def save_mask(self, sample: AuditSample, mask: np.ndarray, path_stem: Path) -> Path:
        """Write a mask in the format, values and geometry of the source's file."""
        return self.source.save_mask(self._index[sample.id], mask, path_stem)


def _probabilities(file: Path) -> np.ndarray:
    if file.suffix.lower() == ".npy":
        return read(file).pixels
    return npz_array(file, "probabilities")
