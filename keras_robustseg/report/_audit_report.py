"""The tables of an audit, and how they read as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._audit_bias import GENERAL
from ._tables import _aligned

IMAGE_COLUMNS = (
    "rank",
    "id",
    "reader",
    "severity",
    "worst_class",
    "wrong_pixels",
    "wrong_share",
    "missing",
    "extra",
    "wrong_class",
    "misshapen",
    "softmin",
)
OBJECT_COLUMNS = (
    "rank",
    "id",
    "reader",
    "kind",
    "given",
    "suggested",
    "severity",
    "given_pixels",
    "suggested_pixels",
    "wrong_pixels",
    "box",
)
CLASS_COLUMNS = (
    "class",
    "given_pixels",
    "suggested_pixels",
    "wrong_pixels",
    "wrong_share",
    "threshold",
    "missing",
    "extra",
    "wrong_class",
    "misshapen",
    "suspicion",
)
CONFUSION_COLUMNS = ("given", "suggested", "pixels", "share_of_given")
READER_COLUMNS = ("reader", "images", "severity", "wrong_share", "displacement", "suspicion")

_SHOWN = 10


@dataclass
class AuditReport:
    """The result of an audit. Severities are in [0, 1], 1 looks entirely wrong.

    Attributes:
        summary: what was audited and how, totals.
        images: a row for each mask, the worst first (`IMAGE_COLUMNS`).
        objects: a row for each object that looks wrong, the worst first (`OBJECT_COLUMNS`).
        classes: a row for each class (`CLASS_COLUMNS`).
        confusions: pixels that look wrong, by given and suggested class (`CONFUSION_COLUMNS`).
        readers: a row for each reader where there are several (`READER_COLUMNS`).
        bias: class name -> what was measured on masks that are all too large or too small.
        statements: that in words, a sentence for each class.
    """

    summary: dict[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    confusions: list[dict[str, Any]] = field(default_factory=list)
    readers: list[dict[str, Any]] = field(default_factory=list)
    bias: dict[str, Any] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        names = ("summary", "statements", "bias", "classes", "confusions", "readers")
        body = {name: getattr(self, name) for name in names}
        return {**body, "limits": GENERAL, "images": self.images, "objects": self.objects}

    def text(self) -> str:
        """A page for a terminal: totals, the worst images and objects, suspicions in words."""
        total = self.summary
        parts = [
            f"{total['masks']} masks of {total['images']} images, {total['method']}: "
            f"{total['wrong_share']:.2%} of the pixels look wrong",
            _table("worst masks", IMAGE_COLUMNS[:7], self.images),
            _table("worst objects", OBJECT_COLUMNS[:7], self.objects),
            _table("given as -> suggested", CONFUSION_COLUMNS, self.confusions),
            _table("readers", READER_COLUMNS, self.readers),
            "\n".join([*self.statements, GENERAL]),
        ]
        return "\n\n".join(part for part in parts if part)


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    used = [name for name in columns if any(row[name] is not None for row in rows[:_SHOWN])]
    cells = [list(used), *([cell(row[name]) for name in used] for row in rows[:_SHOWN])]
    more = [f"... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return "\n".join([title, *_aligned(cells), *more])


def cell(value: Any) -> str:
    """A value as short text: three decimals for fractions, empty for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV with a header; a text that a spreadsheet would run as a formula is quoted.

    Example:
        >>> csv_text(("id", "severity"), [{"id": "=1+1", "severity": 0.5}]).splitlines()[1]
        "'=1+1,0.5"
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(row[name]) for name in columns] for row in rows)
    return stream.getvalue()


def _harmless(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
