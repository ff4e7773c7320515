"""`NnunetSource`: the raw layout of nnU-Net version 2 (`dataset.json`, `imagesTr`, `labelsTr`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from keras_robustseg.data._files import EXTENSIONS
from keras_robustseg.data._filesource import FileSource, SampleFiles
from keras_robustseg.data._listing import list_files, named, pair_channels, pair_masks
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._problem import Problem
from keras_robustseg.data._source import Sample
from keras_robustseg.data._splits import SplitRule
from keras_robustseg.errors import DataError

__all__ = ["NnunetSource"]

_MAX_JSON_BYTES = 2**26


class NnunetSource(FileSource):
    """A data set in the raw layout of nnU-Net version 2.

    The label named `ignore` is void. `imagesTs` is the test split where `labelsTs` exists;
    otherwise a share of the training cases is.

    Args:
        root: The folder with `dataset.json`.
        val: Share of the groups of `imagesTr` for validation.
        test: Share of the groups of `imagesTr` for the test, unless `labelsTs` exists.
        split_seed: Another seed gives other shares.
        split_file: CSV or JSON that names the split of every case; see `read_split_file`.
        group: Regular expression that finds the patient in a case's name.
        spacing: Size of a pixel in mm along each axis, for formats that do not say it.
        dims: 2 or 3; `None` to learn it from the files.

    Raises:
        DataError: `dataset.json` is missing or wrong, has region labels, or a folder is missing.

    Example:
        ```python
        source = NnunetSource("nnUNet_raw/Dataset004_Hippocampus")
        source.classes, len(source.split("train"))
        ```
    """

    kind: ClassVar[str] = "nnunet"

    def __init__(
        self,
        root: str | Path,
        *,
        val: float = 0.1,
        test: float = 0.2,
        split_seed: int = 0,
        split_file: str | Path | None = None,
        group: str | None = None,
        spacing: Sequence[float] | None = None,
        dims: int | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.name or str(self.root)
        dataset = _read_dataset(self.root / "dataset.json")
        has_test = (self.root / "labelsTs").is_dir()
        file = None if split_file is None else Path(split_file).expanduser()
        rule = SplitRule(file, val, 0.0 if has_test else test, split_seed, group)
        files, problems = _list_cases(self.root, "Tr", dataset)
        problems += _wrong_number(self.root, dataset, len(files))
        splits, found = rule.assign(sorted(files))
        if has_test:
            tests, faults = _list_cases(self.root, "Ts", dataset)
            problems += [*faults, *_repeated(files, tests)]
            tests = {name: pair for name, pair in tests.items() if name not in files}
            files, splits = files | tests, splits | dict.fromkeys(tests, "test")
        self.samples = tuple(_sample(n, files[n], splits[n], rule) for n in sorted(splits))
        self.listing_problems = (*problems, *found, *rule.unmatched(list(splits)))
        super().__init__(
            [files[sample.id] for sample in self.samples],
            MaskCode(dataset.classes, values=dataset.values, void=dataset.void),
            dims=dims,
            channels=dataset.channels,
            spacing=spacing,
        )


@dataclass(frozen=True)
class _Dataset:
    """What `dataset.json` says."""

    classes: tuple[str, ...]
    values: dict[int | str, int]
    void: int | None
    channels: int
    ending: str
    cases: int | None


def _read_dataset(path: Path) -> _Dataset:
    content = _read_json(path)
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, Mapping) or not channels:
        _wrong(path, "channel_names", channels, 'a mapping such as {"0": "T1"}')
    ending = content.get("file_ending")
    if ending not in EXTENSIONS:
        _wrong(path, "file_ending", ending, f"one of {' '.join(EXTENSIONS)}")
    classes, values, void = _labels(path, content.get("labels"))
    cases = content.get("numTraining")
    return _Dataset(
        classes, values, void, len(channels), ending, cases if isinstance(cases, int) else None
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise DataError(f"{path}: is larger than {_MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: got {type(content).__name__}, expected a mapping")
    if "dataset" in content:
        raise DataError(f"{path}: field 'dataset' (a list of files) is not supported; use imagesTr")
    return content


def _wrong(path: Path, field: str, value: object, expected: str) -> NoReturn:
    raise DataError(f"{path}: {field}: got {value!r}, expected {expected}")


def _labels(path: Path, labels: Any) -> tuple[tuple[str, ...], dict[int | str, int], int | None]:
    """Class names by value, value -> class index, and the value of `ignore`."""
    expected = 'a mapping of names to numbers such as {"background": 0, "tumour": 1}'
    if not isinstance(labels, Mapping) or not labels:
        _wrong(path, "labels", labels, expected)
    for name, value in labels.items():
        if isinstance(value, list):
            message = "a region label (a list) makes classes overlap, which is not supported"
            raise DataError(f"{path}: labels.{name}: got {value}: {message}; give one number each")
        if isinstance(value, bool) or not isinstance(value, int):
            _wrong(path, f"labels.{name}", value, f"{expected} (version 2 of the layout)")
    table = {name: value for name, value in labels.items() if name != "ignore"}
    if len(set(labels.values())) < len(labels) or 0 not in table.values():
        _wrong(path, "labels", dict(labels), "different numbers, with background 0")
    names = sorted(table, key=lambda name: table[name])
    return tuple(names), {table[n]: i for i, n in enumerate(names)}, labels.get("ignore")


def _list_cases(
    root: Path, part: str, dataset: _Dataset
) -> tuple[dict[str, SampleFiles], list[Problem]]:
    folder = root / f"images{part}"
    paths, problems = list_files(folder)
    paths, others = _by_ending(paths, dataset.ending)
    problems += others
    suffixes = [f"_{number:04d}" for number in range(dataset.channels)]
    found = [named(paths, folder, suffix=suffix) for suffix in suffixes]
    tables = [table for table, _ in found]
    if not any(tables):
        raise DataError(f"{folder}: there is no file named CASE_0000{dataset.ending}")
    # Colour pictures hold all their channels in the first file.
    if not any(tables[1:]):
        tables, suffixes = tables[:1], suffixes[:1]
    images, faults = pair_channels(tables, suffixes)
    problems += [*faults, *_unused(paths, images)]
    labels, others = list_files(root / f"labels{part}")
    labels, wrong_ending = _by_ending(labels, dataset.ending)
    table, twice = named(labels, root / f"labels{part}")
    masks, lone = pair_masks(sorted(images), [table])
    problems += [*others, *wrong_ending, *twice, *lone]
    return {name: SampleFiles(images[name], masks[name]) for name in images}, problems


def _by_ending(paths: Sequence[Path], ending: str) -> tuple[list[Path], list[Problem]]:
    """Files with the declared ending, and a problem for every other one."""
    kept, others = [], []
    for path in paths:
        if path.name.lower().endswith(ending):
            kept.append(path)
        else:
            message, found = "is left aside", path.suffix
            others.append(
                Problem(str(path), "unknown_file", message, found, expected=ending, warning=True)
            )
    return kept, others


def _unused(paths: Sequence[Path], images: Mapping[str, tuple[Path, ...]]) -> list[Problem]:
    used = {path for files in images.values() for path in files}
    expected = "CASE_0000, one number per channel"
    message = "has no channel number, or one that dataset.json does not list"
    return [
        Problem(str(path), "unknown_file", message, path.name, None, None, expected, True)
        for path in paths
        if path not in used
    ]


def _wrong_number(root: Path, dataset: _Dataset, found: int) -> list[Problem]:
    if dataset.cases in (None, found):
        return []
    message = "numTraining is not the number of cases in imagesTr"
    path = str(root / "dataset.json")
    return [Problem(path, "layout", message, str(dataset.cases), expected=str(found))]


def _repeated(train: Mapping[str, SampleFiles], test: Mapping[str, SampleFiles]) -> list[Problem]:
    message = "is a case of imagesTr and of imagesTs; the second one is left aside"
    return [
        Problem(str(test[name].images[0]), "duplicate_id", message, name, 2)
        for name in sorted(set(train) & set(test))
    ]


def _sample(name: str, files: SampleFiles, split: str, rule: SplitRule) -> Sample:
    mask = files.masks[0]
    return Sample(
        name, split, str(files.images[0]), str(mask) if mask else None, rule.group_of(name)
    )
