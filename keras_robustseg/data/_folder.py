"""`FolderSource`: a folder of images and a folder of masks (or one per reader), paired by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from keras_robustseg.data._files import EXTENSIONS
from keras_robustseg.data._filesource import FileSource, SampleFiles
from keras_robustseg.data._listing import (
    case_clashes,
    list_files,
    named,
    pair_channels,
    pair_masks,
)
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._problem import Problem
from keras_robustseg.data._source import Sample
from keras_robustseg.data._splits import FOLDER_SPLITS, SplitRule
from keras_robustseg.errors import DataError

__all__ = ["FolderSource"]


class FolderSource(FileSource):
    """Images and masks in folders, paired by name: PNG, TIFF, NPY, NIfTI, JPEG (images only).

    Three layouts are understood: `images/x.png` with `masks/x.png`, split by `split_file` or by
    seeded shares; `images/train/x.png` with `masks/train/x.png`; `train/images/x.png` with
    `train/masks/x.png`. Broken files do not stop the listing: `data.check` reports them all.

    Args:
        root: The folder that holds the others.
        classes: Class names; index 0 is the background.
        images: Folder of the images below `root`.
        masks: Folder of the masks, or one folder per reader. In a single folder, names that end
            in `_r0`, `_r1` ... are several readers' masks of one image.
        void: File value of pixels that nobody may be asked about.
        values: File value -> class index, where they differ (`{0: 0, 255: 1}`).
        colours: `"#rrggbb"` -> class index, for masks that store colours.
        palette: Whether the entry numbers of palette PNGs are class values.
        mask_suffix: What a mask's name has after the image's name, such as `"_mask"`.
        image_suffixes: Name endings of the channels of one image that are stored in several
            files, such as `["_t1", "_t2"]`.
        split_file: CSV with columns `id,split`, or JSON; see `read_split_file`.
        val: Share of the groups for validation, where neither folders nor a file decide.
        test: Share of the groups for the test.
        split_seed: Another seed gives other shares.
        group: Regular expression that finds the patient in a sample's name.
        spacing: Size of a pixel in mm along each axis, for formats that do not say it.
        dims: 2 or 3; `None` to learn it from the files.

    Raises:
        DataError: A folder is missing or without images, or a field is wrong.

    Example:
        ```python
        source = FolderSource("cells", classes=["background", "cell"], values={0: 0, 255: 1})
        example = source.load(0)
        ```
    """

    kind: ClassVar[str] = "folder"

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str],
        images: str = "images",
        masks: str | Sequence[str] = "masks",
        void: int | None = None,
        values: Mapping[int | str, int] | None = None,
        colours: Mapping[str, int] | None = None,
        palette: bool = False,
        mask_suffix: str = "",
        image_suffixes: Sequence[str] = (),
        split_file: str | Path | None = None,
        val: float = 0.1,
        test: float = 0.2,
        split_seed: int = 0,
        group: str | None = None,
        spacing: Sequence[float] | None = None,
        dims: int | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.name or str(self.root)
        code = MaskCode(classes, void=void, values=values, colours=colours, palette=palette)
        rule = SplitRule(_file(split_file), val=val, test=test, seed=split_seed, group=group)
        folders = (masks,) if isinstance(masks, str) else tuple(masks)
        layout = _Layout(images, folders, mask_suffix, tuple(image_suffixes))
        files, problems = _list_samples(self.root, layout)
        splits, found = _splits(list(files), rule, self.root, images)
        self.samples = tuple(_sample(n, files[n], splits[n], rule) for n in sorted(splits))
        self.listing_problems = (*problems, *found, *rule.unmatched(list(splits)))
        super().__init__(
            [files[sample.id] for sample in self.samples], code, dims=dims, spacing=spacing
        )


@dataclass(frozen=True)
class _Layout:
    images: str
    masks: tuple[str, ...]
    mask_suffix: str
    image_suffixes: tuple[str, ...]


def _file(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _sample(name: str, files: SampleFiles, split: str, rule: SplitRule) -> Sample:
    mask = next((str(path) for path in files.masks if path is not None), None)
    return Sample(name, split, str(files.images[0]), mask, rule.group_of(name))


def _split_folders(folder: Path) -> list[str]:
    """Names of the subfolders that stand for a split."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name in FOLDER_SPLITS)


def _list_samples(root: Path, layout: _Layout) -> tuple[dict[str, SampleFiles], list[Problem]]:
    """All samples below `root`; the split folders, where they come first, begin the names."""
    outer = [] if (root / layout.images).is_dir() else _split_folders(root)
    files: dict[str, SampleFiles] = {}
    problems: list[Problem] = []
    for prefix in outer or [""]:
        found, faults = _list_pairs(root / prefix, layout)
        files |= {f"{prefix}/{name}" if prefix else name: pair for name, pair in found.items()}
        problems += faults
    if not files:
        folder = root / layout.images
        expected = " ".join(EXTENSIONS)
        raise DataError(f"{folder}: there is no image in this folder, expected files {expected}")
    return files, problems


def _list_pairs(base: Path, layout: _Layout) -> tuple[dict[str, SampleFiles], list[Problem]]:
    folder = base / layout.images
    paths, problems = list_files(folder)
    if layout.mask_suffix and layout.images in layout.masks:
        masks_here = set(named(paths, folder, suffix=layout.mask_suffix)[0].values())
        paths = [path for path in paths if path not in masks_here]
    suffixes = layout.image_suffixes or ("",)
    tables = []
    for suffix in suffixes:
        table, faults = named(paths, folder, suffix=suffix)
        tables.append(table)
        problems += [*faults, *case_clashes(table)]
    images, faults = pair_channels(tables, suffixes)
    masks, mask_faults = _list_masks(base, layout, sorted(images))
    files = {name: SampleFiles(images[name], masks[name]) for name in images}
    return files, [*problems, *faults, *mask_faults]


def _list_masks(
    base: Path, layout: _Layout, names: Sequence[str]
) -> tuple[dict[str, tuple[Path | None, ...]], list[Problem]]:
    tables, problems = [], []
    for name in layout.masks:
        paths, others = list_files(base / name)
        table, faults = named(paths, base / name, suffix=layout.mask_suffix)
        tables.append(table)
        problems += [*(others if name != layout.images else []), *faults]
    pairs, faults = pair_masks(names, tables)
    return pairs, [*problems, *faults]


def _splits(
    names: Sequence[str], rule: SplitRule, root: Path, images: str
) -> tuple[dict[str, str], list[Problem]]:
    inner = _split_folders(root / images)
    by_folder = bool(inner) or not (root / images).is_dir()
    if rule.file is not None or not by_folder:
        return rule.assign(names)
    first = {name: name.split("/")[0] for name in names}
    splits = {name: FOLDER_SPLITS[first[name]] for name in names if first[name] in FOLDER_SPLITS}
    message = "lies beside the folders of the splits and is not used"
    return splits, [Problem(n, "not_in_split", message) for n in names if n not in splits]
