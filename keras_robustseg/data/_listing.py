"""Finding image and mask files in folders, and pairing them by name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_robustseg.data._files import extension, stem
from keras_robustseg.data._problem import Problem, printable
from keras_robustseg.errors import DataError

__all__ = ["case_clashes", "list_files", "named", "pair_channels", "pair_masks"]

_HIDDEN = (".", "~")
_SYSTEM = {"thumbs.db", "desktop.ini"}
_READER = re.compile(r"_r\d+$")


def list_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    """All image files below a folder in the order of their names, and the files left aside.

    Raises:
        DataError: The folder is missing or cannot be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"{folder}: got {found} there, expected a folder")
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith(_HIDDEN))
        paths += [Path(parent, name) for name in names if _visible(name)]
    paths.sort(key=lambda path: path.relative_to(folder).as_posix())
    known = [path for path in paths if extension(path)]
    message = "is left aside"
    others = [
        Problem(str(path), "unknown_file", message, path.suffix or "no extension", warning=True)
        for path in paths
        if not extension(path)
    ]
    return known, others


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


def _visible(name: str) -> bool:
    return not name.startswith(_HIDDEN) and name.lower() not in _SYSTEM


def _name(path: Path, folder: Path) -> str:
    """Path below the folder without extension, as text that can be written anywhere."""
    relative = path.relative_to(folder).parent / stem(path)
    # Systems spell accents differently (NFC, NFD), and names may hold bytes that are no text.
    return unicodedata.normalize("NFC", printable(relative.as_posix()))


def named(
    paths: Sequence[Path], folder: Path, *, suffix: str = ""
) -> tuple[dict[str, Path], list[Problem]]:
    """Files by the name of their sample; of two files with one name the first one counts.

    Args:
        paths: Files below `folder`.
        folder: The folder that names are relative to.
        suffix: End of the stem that does not belong to the sample's name, such as `"_mask"`;
            files without it are left out.

    Returns:
        Name -> file, and a problem per second file of a name.
    """
    table: dict[str, Path] = {}
    problems = []
    for path in paths:
        name = _name(path, folder)
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        first = table.setdefault(name, path)
        if first is not path:
            message = f"has the same name as {first.name} and is left aside"
            problems.append(
                Problem(str(path), "duplicate_id", message, name, 2, expected="one file per name")
            )
    return table, problems


def case_clashes(table: Mapping[str, Path]) -> list[Problem]:
    """Names that differ only in case: one file on a system that ignores case, two here."""
    seen: dict[str, str] = {}
    problems = []
    for name, path in table.items():
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            message = f"differs from {table[first].name} only in upper and lower case"
            expected = "names that differ on every system"
            problems.append(Problem(str(path), "duplicate_id", message, name, 2, expected=expected))
    return problems


def pair_channels(
    tables: Sequence[Mapping[str, Path]], suffixes: Sequence[str]
) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """Joins the files of several channels by sample; reports samples that lack one.

    Args:
        tables: Name -> file, one table per channel.
        suffixes: Suffix of each channel, for messages.

    Returns:
        Name -> files of all channels (only those that exist, in order), and the problems.
    """
    names = sorted(set().union(*tables))
    files, problems = {}, []
    for name in names:
        present = tuple(table[name] for table in tables if name in table)
        files[name] = present
        lacking = [s for table, s in zip(tables, suffixes, strict=True) if name not in table]
        if lacking:
            expected = ", ".join(name + suffix for suffix in lacking)
            message = "lacks the file of a channel"
            problems.append(
                Problem(str(present[0]), "missing_partner", message, None, None, None, expected)
            )
    return files, problems


def pair_masks(
    names: Sequence[str], tables: Sequence[Mapping[str, Path]]
) -> tuple[dict[str, tuple[Path | None, ...]], list[Problem]]:
    """Masks of each sample, one per reader; reports masks that belong to no image.

    A single table whose names end in `_r0`, `_r1` ... is read as several readers.

    Args:
        names: Names of the samples.
        tables: Name -> mask, one table per reader.

    Returns:
        Name -> mask of each reader (`None` where there is none), and the problems.
    """
    if len(tables) == 1:
        tables = _by_reader(names, tables[0])
    known = set(names)
    message = "has no image"
    problems = [
        Problem(str(path), "missing_partner", message, expected=f"an image named {name}")
        for table in tables
        for name, path in table.items()
        if name not in known
    ]
    return {name: tuple(table.get(name) for table in tables) for name in names}, problems


def _by_reader(names: Sequence[str], table: Mapping[str, Path]) -> Sequence[Mapping[str, Path]]:
    known = set(names)
    plain: dict[str, Path] = {}
    readers: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in table.items():
        base = _READER.sub("", name)
        if name in known or base not in known:
            plain[name] = path
        else:
            readers[name[len(base) :]][base] = path
    if not readers:
        return [table]
    ordered = [readers[key] for key in sorted(readers, key=lambda key: int(key[2:]))]
    return [plain, *ordered] if plain else ordered
