"""What `check` found: as data, as text for the terminal, as plain values for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_robustseg.data._problem import HEADINGS, Problem, printable

__all__ = ["CheckReport"]

_LINES = 20
_WIDTH = 60
# Kinds whose heading says it all: the message of each file would only repeat it.
_PLAIN = {
    "label_out_of_range",
    "non_integer_mask",
    "float_mask",
    "jpeg_mask",
    "palette_mask",
    "colour_mask",
    "not_finite",
    "mixed_channels",
    "empty_mask",
    "void_mask",
    "mixed_spacing",
    "unknown_file",
}
_COLUMNS = ("file", "value", "count", "first", "expected", "what")


@dataclass(frozen=True)
class CheckReport:
    """Everything that is wrong with a data set, and what it holds.

    Args:
        problems: Errors and warnings, in the order of `HEADINGS`.
        counts: Samples per split, pixels per class and split, sizes, channels, spacings.
        root: Folder that file names are shown relative to.
        notes: What was guessed because there was no recipe.
    """

    problems: tuple[Problem, ...]
    counts: Mapping[str, Any]
    root: str = ""
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop a training."""
        return tuple(problem for problem in self.problems if not problem.warning)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that a training can live with."""
        return tuple(problem for problem in self.problems if problem.warning)

    def text(self) -> str:
        """The report for a terminal: at most 20 lines per kind of problem, then the total."""
        lines = [_contents(self.counts), *self.notes]
        for kind in HEADINGS:
            for warning in (False, True):
                found = [p for p in self.problems if p.kind == kind and p.warning == warning]
                lines += _section(kind, found, self.root) if found else []
        return printable("\n".join([*lines, _total(self.errors, self.warnings)]))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "ok": not self.errors,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "kinds": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem.to_dict() for problem in self.problems],
            "counts": dict(self.counts),
            "notes": list(self.notes),
        }


def _contents(counts: Mapping[str, Any]) -> str:
    splits = counts.get("samples", {})
    total = sum(splits.values())
    parts = ", ".join(f"{number} {name}" for name, number in splits.items())
    sizes = counts.get("sizes", {})
    shown = ", ".join(list(sizes)[:3]) + (" ..." if len(sizes) > 3 else "")
    return f"{total} samples ({parts})" + (f"; sizes {shown}" if sizes else "")


def _section(kind: str, found: Sequence[Problem], root: str) -> list[str]:
    level = "warning" if found[0].warning else "error"
    number = f"{len(found)} {level}{'s' * (len(found) > 1)}"
    rows = [_row(problem, root) for problem in found[:_LINES]]
    lines = ["", f"{kind}: {number}: {HEADINGS[kind]}", *_aligned([_COLUMNS, *rows])]
    more = len(found) - _LINES
    return [*lines, f"  ... and {more} more"] if more > 0 else lines


def _row(problem: Problem, root: str) -> tuple[str, ...]:
    first = "" if problem.first_position is None else str(list(problem.first_position))
    count = "" if problem.count is None else str(problem.count)
    file = problem.file.removeprefix(root).lstrip("/\\") if root else problem.file
    message = "" if problem.kind in _PLAIN else problem.message
    cells = (problem.value or "", count, first, problem.expected or "")
    return (file or problem.file, *(_cut(cell) for cell in cells), message)


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDTH else cell[: _WIDTH - 3] + "..."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with each column as wide as its widest cell; columns without a cell are left out."""
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    return ["  " + "  ".join(row[i].ljust(widths[i]) for i in used).rstrip() for row in rows]


def _total(errors: Sequence[Problem], warnings: Sequence[Problem]) -> str:
    if not errors and not warnings:
        return "no problems found"
    kinds = len({problem.kind for problem in (*errors, *warnings)})
    return (
        f"\ntotal: {len(errors)} error{'s' * (len(errors) != 1)}, {len(warnings)} "
        f"warning{'s' * (len(warnings) != 1)}, of {kinds} kind{'s' * (kinds != 1)}"
    )
