"""Numbers and colours in mask files <-> class indices, with void as -1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_robustseg.data._files import without_single_slices, wrong_axes
from keras_robustseg.data._problem import Problem
from keras_robustseg.data._raster import Raster
from keras_robustseg.data._source import VOID
from keras_robustseg.errors import DataError

__all__ = ["MaskCode"]

_LOW, _HIGH = -(2**15), 2**16 - 1  # file values that can be declared
_UNKNOWN = -(2**15)  # table entry of a value or colour that was not declared


class MaskCode:
    """The two-way table between what mask files hold and class indices.

    Args:
        classes: Class names; index 0 is the background.
        void: File value of pixels that nobody may be asked about.
        values: File value -> class index (-1 for void); `None` means that they are the same.
        colours: `"#rrggbb"` -> class index (-1 for void), for masks that store colours.
        palette: Whether the entry numbers of palette pictures are file values.

    Raises:
        DataError: A value, a colour or a class index cannot be.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        void: int | None = None,
        values: Mapping[int | str, int] | None = None,
        colours: Mapping[str, int] | None = None,
        palette: bool = False,
    ) -> None:
        self.classes = tuple(classes)
        if not 2 <= len(self.classes) < _HIGH:
            raise DataError(
                f"classes: got {len(self.classes)}, expected at least 2 names, background first"
            )
        self.palette = palette
        pairs = values if values is not None else {i: i for i in range(len(self.classes))}
        self.values = {
            _file_value(key): self._class_index(index, "values") for key, index in pairs.items()
        }
        if void is not None:
            self._add_void(_file_value(void))
        self.colours = {
            _colour(key): self._class_index(index, "colours")
            for key, index in (colours or {}).items()
        }
        self._table = np.full(_HIGH - _LOW + 3, _UNKNOWN, np.int16)  # a guard cell at each end
        for value, index in self.values.items():
            self._table[value - _LOW + 1] = index

    def _class_index(self, index: int, field: str) -> int:
        if isinstance(index, bool) or not isinstance(index, int):
            raise DataError(f"{field}: got {index!r}, expected a class index")
        if not VOID <= index < len(self.classes):
            top = len(self.classes) - 1
            raise DataError(f"{field}: got class {index}, expected 0 to {top}, or -1 for void")
        return index

    def _add_void(self, value: int) -> None:
        index = self.values.get(value, VOID)
        if index != VOID:
            name = self.classes[index]
            raise DataError(f"void: {value} is also the value of class {name!r}; choose another")
        self.values[value] = VOID

    def expected(self) -> str:
        """The declared file values in words, for messages."""
        names = [
            f"{value} ({'void' if index == VOID else self.classes[index]})"
            for value, index in sorted(self.values.items())
        ]
        short = names if len(names) <= 8 else [*names[:4], "...", names[-1]]
        return "one of " + ", ".join(short)

    def decode(self, raster: Raster, dims: int, path: Path) -> tuple[np.ndarray, list[Problem]]:
        """Class indices of a mask file, and what is wrong with it.

        Args:
            raster: The file as stored.
            dims: Number of spatial axes.
            path: The file, for messages.

        Returns:
            int16 `(*S)`, -1 where void or wrong, and the problems found.

        Raises:
            DataError: The array has the wrong number of axes.
        """
        pixels = without_single_slices(raster, dims)
        if pixels.ndim == dims + 1 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        if pixels.ndim == dims + 1 and pixels.shape[-1] in (2, 3, 4):
            return self._decode_colours(pixels, path)
        if pixels.ndim != dims:
            raise wrong_axes(raster, path, f"{dims} axes")
        if raster.coding == "palette" and self.colours and raster.palette is not None:
            return self._decode_palette(pixels, raster.palette, path)
        if raster.coding == "palette" and not self.palette:
            return _refuse_palette(pixels, path)
        mask, problems = self._decode_values(pixels, path)
        return mask, ([_lossy(problems, path)] if raster.lossy else problems)

    def _decode_values(self, pixels: np.ndarray, path: Path) -> tuple[np.ndarray, list[Problem]]:
        problems = []
        if pixels.dtype.kind == "f":
            whole = np.rint(pixels)
            wrong = ~(np.isfinite(pixels) & (whole == pixels))
            problems = [_float_problem(pixels, wrong, path)]
            if wrong.any():
                return np.full(pixels.shape, VOID, np.int16), problems
            pixels = np.clip(whole, _LOW - 1, _HIGH + 1).astype(np.int32)
        if pixels.dtype == np.uint8:  # nearly all masks: a small table, no copy of the indices
            mask = self._table[1 - _LOW : 257 - _LOW].take(pixels)
        else:
            mask = self._table[_table_index(pixels)]
        return self._refuse_unknown(mask, pixels, path, problems)

    def _refuse_unknown(
        self, mask: np.ndarray, pixels: np.ndarray, path: Path, problems: list[Problem]
    ) -> tuple[np.ndarray, list[Problem]]:
        if mask.min(initial=VOID) < VOID:
            wrong = mask == _UNKNOWN
            message = "has values that are no class"
            problem = _pixel_problem(
                path, "label_out_of_range", message, wrong, pixels[wrong], self.expected()
            )
            problems = [*problems, problem]
            mask[wrong] = VOID
        return mask, problems

    def _decode_palette(
        self, pixels: np.ndarray, palette: np.ndarray, path: Path
    ) -> tuple[np.ndarray, list[Problem]]:
        table = np.full(256, _UNKNOWN, np.int16)
        for entry, colour in enumerate(palette[:256]):
            table[entry] = self.colours.get(int(_pack(colour)), _UNKNOWN)
        return self._refuse_colours(table[pixels], _pack(palette)[pixels % len(palette)], path)

    def _decode_colours(self, pixels: np.ndarray, path: Path) -> tuple[np.ndarray, list[Problem]]:
        if not self.colours or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            return _refuse_colour_mask(pixels, path)
        packed = _pack(pixels)
        known = np.array(sorted(self.colours), np.int32)
        classes = np.array([self.colours[int(c)] for c in known], np.int16)
        place = np.searchsorted(known, packed).clip(max=len(known) - 1)
        mask = np.where(known[place] == packed, classes[place], np.int16(_UNKNOWN))
        return self._refuse_colours(mask, packed, path)

    def _refuse_colours(
        self, mask: np.ndarray, packed: np.ndarray, path: Path
    ) -> tuple[np.ndarray, list[Problem]]:
        wrong = mask == _UNKNOWN
        if not wrong.any():
            return mask, []
        names = np.array([f"#{c:06x}" for c in np.unique(packed[wrong])])
        expected = "one of " + ", ".join(f"#{c:06x}" for c in sorted(self.colours))
        message = "has colours that are no class"
        problem = _pixel_problem(path, "label_out_of_range", message, wrong, names, expected)
        mask[wrong] = VOID
        return mask, [problem]

    def encode(self, mask: np.ndarray) -> np.ndarray:
        """Class indices to file values, int32; the first declared value of each class.

        Raises:
            DataError: The mask has a class, or void, that no file value was declared for.
        """
        return _invert(self.values, mask, "file value")

    def encode_colours(self, mask: np.ndarray) -> np.ndarray:
        """Class indices to colours, uint8 `(*S, 3)`.

        Raises:
            DataError: The mask has a class, or void, that no colour was declared for.
        """
        packed = _invert(self.colours, mask, "colour")
        return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)


def _invert(pairs: Mapping[int, int], mask: np.ndarray, what: str) -> np.ndarray:
    first = {index: value for value, index in reversed(list(pairs.items()))}
    present = np.unique(mask)
    missing = [int(index) for index in present if int(index) not in first]
    if missing:
        name = "void (-1)" if missing[0] == VOID else f"class {missing[0]}"
        raise DataError(f"mask: {name} has no {what}; declare one in the data source")
    values = np.array([first[int(index)] for index in present], np.int32)
    return values[np.searchsorted(present, mask)]


def _table_index(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "u":
        pixels = np.minimum(pixels, _HIGH + 1) if pixels.itemsize > 2 else pixels
    elif pixels.itemsize > 2:
        pixels = np.clip(pixels, _LOW - 1, _HIGH + 1)
    return pixels.astype(np.intp) - (_LOW - 1)


def _file_value(value: int | str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise DataError(f"file value: got {value!r}, expected an integer") from None
    if isinstance(value, float | bool) or not _LOW <= number <= _HIGH:
        raise DataError(f"file value: got {value!r}, expected an integer from {_LOW} to {_HIGH}")
    return number


def _colour(text: str) -> int:
    digits = str(text).removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise DataError(f"colours: got {text!r}, expected '#rrggbb'") from None


def _pack(colours: np.ndarray) -> np.ndarray:
    """`(..., 3)` colours as one number each, 0xrrggbb."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _values_text(values: np.ndarray, limit: int = 5) -> str:
    distinct = np.unique(values)
    shown = ", ".join(str(value) for value in distinct[:limit])
    return shown if len(distinct) <= limit else f"{shown}, ... ({len(distinct)} values)"


def _pixel_problem(
    path: Path,
    kind: str,
    message: str,
    wrong: np.ndarray,
    values: np.ndarray,
    expected: str,
) -> Problem:
    first = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    position = tuple(int(i) for i in first)
    count = int(np.count_nonzero(wrong))
    return Problem(str(path), kind, message, _values_text(values), count, position, expected)


def _float_problem(pixels: np.ndarray, wrong: np.ndarray, path: Path) -> Problem:
    if wrong.any():
        message = "has values between the classes"
        return _pixel_problem(
            path, "non_integer_mask", message, wrong, pixels[wrong], "whole numbers"
        )
    # NIfTI writers often store label maps as floats; with whole numbers nothing is lost.
    tolerated = path.name.lower().endswith((".nii", ".nii.gz"))
    return Problem(
        str(path),
        "float_mask",
        "stores classes as floating-point numbers",
        str(pixels.dtype),
        pixels.size,
        (0,) * pixels.ndim,
        "an integer type",
        warning=tolerated,
    )


def _lossy(problems: list[Problem], path: Path) -> Problem:
    """One problem for a JPEG mask, with the wrong values that it already shows."""
    first = problems[0] if problems else None
    return Problem(
        str(path),
        "jpeg_mask",
        "is compressed with loss",
        f"JPEG with values {first.value}" if first else "JPEG",
        first.count if first else None,
        first.first_position if first else None,
        "a lossless format: PNG, TIFF, NPY or NIfTI",
    )


def _refuse_palette(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, list[Problem]]:
    message = "stores palette entries, whose order is not sure to be that of the classes"
    wrong = pixels != 0
    expected = "a grey picture, or `palette: true`, or `colours`"
    problem = _pixel_problem(path, "palette_mask", message, wrong, pixels[wrong], expected)
    return np.full(pixels.shape, VOID, np.int16), [problem]


def _refuse_colour_mask(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, list[Problem]]:
    wrong = np.any(pixels != 0, axis=-1)
    texts = {str(tuple(c.tolist())) for c in pixels[wrong][:1000]}
    message = "stores colours"
    expected = "a grey picture with class values, or `colours` and 8-bit RGB"
    values = np.array(sorted(texts) or ["(0, 0, 0)"])
    problem = _pixel_problem(path, "colour_mask", message, wrong, values, expected)
    return np.full(pixels.shape[:-1], VOID, np.int16), [problem]
