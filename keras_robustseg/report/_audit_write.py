"""What an audit leaves in its directory, prepared under another name and put in place at the end.

images.csv objects.csv classes.csv confusions.csv readers.csv   the tables
audit.json                                                      all of it
audit.html                                                      a page to look at
corrected_masks/NAME.*                                          in the format of the given ones
pixel_scores/NAME.npy                                           if asked for
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg.errors import StateError
from keras_robustseg.training import _files
from keras_robustseg.training._atomic import plain, write_synced
from keras_robustseg.training._leftovers import discard, remove_leftovers, temporary

from ._audit_data import AuditData, AuditSample
from ._audit_examine import Finding, Rule, pixel_scores
from ._audit_report import (
    CLASS_COLUMNS,
    CONFUSION_COLUMNS,
    IMAGE_COLUMNS,
    OBJECT_COLUMNS,
    READER_COLUMNS,
    AuditReport,
    csv_text,
)
from ._html import page
from ._html_picture import Gallery

_TABLES = {
    "images": IMAGE_COLUMNS,
    "objects": OBJECT_COLUMNS,
    "classes": CLASS_COLUMNS,
    "confusions": CONFUSION_COLUMNS,
    "readers": READER_COLUMNS,
}
_LONGEST = 150  # bytes of a file name


class NoWriter:
    """Writes nothing: an audit whose tables are only returned."""

    def __enter__(self) -> NoWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        return

    def mask(self, *unused: object) -> None:
        """Nothing."""

    def corrected(self, *unused: object) -> None:
        """Nothing."""

    def finish(self, report: AuditReport) -> None:
        """Nothing."""


class AuditWriter:
    """Writes an audit into a new or empty directory, wholly or not at all.

    Args:
        out: the directory.
        data: the data, for the format of corrected masks.
        overlays: how many masks the page shows.
        scores: whether pixel scores are written.

    Raises:
        StateError: `out` is a file, is not empty, or cannot be written.
    """

    def __init__(self, out: Path, data: AuditData, overlays: int, scores: bool) -> None:
        check_free(out)
        self.out, self._data, self._scores = out, data, scores
        self._prepared = temporary(out)
        self._gallery = Gallery(overlays, data.classes)
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def __enter__(self) -> AuditWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.out.parent, self.out.name)
            _files.make_directory(self._prepared)
            _files.make_directory(self._prepared / "corrected_masks")
            if self._scores:
                _files.make_directory(self._prepared / "pixel_scores")
        except OSError as error:
            raise _refused(self.out, error) from error
        return self

    def __exit__(self, *unused: object) -> None:
        discard(self._prepared)

    def mask(
        self,
        sample: AuditSample,
        reader: int | None,
        mask: np.ndarray,
        finding: Finding,
        row: dict[str, Any],
        rule: Rule,
    ) -> None:
        """Draw a mask for the page if it is among the worst so far, and write its pixel scores."""
        self._gallery.offer(sample, mask, finding, row)
        if self._scores:
            scores = pixel_scores(sample.probabilities, mask, rule).astype(np.float16)
            name = self._name(sample.id) + ("" if reader is None else f"_r{reader}")
            np.save(self._prepared / "pixel_scores" / f"{name}.npy", scores)

    def corrected(self, sample: AuditSample, mask: np.ndarray) -> None:
        """Write the corrected mask of a sample."""
        stem = self._prepared / "corrected_masks" / self._name(sample.id)
        self._data.save_mask(sample, mask, stem)

    def finish(self, report: AuditReport) -> None:
        """Write tables and page, and give the directory its name."""
        texts = {
            f"{name}.csv": csv_text(columns, getattr(report, name))
            for name, columns in _TABLES.items()
            if name != "readers" or report.readers
        }
        body = plain({**report.to_dict(), "files": self._names})
        texts["audit.json"] = json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False)
        texts["audit.html"] = page(report, self._gallery.pictures())
        try:
            for name, text in texts.items():
                write_synced(self._prepared / name, [memoryview(printable(text).encode())])
            _files.rename(self._prepared, self.out)
            _files.sync_directory(self.out.parent)
        except OSError as error:
            raise _refused(self.out, error) from error

    def _name(self, sample_id: str) -> str:
        """A file name for a sample: its id, where that is one."""
        if sample_id not in self._names:
            plainer = re.sub(r"[^\w.+ -]", "_", sample_id).strip(". ")
            plainer = plainer.encode()[:_LONGEST].decode(errors="ignore") or "_"
            number, name = 1, plainer
            while name.casefold() in self._taken:
                number += 1
                name = f"{plainer}-{number}"
            self._names[sample_id] = name
            self._taken.add(name.casefold())
        return self._names[sample_id]


def _refused(out: Path, error: OSError) -> StateError:
    return StateError(
        f"{out}: the audit cannot be written: {error.strerror or error}. Free some space, or check "
        "the permissions of the directory; nothing was left there."
    )


def printable(text: str) -> str:
    """File names may hold bytes that are no text: shows them without failing."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_free(out: Path, purpose: str = "audit") -> None:
    """Refuse a directory for an audit, or for another purpose, that holds something already.

    Raises:
        StateError: `out` is a file, or not empty.
    """
    if out.exists() and not out.is_dir():
        raise StateError(f"{out}: is a file, expected a new or empty directory for the {purpose}")
    if out.is_dir() and any(out.iterdir()):
        raise StateError(
            f"{out}: is not empty, expected a new or empty directory for the {purpose}; nothing "
            "is ever replaced. Choose another with --out, or remove this one."
        )
