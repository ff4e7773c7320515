"""Guessing what a bare folder or file is, when there is no recipe that says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg.data._files import read
from keras_robustseg.data._folder import FolderSource
from keras_robustseg.data._nnunet import NnunetSource
from keras_robustseg.data._npz import NpzSource
from keras_robustseg.data._source import Source
from keras_robustseg.data._splits import FOLDER_SPLITS
from keras_robustseg.errors import DataError

__all__ = ["open_folder"]

_IMAGES = ("images", "image", "imgs", "img", "imagesTr")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "labelsTr")
_SNIFFED = 200
_VOID = 255


def open_folder(path: str | Path) -> tuple[Source, tuple[str, ...]]:
    """Opens a data set without a recipe.

    `dataset.json` means nnU-Net; folders named like images and masks mean `FolderSource`;
    `.npz` files mean `NpzSource`. Classes are the values found in more than one mask.

    Args:
        path: A folder, or an `.npz` file.

    Returns:
        The source, and notes on what was guessed.

    Raises:
        DataError: Nothing of this is there.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: not found, expected a folder, an .npz file or a recipe")
    if path.is_file() or any(path.glob("*.npz")):
        return _open_npz(path)
    if (path / "dataset.json").is_file():
        return NnunetSource(path), ("layout: nnU-Net (dataset.json)",)
    return _open_images_and_masks(path)


def is_data(path: str | Path) -> bool:
    """Whether a path is a folder or an archive of data; otherwise it can only be a recipe."""
    return Path(path).is_dir() or Path(path).suffix == ".npz"


def _open_images_and_masks(path: Path) -> tuple[Source, tuple[str, ...]]:
    bases = [path, *(p for p in sorted(path.iterdir()) if p.is_dir() and p.name in FOLDER_SPLITS)]
    images, masks = _first_folder(bases, _IMAGES), _first_folder(bases, _MASKS)
    if images is None or masks is None:
        lacking, names = ("images", _IMAGES) if images is None else ("masks", _MASKS)
        raise DataError(
            f"{path}: got no folder of {lacking}, expected one named {', '.join(names)}, "
            "a dataset.json (nnU-Net) or .npz files; for another layout write a recipe"
        )
    plain = FolderSource(path, classes=("background", "object"), images=images, masks=masks)
    paths = [mask for entry in plain.files for mask in entry.masks if mask is not None]
    guess = _guess([_file_values(p) for p in _spread(paths)])
    source = FolderSource(path, images=images, masks=masks, dims=plain.dims, **guess.fields())
    note = f"layout: {images} and {masks}; classes guessed from the masks: {guess.text()}"
    return source, (note,)


def _open_npz(path: Path) -> tuple[Source, tuple[str, ...]]:
    if path.is_file() and path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected a folder, an .npz file or a recipe (.yaml)")
    try:
        return NpzSource(path), ("layout: npz, with its own class names",)
    except DataError as error:
        if not str(error).startswith("classes"):
            raise
    plain = NpzSource(path, classes=("background", "object"))
    guess = _guess([plain.stored_values(index) for index in _spread(range(len(plain.samples)))])
    return NpzSource(path, **guess.fields()), (f"layout: npz; classes guessed: {guess.text()}",)


def _first_folder(bases: Sequence[Path], names: Sequence[str]) -> str | None:
    return next((n for base in bases for n in names if (base / n).is_dir()), None)


def _spread(items: Sequence[Any]) -> list[Any]:
    """At most 200 of the items, evenly spread."""
    step = max(1, -(-len(items) // _SNIFFED))
    return list(items[::step])


def _file_values(path: Path) -> np.ndarray:
    """Different values of a mask file; none where it is no sound mask."""
    try:
        raster = read(path)
    except DataError:
        return np.empty(0, np.int64)
    if raster.coding not in ("grey", "array") or raster.lossy or raster.pixels.dtype.kind == "f":
        return np.empty(0, np.int64)
    return np.unique(raster.pixels).astype(np.int64)


@dataclass(frozen=True)
class _Guess:
    classes: tuple[str, ...]
    values: dict[int | str, int]
    void: int | None

    def fields(self) -> dict[str, Any]:
        return {"classes": self.classes, "values": self.values, "void": self.void}

    def text(self) -> str:
        shown = ", ".join(str(value) for value in self.values)
        return shown + (f", void {self.void}" if self.void is not None else "")


def _guess(masks: Sequence[np.ndarray]) -> _Guess:
    """Classes from the values of some masks; what a single mask has is likely a mistake."""
    seen = Counter(int(value) for values in masks for value in values)
    sound = sum(len(values) > 0 for values in masks)
    kept = sorted(v for v, n in seen.items() if 0 <= v < 2**16 and (n > 1 or sound < 3))
    void = _VOID if _VOID in kept and len(kept) > 2 else None
    values = sorted({0, *kept} - {void})
    if len(values) == 1:
        values = [0, 1]
    names = ("background", *(f"value {value}" for value in values[1:]))
    return _Guess(names, {value: index for index, value in enumerate(values)}, void)
