"""`NpzSource`: one NPZ archive with all samples, or a folder with one archive per sample."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_robustseg.data._check_guard import examine_image, problem_of
from keras_robustseg.data._files import with_channels
from keras_robustseg.data._files_npz import npz_array, npz_headers
from keras_robustseg.data._files_write import write_new
from keras_robustseg.data._inspected import InspectedSource
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._problem import Problem
from keras_robustseg.data._raster import Raster
from keras_robustseg.data._source import SPLITS, VOID, Example, Sample
from keras_robustseg.data._splits import SplitRule
from keras_robustseg.errors import DataError

__all__ = ["NpzSource"]

_FEW = 4  # a last axis up to this long, where it may be either, is channels or readers


class NpzSource(InspectedSource):
    """Samples in NPZ archives.

    One archive: `image` `(N, *S)` or `(N, *S, channels)`, `mask` `(N, *S)` or `(N, *S, R)`, and
    optionally `split` (text or 0, 1, 2), `id`, `group`, `spacing` `(axes,)` or `(N, axes)`,
    `truth` `(N, *S)`, `classes` (text). A folder: one archive per sample with the same keys
    without N. In masks, -1 is always void.

    Args:
        path: An archive, or a folder of archives.
        classes: Class names; index 0 is the background. `None` takes the key `classes`.
        void: A further file value of void pixels.
        values: File value -> class index, where they differ.
        val: Share of the groups for validation, where there is no key `split`.
        test: Share of the groups for the test.
        split_seed: Another seed gives other shares.
        split_file: CSV or JSON that names the split of every id; see `read_split_file`.
        group: Regular expression that finds the patient in an id, where there is no key `group`.
        spacing: Size of a pixel in mm along each axis, where there is no key `spacing`.
        dims: 2 or 3; `None` to learn it from the shapes.

    Raises:
        DataError: An archive is damaged, lacks a key, or its arrays do not fit together.

    Example:
        ```python
        np.savez("cells.npz", image=np.zeros((4, 8, 8)), mask=np.zeros((4, 8, 8), int))
        source = NpzSource("cells.npz", classes=["background", "cell"])
        ```
    """

    kind: ClassVar[str] = "npz"

    def __init__(
        self,
        path: str | Path,
        *,
        classes: Sequence[str] | None = None,
        void: int | None = None,
        values: Mapping[int | str, int] | None = None,
        val: float = 0.1,
        test: float = 0.2,
        split_seed: int = 0,
        split_file: str | Path | None = None,
        group: str | None = None,
        spacing: Sequence[float] | None = None,
        dims: int | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.name = self.path.stem
        self._store = _Folder(self.path) if self.path.is_dir() else _Archive(self.path)
        names = tuple(classes) if classes is not None else self._store.classes()
        pairs: Mapping[Any, int] = (
            values if values is not None else {i: i for i in range(len(names))}
        )
        self.code = MaskCode(names, void=void, values={**pairs, VOID: VOID})
        self.classes = self.code.classes
        image, mask, truth = self._store.shapes()
        self.dims = dims or _guess_dims(image, mask, truth)
        self.channels = image[-1] if len(image) == self.dims + 1 else 1
        self.readers = mask[-1] if len(mask) == self.dims + 1 else 1
        self.spacing = tuple(float(size) for size in spacing or (1.0,) * self.dims)
        file = None if split_file is None else Path(split_file).expanduser()
        self._list(SplitRule(file, val, test, split_seed, group))

    def _list(self, rule: SplitRule) -> None:
        """Fills `samples`, and keeps where each of them is in the store."""
        ids, groups, given = self._store.ids(), self._store.groups(), self._store.splits()
        problems = _duplicates(ids, self.path)
        splits: Mapping[str, str] = dict(zip(ids, given, strict=True)) if given else {}
        if rule.file is not None or not given:
            splits, found = _assign(ids, groups, rule)
            problems += found
        self._places: list[int] = []
        samples = []
        first = {sample_id: place for place, sample_id in reversed(list(enumerate(ids)))}
        for sample_id, place in sorted(first.items(), key=lambda item: item[1]):
            if sample_id in splits:
                where = self._store.where(place)
                group = groups[place] if groups else rule.group_of(sample_id)
                samples.append(Sample(sample_id, splits[sample_id], where, where, group))
                self._places.append(place)
        self.samples = tuple(samples)
        self.listing_problems = tuple(problems)

    def inspect(self, index: int) -> tuple[Example | None, list[Problem]]:
        """Loads one sample and lists all that is wrong with it; see `Source.inspect`."""
        where = self.samples[index].image
        problems: list[Problem] = []
        try:
            fields = self._store.load(self._places[index])
            image = with_channels(Raster(fields["image"], "array"), self.dims, Path(where))
            problems += examine_image(image, where, self)
            mask = self._mask(fields["mask"], image.shape[:-1], where, problems)
            truth = self._truth(fields.get("truth"), image.shape[:-1], where, problems)
        except DataError as error:
            return None, [*problems, problem_of(error, where)]
        spacing = tuple(float(s) for s in fields.get("spacing", self.spacing))
        if mask is None:
            return None, problems
        return Example(image, mask, truth, spacing), problems

    def _mask(
        self, stored: np.ndarray, size: tuple[int, ...], where: str, problems: list[Problem]
    ) -> np.ndarray | None:
        stack = stored[..., np.newaxis] if stored.ndim == self.dims else stored
        if stack.shape[:-1] != size:
            message = "has a mask of another size than its image"
            shape, expected = str(stored.shape), f"{size}, the image's"
            problems.append(Problem(where, "wrong_size", message, shape, expected=expected))
            return None
        mask = np.full((*size, max(self.readers, stack.shape[-1])), VOID, np.int16)
        for reader in range(stack.shape[-1]):
            mask[..., reader], found = self._decode(stack[..., reader], where)
            problems += found
        return mask

    def _truth(
        self,
        stored: np.ndarray | None,
        size: tuple[int, ...],
        where: str,
        problems: list[Problem],
    ) -> np.ndarray | None:
        if stored is None:
            return None
        if stored.shape != size:
            message = "has a truth of another size than its image"
            shape, expected = str(stored.shape), f"{size}, the image's"
            problems.append(Problem(where, "wrong_size", message, shape, expected=expected))
            return None
        truth, found_problems = self._decode(stored, where)
        problems += found_problems
        return truth

    def _decode(self, stored: np.ndarray, where: str) -> tuple[np.ndarray, list[Problem]]:
        return self.code.decode(Raster(stored, "grey"), self.dims, Path(where))

    def stored_values(self, index: int) -> np.ndarray:
        """Different values of a stored mask, before they are read as classes; for guessing."""
        try:
            stored = self._store.load(self._places[index])["mask"]
        except DataError:
            return np.empty(0, np.int64)
        return np.unique(stored).astype(np.int64) if stored.dtype.kind in "biu" else np.empty(0)

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Writes `{path_stem}.npz` with the keys `mask` (file values) and `spacing`."""
        fields = self._store.load(self._places[index])
        values = self.code.encode(mask)
        stored = fields["mask"].dtype
        fits = stored.kind in "iu" and np.array_equal(values.astype(stored), values)
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            mask=values.astype(stored) if fits else values,
            spacing=np.asarray(fields.get("spacing", self.spacing)),
        )
        return write_new(Path(f"{path_stem}.npz"), stream.getvalue())


def _guess_dims(
    image: tuple[int, ...], mask: tuple[int, ...], truth: tuple[int, ...] | None
) -> int:
    """Number of spatial axes, from the shapes of one sample's arrays."""
    if truth is not None:
        return len(truth)
    if len(image) != len(mask):
        return min(len(image), len(mask))
    if len(image) != 3:
        return 2 if len(image) < 3 else 3
    return 2 if image != mask or image[-1] <= _FEW else 3


def _duplicates(ids: Sequence[str], path: Path) -> list[Problem]:
    seen: dict[str, str] = {}
    problems = []
    for sample_id in ids:
        first = seen.setdefault(sample_id.casefold(), sample_id)
        if first is not sample_id:
            message = f"an id is used twice, or differs from {first!r} only in case"
            expected = "different ids"
            problems.append(
                Problem(str(path), "duplicate_id", message, sample_id, 2, expected=expected)
            )
    return problems


def _assign(
    ids: Sequence[str], groups: Sequence[str] | None, rule: SplitRule
) -> tuple[dict[str, str], list[Problem]]:
    if groups is None or rule.file is not None:
        splits, problems = rule.assign(ids)
        return splits, problems + (rule.unmatched(ids) if groups is None else [])
    by_group, problems = rule.assign(groups)
    return {i: by_group[g] for i, g in zip(ids, groups, strict=True)}, problems


def _split_name(value: object, path: Path) -> str:
    """Text, or 0, 1, 2 for train, val, test."""
    name = str(value)
    if name in ("0", "1", "2"):
        return SPLITS[int(name)]
    if name not in SPLITS:
        raise DataError(f"{path}: split: got {name!r}, expected {', '.join(SPLITS)} or 0, 1, 2")
    return name


_OPTIONAL = ("truth", "spacing")


class _Archive:
    """One archive with all samples along the first axis; pixels are read on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers = npz_headers(path)
        lengths = {key: self._length(key) for key in ("image", "mask")}
        for key in ("truth", "id", "group", "split"):
            if key in self.headers:
                lengths[key] = self._length(key)
        if len(set(lengths.values())) > 1 or not lengths["image"]:
            text = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise DataError(f"{path}: got {text} samples, expected equal numbers above 0")
        self.count = lengths["image"]
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def _length(self, key: str) -> int:
        if key not in self.headers:
            keys = ", ".join(self.headers) or "nothing"
            raise DataError(f"{self.path}: got the keys {keys}, expected {key!r} among them")
        shape = self.headers[key][0]
        return shape[0] if shape else 0

    def _texts(self, key: str) -> list[str] | None:
        if key not in self.headers:
            return None
        return [str(value) for value in npz_array(self.path, key).tolist()]

    def classes(self) -> tuple[str, ...]:
        return tuple(self._texts("classes") or ())

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]:
        image, mask = self.headers["image"][0][1:], self.headers["mask"][0][1:]
        return image, mask, self.headers["truth"][0][1:] if "truth" in self.headers else None

    def ids(self) -> list[str]:
        width = len(str(self.count - 1))
        return self._texts("id") or [f"{i:0{width}d}" for i in range(self.count)]

    def groups(self) -> list[str] | None:
        return self._texts("group")

    def splits(self) -> list[str] | None:
        found = self._texts("split")
        return found and [_split_name(value, self.path) for value in found]

    def where(self, place: int) -> str:
        return f"{self.path}: sample {place}"

    def _array(self, key: str) -> np.ndarray:
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = npz_array(self.path, key)
            return self._arrays[key]

    def load(self, place: int) -> dict[str, np.ndarray]:
        fields = {key: self._array(key)[place] for key in ("image", "mask")}
        if "truth" in self.headers:
            fields["truth"] = self._array("truth")[place]
        if "spacing" in self.headers:
            spacing = self._array("spacing")
            fields["spacing"] = spacing[place] if spacing.ndim == 2 else spacing
        return fields


class _Folder:
    """A folder with one archive per sample; a broken archive is a sample that cannot be loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".npz")
        if not self.files:
            raise DataError(f"{path}: there is no .npz file in this folder")
        self.headers = [_headers_or_none(file) for file in self.files]

    def classes(self) -> tuple[str, ...]:
        found = [value for value in self._scalars("classes") if value is not None]
        return tuple(str(name) for name in np.ravel(found[0])) if found else ()

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]:
        sound = [header for header in self.headers if {"image", "mask"} <= set(header or ())]
        if not sound:
            raise DataError(f"{self.path}: no .npz file has the keys 'image' and 'mask'")
        header = sound[0] or {}
        truth = header["truth"][0] if "truth" in header else None
        return header["image"][0], header["mask"][0], truth

    def ids(self) -> list[str]:
        return [file.stem for file in self.files]

    def _scalars(self, key: str) -> list[np.ndarray | None]:
        return [
            npz_array(file, key) if key in (header or ()) else None
            for file, header in zip(self.files, self.headers, strict=True)
        ]

    def groups(self) -> list[str] | None:
        found = self._scalars("group")
        if all(value is None for value in found):
            return None
        return [
            str(value) if value is not None else sample_id
            for value, sample_id in zip(found, self.ids(), strict=True)
        ]

    def splits(self) -> list[str] | None:
        found = self._scalars("split")
        if all(value is None for value in found):
            return None
        return [
            "train" if value is None else _split_name(value, file)
            for value, file in zip(found, self.files, strict=True)
        ]

    def where(self, place: int) -> str:
        return str(self.files[place])

    def load(self, place: int) -> dict[str, np.ndarray]:
        file = self.files[place]
        optional = [key for key in _OPTIONAL if key in (self.headers[place] or ())]
        return {key: npz_array(file, key) for key in ("image", "mask", *optional)}


def _headers_or_none(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]] | None:
    try:
        return npz_headers(file)
    except DataError:
        return None  # `check` and `load` report it
