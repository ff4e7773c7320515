"""The folder of a benchmark: one JSON file for each finished cell, named by its recipe's hash."""

from __future__ import annotations

import functools
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_robustseg import __version__
from keras_robustseg.benchmark._tasks import Task
from keras_robustseg.training._atomic import write_json_atomic

FORMAT = 1


class CellStore:
    """Figures of finished cells.

    A file counts only if it is whole, of this format, and of the recipe whose hash it is named
    by; anything else is measured again.

    Args:
        folder: the benchmark's folder; cells are in `cells/` of it.

    Example:
        `CellStore(Path("runs/noise_grid")).read("0123456789abcdef0123")`
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / "cells"

    def path(self, key: str) -> Path:
        """Return the file of a cell."""
        return self.folder / f"{key}.json"

    def write(self, key: str, recipe: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """Write the figures of a cell in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "key": key, "version": __version__, "code": code_digest()}
        write_json_atomic(self.path(key), {**head, "recipe": recipe, "figures": figures})

    def read(self, key: str) -> dict[str, Any] | None:
        """Return the figures of a cell, None where it has not been finished."""
        try:
            content = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            return None
        if content.get("key") != key or not isinstance(content.get("figures"), dict):
            return None
        return {**content["figures"], "code": content.get("code", "")}

    def read_all(self, tasks: Iterable[Task]) -> dict[str, dict[str, Any]]:
        """Return key -> figures of the tasks that are finished."""
        found = {key: self.read(key) for key in dict.fromkeys(task.key for task in tasks)}
        return {key: figures for key, figures in found.items() if figures is not None}


@functools.cache
def code_digest() -> str:
    """Return a hash of the package's source, by which a table can tell that it was mixed."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def unfinished(tasks: Sequence[Task], done: Mapping[str, Any]) -> list[Task]:
    """Return the tasks to run, one for each key."""
    first: dict[str, Task] = {}
    for task in tasks:
        first.setdefault(task.key, task)
    return [task for key, task in first.items() if key not in done]


def expected_seconds(
    todo: Sequence[Task], tasks: Sequence[Task], done: Mapping[str, Any], *, minutes: float
) -> float:
    """Return how long cells would take one after the other, by what finished ones took.

    The median of the same data and method counts, else of the same method, else of all, else
    `minutes` a cell.
    """
    taken: dict[tuple[str, ...], list[float]] = {}
    for task in tasks:
        if task.key in done:
            seconds = float(done[task.key]["seconds"]["all"])
            for group in ((task.cell, task.method), (task.method,), ()):
                taken.setdefault(group, []).append(seconds)
    medians = {group: statistics.median(values) for group, values in taken.items()}
    return sum(
        next(
            medians[group]
            for group in ((task.cell, task.method), (task.method,), (), None)
            if group in medians
        )
        if medians
        else 60.0 * minutes
        for task in todo
    )
