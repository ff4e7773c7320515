"""One saved state as a directory: how it is written, and how it is read and verified.

small.bin, array-00017.bin ...   raw array bytes (`_state_arrays`)
meta.json                        what the caller wants to remember: epoch, seeds, history rows
manifest.json                    what lies where, sizes, SHA-256, and the SHA-256 of itself
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _files
from ._atomic import plain, write_synced
from ._state_arrays import ArrayWriter, Record, checked, read_array

FORMAT = 1
_STATE = re.compile(r"step-(?P<step>\d{8,})(-(?P<again>\d+))?")


@dataclass(frozen=True)
class State:
    """What a run needs to go on as if it had never stopped.

    Attributes:
        arrays: every variable by name, with the types and shapes they were saved with.
        meta: the settings and counters that were saved beside them.
        step: optimizer steps done.
        path: the directory it was read from.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    step: int
    path: Path


def directory_name(step: int, again: int = 0) -> str:
    """The directory name of a state; `again` counts how often this step was saved before."""
    return f"step-{step:08d}" + (f"-{again}" if again else "")


def saved_states(parent: Path) -> list[tuple[int, int, Path]]:
    """`(step, again, directory)` of every complete state below `parent`, oldest first."""
    found = []
    for path in parent.glob("step-*"):
        match = _STATE.fullmatch(path.name)
        if match:
            found.append((int(match["step"]), int(match["again"] or 0), path))
    return sorted(found)


def write_state(
    directory: Path, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], *, step: int
) -> None:
    """Write a state into a new directory; all of it is on the disk on return.

    Raises:
        OSError: the system refused; the directory holds an unfinished state.
        TypeError: `meta` holds something that JSON cannot.
    """
    _files.make_directory(directory)
    with ArrayWriter(directory) as writer:
        for name, array in checked(arrays):
            writer.add(name, array)
    text = _dump(plain(meta, keep_nan=True))
    write_synced(directory / "meta.json", [memoryview(text)])
    body = {
        "format": FORMAT,
        "step": step,
        "meta": hashlib.sha256(text).hexdigest(),
        "arrays": [record.to_json() for record in writer.records],
    }
    sealed = _dump({"sha256": hashlib.sha256(_dump(body)).hexdigest(), "manifest": body})
    write_synced(directory / "manifest.json", [memoryview(sealed)])
    _files.sync_directory(directory)


def read_state(directory: Path, *, step: int) -> State:
    """Read a state and verify every byte of it.

    Args:
        directory: the state's directory.
        step: the step that its name promises.

    Raises:
        ValueError: something in it is not as it was written.
        OSError: a file is missing or cannot be read.
    """
    manifest = _read_manifest(directory / "manifest.json")
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']!r}; this version reads format {FORMAT}")
    if manifest["step"] != step:
        raise ValueError(f"the manifest is that of step {manifest['step']}")
    text = (directory / "meta.json").read_bytes()
    if hashlib.sha256(text).hexdigest() != manifest["meta"]:
        raise ValueError("meta.json has changed (SHA-256 differs)")
    records = [Record.from_json(value) for value in manifest["arrays"]]
    arrays = {record.name: read_array(directory, record) for record in records}
    return State(arrays, json.loads(text), step, directory)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        sealed = json.loads(path.read_bytes())
        body, promised = sealed["manifest"], sealed["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("manifest.json is damaged") from error
    if hashlib.sha256(_dump(body)).hexdigest() != promised:
        raise ValueError("manifest.json has changed (SHA-256 differs)")
    return body
