"""File values and colours to classes and back, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._raster import Raster
from keras_robustseg.errors import DataError

FILE = Path("m.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_decode_and_encode_are_inverse(rng, dtype):
    """Any values in any integer type, void included."""
    code = MaskCode(["a", "b", "c"], values={7: 0, 100: 1, 30: 2}, void=9)
    mask = rng.integers(-1, 3, (5, 6, 7)).astype(np.int16)
    stored = code.encode(mask).astype(dtype)
    assert set(np.unique(stored)) == {7, 9, 30, 100}
    again, problems = code.decode(Raster(stored), 3, FILE)
    assert problems == []
    np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.uint8, 9), (np.int16, -3), (np.int64, -(10**12)), (np.uint64, 2**63), (np.uint16, 65535)],
)
def test_values_out_of_range_are_counted_and_located(rng, dtype, value):
    """The guard cells of the table catch values far outside of it."""
    stored = rng.integers(0, 3, (8, 6)).astype(dtype)
    places = [(5, 2), (5, 4), (7, 0)]
    for place in places:
        stored[place] = value
    mask, (problem,) = MaskCode(["a", "b", "c"]).decode(Raster(stored), 2, FILE)
    assert (problem.kind, problem.value, problem.count) == ("label_out_of_range", str(value), 3)
    assert problem.first_position == (5, 2)
    assert problem.expected == "one of 0 (a), 1 (b), 2 (c)"
    assert all(mask[place] == -1 for place in places)
    assert (mask >= 0).sum() == stored.size - 3


def test_float_masks():
    """Values between classes are an error; whole numbers are one too, except in NIfTI."""
    code = MaskCode(["a", "b"])
    between = np.array([[0.0, 1.0], [0.25, np.nan]])
    _, (problem,) = code.decode(Raster(between), 2, FILE)
    assert (problem.kind, problem.count, problem.first_position) == ("non_integer_mask", 2, (1, 0))
    for file, warning in ((FILE, False), (Path("m.nii.gz"), True)):
        mask, (problem,) = code.decode(Raster(np.eye(2, dtype=np.float32)), 2, file)
        assert (problem.kind, problem.value, problem.warning) == ("float_mask", "float32", warning)
        np.testing.assert_array_equal(mask, np.eye(2))


def test_unknown_colours():
    """The first unknown colour is located, in RGB and in a palette."""
    code = MaskCode(["a", "b"], colours={"#000000": 0, "00ff00": 1})
    palette = np.array([[0, 0, 0], [0, 255, 0], [1, 2, 3]], np.uint8)
    indices = np.array([[0, 1], [2, 2]], np.uint8)
    for raster in (Raster(palette[indices], "colour"), Raster(indices, "palette", palette)):
        mask, (problem,) = code.decode(raster, 2, FILE)
        assert (problem.value, problem.count, problem.first_position) == ("#010203", 2, (1, 0))
        assert problem.expected == "one of #000000, #00ff00"
        np.testing.assert_array_equal(mask, [[0, 1], [-1, -1]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": {0: 0, 1: 2}}, "values: got class 2, expected 0 to 1"),
        ({"values": {"one": 1}}, "file value: got 'one'"),
        ({"values": {10**6: 1}}, "from -32768 to 65535"),
        ({"void": 1}, "void: 1 is also the value of class 'b'"),
        ({"colours": {"red": 1}}, "colours: got 'red', expected '#rrggbb'"),
    ],
)
def test_wrong_fields(fields, message):
    """Each wrong field says what was got and what is expected."""
    with pytest.raises(DataError, match=message):
        MaskCode(["a", "b"], **fields)


def test_encode_refuses_what_has_no_file_value():
    """Void without a declared value cannot be written, nor can a class without a value."""
    with pytest.raises(DataError, match=r"void \(-1\) has no file value"):
        MaskCode(["a", "b"]).encode(np.array([0, -1]))
    with pytest.raises(DataError, match="class 1 has no colour"):
        MaskCode(["a", "b"], colours={"#000000": 0}).encode_colours(np.array([0, 1]))
