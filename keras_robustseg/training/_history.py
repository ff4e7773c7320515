"""The log of a run, one row an epoch, in a CSV file that is always whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StateError
from ._atomic import write_text_atomic

Value = int | float | str | None


class History:
    """Rows of epoch logs, kept in memory and in a CSV file.

    The columns are the union of all rows' names, in order of first appearance. Floats are written
    with the shortest digits that read back exactly, so that the file of a resumed run equals that
    of a run that was never stopped, byte by byte.

    Args:
        path: the CSV file; None keeps the rows in memory only.

    Example:
        >>> history = History(None)
        >>> history.append({"epoch": 0, "loss": 0.5})
        >>> history.append({"epoch": 1, "loss": 0.25, "val_dice": np.float32(0.5)})
        >>> print(history.text(), end="")
        epoch,loss,val_dice
        0,0.5,
        1,0.25,0.5
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self._rows: list[dict[str, Value]] = []
        self._last = -1

    @property
    def rows(self) -> list[dict[str, Value]]:
        """A copy of the rows, ready for a state's meta."""
        return [dict(row) for row in self._rows]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of one epoch and write the file.

        Args:
            row: `epoch`, larger than that of the last row, and any numbers or words.

        Raises:
            StateError: the epoch is missing or was logged before, or the file cannot be written.
        """
        self._add(row)
        self._write()

    def restore(self, rows: Iterable[Mapping[str, Any]], *, epochs: int | None = None) -> None:
        """Replace all rows by those of a saved state and write the file.

        Args:
            rows: as `rows` gave them.
            epochs: keep only the rows of epochs 0 to `epochs - 1`, those that the state has done.
        """
        self._rows, self._last = [], -1
        for row in rows:
            if epochs is None or row["epoch"] < epochs:
                self._add(row)
        self._write()

    def text(self) -> str:
        """The content of the CSV file."""
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        return stream.getvalue()

    def _add(self, row: Mapping[str, Any]) -> None:
        plain = {str(name): _plain(name, value) for name, value in row.items()}
        epoch = plain.get("epoch")
        if not isinstance(epoch, int) or epoch <= self._last:
            raise StateError(
                f"{self.path or 'history'}: got a row of epoch {epoch!r} after that of epoch "
                f"{self._last}; expected a whole number above it."
            )
        self._last = epoch
        self._rows.append(plain)

    def _write(self) -> None:
        if self.path is not None:
            write_text_atomic(self.path, self.text())


def _plain(name: str, value: Any) -> Value:
    """A number or word as Python's own type."""
    if value is None or isinstance(value, str):
        return value
    scalar = np.asarray(value)
    if scalar.ndim or scalar.dtype.kind not in "biufV":
        raise StateError(f"history column {name!r}: expected a number or a word, got {value!r}")
    return int(scalar) if scalar.dtype.kind in "biu" else float(scalar)
