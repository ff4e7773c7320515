"""What can be wrong with a data set: `Problem`, and the error that carries one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from keras_robustseg.errors import DataError

__all__ = ["HEADINGS", "BadFile", "Problem", "printable"]

# kind -> what it means and what to do, shown once above the files concerned.
HEADINGS: dict[str, str] = {
    "layout": "the data set as a whole cannot be read",
    "missing_file": "files that are not there (or links that lead nowhere)",
    "unreadable": "files that cannot be read: damaged, cut off, or not what their name says",
    "missing_package": "files that need a package which is not installed",
    "too_large": "files that are refused because of their declared size",
    "missing_partner": "images without a mask, or masks without an image",
    "duplicate_id": "samples with the same name; rename one of each pair",
    "wrong_size": "images and masks of different sizes, or of the wrong number of axes",
    "wrong_geometry": "masks whose orientation or position is not that of their image",
    "label_out_of_range": "mask values that are no class; see `classes`, `values` and `void`",
    "non_integer_mask": "masks with values between the classes; was a mask interpolated or scaled?",
    "float_mask": "masks stored as floating-point numbers; store integers",
    "jpeg_mask": "masks in a lossy format, which invents classes at edges; export as PNG",
    "palette_mask": "masks that store palette entries; set `palette: true` or give `colours`",
    "colour_mask": "masks that store colours; give `colours`, such as {'#ff0000': 1}",
    "not_finite": "images with NaN or infinite pixels",
    "mixed_channels": "images with another number of channels than the rest",
    "spacing": "pixel sizes that are not positive numbers",
    "group_crosses_splits": "groups (patients, volumes) in more than one split",
    "no_group": "samples whose name the field `group` does not match",
    "not_in_split": "samples that the split file leaves out, or names without a sample",
    "class_absent": "classes that no mask of a split contains",
    "empty_split": "splits without samples",
    "empty_mask": "masks that are background only",
    "void_mask": "masks without a single pixel to learn from",
    "mixed_spacing": "images with different pixel sizes; a network sees pixels, not millimetres",
    "unknown_file": "files that are neither an image nor a mask format of this package",
}


def printable(text: object) -> str:
    """File names may hold bytes that are no text: shows them without failing."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file.

    Args:
        file: The file, or the data set or split where no single file is to blame.
        kind: A key of `HEADINGS`.
        message: What is wrong, in words.
        value: What was found.
        count: In how many pixels, or in how many files.
        first_position: Index of the first pixel concerned, in array order.
        expected: What would have been right.
        warning: True where training can go on.
    """

    file: str
    kind: str
    message: str
    value: str | None = None
    count: int | None = None
    first_position: tuple[int, ...] | None = None
    expected: str | None = None
    warning: bool = False

    def text(self) -> str:
        """The problem in one line, as the text of an error."""
        parts = [self.message]
        if self.value is not None:
            parts.append(f"got {self.value}")
        if self.count is not None:
            parts.append(f"{self.count} times")
        if self.first_position is not None:
            parts.append(f"first at {list(self.first_position)}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return printable(f"{self.file}: " + ", ".join(parts))

    def to_dict(self) -> dict[str, Any]:
        """The problem as plain values for JSON."""
        fields = asdict(self)
        if self.first_position is not None:
            fields["first_position"] = list(self.first_position)
        return fields | {"file": printable(self.file)}


class BadFile(DataError):
    """A `DataError` that knows its `Problem`.

    Args:
        problem: What is wrong.
        others: Number of further problems of the same sample, for the text.
    """

    def __init__(self, problem: Problem, others: int = 0) -> None:
        more = f" (and {others} more; `robustseg check` lists them all)" if others else ""
        super().__init__(problem.text() + more)
        self.problem = problem
