"""Which sample is in which split: by folder names, by a file, or by seeded shares of groups."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_robustseg.data._problem import Problem
from keras_robustseg.data._source import SPLITS
from keras_robustseg.errors import DataError

__all__ = ["FOLDER_SPLITS", "SplitRule", "read_split_file", "seeded_splits"]

# Folder names in use for each split.
FOLDER_SPLITS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_MAX_FILE_BYTES = 2**26


@dataclass(frozen=True)
class SplitRule:
    """How samples are shared out, as the fields of a recipe say it.

    Args:
        file: CSV with the columns `id,split`, or JSON `{"train": [ids], ...}` or `{id: split}`.
        val: Share of the groups that goes to `val`, where no file decides.
        test: Share of the groups that goes to `test`.
        seed: Another seed gives other shares.
        group: Regular expression that finds the patient or volume in an id: its first group, or
            the whole match. Samples of one patient are then never in two splits.

    Raises:
        DataError: A share, or the expression, cannot be.
    """

    file: Path | None = None
    val: float = 0.1
    test: float = 0.2
    seed: int = 0
    group: str | None = None

    def __post_init__(self) -> None:
        for field, share in (("val", self.val), ("test", self.test)):
            if not 0 <= share < 1:
                raise DataError(f"{field}: got {share}, expected a share of at least 0 and below 1")
        if self.val + self.test >= 1:
            raise DataError(f"val + test: got {self.val + self.test}, expected less than 1")
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise DataError(f"group: {self.group!r} is no regular expression: {error}") from None

    def group_of(self, sample_id: str) -> str | None:
        """The patient or volume of a sample; `None` where the expression does not match."""
        match = re.search(self.group, sample_id) if self.group else None
        if match is None:
            return None
        return match.group(1) if match.re.groups else match.group(0)

    def assign(self, ids: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
        """Split of every id; ids that a file leaves out are missing, and reported."""
        if self.file is None:
            groups = [self.group_of(sample_id) or sample_id for sample_id in ids]
            splits = seeded_splits(groups, val=self.val, test=self.test, seed=self.seed)
            return dict(zip(ids, splits, strict=True)), []
        table = read_split_file(self.file)
        known = set(ids)
        left_out = [i for i in ids if i not in table]
        unknown = [i for i in table if i not in known]
        problems = [
            Problem(i, "not_in_split", f"is not in {self.file} and not used", warning=True)
            for i in left_out
        ]
        problems += [
            Problem(i, "not_in_split", f"is in {self.file}, but there is no such sample")
            for i in unknown
        ]
        return {i: table[i] for i in ids if i in table}, problems

    def unmatched(self, ids: Sequence[str]) -> list[Problem]:
        """A problem for every id that `group` does not match."""
        if self.group is None:
            return []
        message = "has no group, so that its patient may be in two splits"
        return [
            Problem(i, "no_group", message, expected=f"a name that matches {self.group!r}")
            for i in ids
            if self.group_of(i) is None
        ]


def seeded_splits(groups: Sequence[str], *, val: float, test: float, seed: int) -> list[str]:
    """Shares out samples so that all of a group are in one split.

    The groups are put in the order of SHA-256(seed, group), which is the same on every machine
    and does not depend on the order of the files; the first `test` of them are the test split,
    the next `val` the validation split. A share above 0 gets at least one group if there are 3.

    Args:
        groups: Group of each sample.
        val: Share of groups in `val`.
        test: Share of groups in `test`.
        seed: Another seed gives another order.

    Returns:
        Split of each sample.

    Example:
        ```python
        seeded_splits(["a", "a", "b", "c"], val=0.0, test=0.3, seed=0)
        ```
    """
    order = sorted(set(groups), key=lambda g: hashlib.sha256(f"{seed}|{g}".encode()).digest())
    counts = [round(share * len(order)) for share in (test, val)]
    if len(order) >= 3:
        counts = [max(n, share > 0) for n, share in zip(counts, (test, val), strict=True)]
    split_of = dict.fromkeys(order, "train")
    split_of.update(dict.fromkeys(order[: counts[0]], "test"))
    split_of.update(dict.fromkeys(order[counts[0] : sum(counts)], "val"))
    return [split_of[group] for group in groups]


def read_split_file(path: Path) -> dict[str, str]:
    """Reads id -> split from a CSV or JSON file.

    Args:
        path: CSV with a header line that has `id` and `split`; or JSON, `{"train": [id, ...]}`
            or `{id: split}`.

    Returns:
        Split of each id.

    Raises:
        DataError: The file cannot be read, or a line is wrong; names the line.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: is larger than {_MAX_FILE_BYTES} bytes, too large for a list")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the split file cannot be read: {error}") from error
    pairs = _json_pairs(text, path) if path.suffix.lower() == ".json" else _csv_pairs(text, path)
    table: dict[str, str] = {}
    for where, sample_id, split in pairs:
        if split not in SPLITS:
            raise DataError(f"{where}: got split {split!r}, expected one of {', '.join(SPLITS)}")
        if table.setdefault(sample_id, split) != split:
            raise DataError(f"{where}: {sample_id!r} is in {table[sample_id]!r} and in {split!r}")
    return table


def _csv_pairs(text: str, path: Path) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(text.splitlines())
    if not {"id", "split"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path}, line 1: got {rows.fieldnames}, expected a header with id,split")
    try:
        return [
            (f"{path}, line {rows.line_num}", str(row["id"]).strip(), str(row["split"]).strip())
            for row in rows
        ]
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}") from error


def _json_pairs(text: str, path: Path) -> list[tuple[str, str, str]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    expected = '{"train": ["id", ...], ...} or {"id": "train", ...}'
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: got {type(content).__name__}, expected {expected}")
    if all(isinstance(ids, list) for ids in content.values()):
        listed = [(str(i), str(split)) for split, ids in content.items() for i in ids]
    elif all(isinstance(split, str) for split in content.values()):
        listed = list(content.items())
    else:
        raise DataError(f"{path}: got a mixture of lists and texts, expected {expected}")
    return [(str(path), sample_id, split) for sample_id, split in listed]
