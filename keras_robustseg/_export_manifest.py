"""The manifest of an exported model, and how one export takes the place of another."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_robustseg import __version__
from keras_robustseg.errors import ExportError
from keras_robustseg.training import _files
from keras_robustseg.training._atomic import write_json_atomic
from keras_robustseg.training._leftovers import discard

MANIFEST = "manifest.json"
_FORMAT = "keras_robustseg export"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json`: `facts`, and the size and SHA-256 of every other file."""
    files = {
        name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for name, path in _files_of(directory).items()
    }
    head = {"format": _FORMAT, "format_version": 1, "keras_robustseg": __version__}
    write_json_atomic(directory / MANIFEST, {**head, **facts, "files": files})


def verify_export(directory: str | Path) -> dict[str, Any]:
    """Check every file of an exported model against its manifest. Needs no TensorFlow.

    Args:
        directory: what `export_network` wrote.

    Returns:
        the manifest.

    Raises:
        ExportError: there is no manifest, or files are missing, changed or not listed; all are
            named.

    Example:
        `verify_export("saved_models/quickstart")["classes"]`
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    listed, found = manifest["files"], _files_of(directory)
    problems = [f"{name}: missing" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name}: not in the manifest" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        if found[name].is_symlink():
            problems.append(f"{name}: a link, expected a file")
        elif (got := _sha256(found[name])) != listed[name]["sha256"]:
            problems.append(f"{name}: SHA-256 is {got}, expected {listed[name]['sha256']}")
    if problems:
        raise ExportError(
            f"{directory}: not what was exported:\n  "
            + "\n  ".join(problems)
            + "\nDo not use it; export it again with `robustseg export RUN`."
        )
    return manifest


def require_replaceable(directory: Path) -> None:
    """Raise ExportError unless `directory` is free, empty, or an export that may be replaced."""
    if directory.is_dir() and not any(directory.iterdir()):
        return
    if os.path.lexists(directory):
        try:
            _read_manifest(directory)
        except ExportError as error:
            raise ExportError(
                f"{directory}: exists and is not an exported model ({error}). Nothing was "
                "written. Choose another name, or move it away."
            ) from error


def put_in_place(prepared: Path, directory: Path) -> None:
    """Give `prepared` the name `directory`; what had that name is deleted afterwards.

    The two directories change names in one step where the system can (Linux); elsewhere a reader
    may find no directory for a moment, and a crash then leaves the old one as `NAME.previous`.
    """
    for path in [*_files_of(prepared).values()]:
        descriptor = os.open(path, os.O_RDONLY)
        _files.sync(descriptor)
        _files.close(descriptor)
    if not directory.is_dir():
        _files.rename(prepared, directory)
    elif _exchange(prepared, directory):
        discard(prepared)
    else:
        previous = directory.with_name(f"{directory.name}.previous")
        discard(previous)
        _files.rename(directory, previous)
        _files.rename(prepared, directory)
        discard(previous)
    _files.sync_directory(directory.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system has no such call."""
    try:
        swap = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read as a manifest: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ExportError(f"{path}: not the manifest of an export: expected format {_FORMAT!r}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(
        isinstance(entry, dict) and "sha256" in entry for entry in listed.values()
    ):
        raise ExportError(f"{path}: field `files`: expected a SHA-256 for each file")
    return manifest


def _files_of(directory: Path) -> dict[str, Path]:
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    named = {path.relative_to(directory).as_posix(): path for path in paths}
    named.pop(MANIFEST, None)
    return dict(sorted(named.items()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
