"""metrics.json and the summary table."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_robustseg import metrics, report


def test_flatten_and_nest_are_inverse(rng):
    flat = {f"a{i % 3}.b{i % 5}.c{i}": float(rng.normal()) for i in range(30)}
    flat |= {"single": None, "a0.list": [1, 2]}
    nested = report.nest(flat)
    assert nested["a0"]["b0"]["c0"] == flat["a0.b0.c0"]
    assert report.flatten(nested) == flat
    assert report.nest(nested) == nested


@pytest.mark.parametrize(
    "bad", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a.b": 1, "a": {"b": 2}}], ids=str
)
def test_a_name_is_a_value_or_a_section(bad):
    with pytest.raises(ValueError, match=r"metrics: 'a"):
        report.nest(bad)


def test_metrics_file_is_nested_and_has_no_nan(tmp_path):
    path = tmp_path / "metrics.json"
    given = {"labels.given.dice": np.float64(0.5), "test": {"dice": 0.9, "hd95": np.nan}}
    report.write_metrics(path, given)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "labels": {"given": {"dice": 0.5}},
        "test": {"dice": 0.9, "hd95": None},
    }


def _cells(table: str) -> dict[str, list[str]]:
    """First cell of a line -> its other cells; cells are two or more spaces apart."""
    lines = [line.split("  ") for line in table.splitlines()]
    return {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}


def test_table_of_real_evaluations(rng):
    truth = np.zeros((4, 12, 12), int)
    truth[:3, 2:8, 3:9] = 1  # the last image has no object
    given = np.roll(truth, 2, axis=1)
    table = report.metrics_table(
        {
            "labels": {"given": report.scores(metrics.evaluate_masks(given, truth, 2).summary())},
            "test": report.scores(metrics.evaluate_masks(truth, truth, 2).summary()),
            "seconds": {"train": 3.0},
        }
    )
    cells = _cells(table)
    assert cells[""] == ["Dice", "IoU", "HD95", "ASSD", "NSD"]
    # 6x6 squares two rows apart share 24 pixels: Dice 2*24/72, IoU 24/48; HD95 is the shift.
    assert cells["given masks"][:3] == ["0.6667 (1)", "0.5000 (1)", "2.00 (1)"]
    assert cells["network, test"][:4] == ["1.0000 (1)", "1.0000 (1)", "0.00 (1)", "0.00 (1)"]
    assert "seconds" not in table
    assert table.endswith("such value")


def test_columns_are_aligned_and_empty_ones_left_out():
    table = report.metrics_table(
        {
            "labels.given": {"dice": 0.5, "hd95": 112.25, "undefined": {"hd95": 12}},
            "labels.corrected": {"dice": 0.75, "hd95": 3.5, "undefined": {"hd95": 0}},
            "test": {"dice": float("nan"), "hd95": None},
        }
    )
    assert table.splitlines()[:4] == [
        "                   Dice    HD95",
        "given masks      0.5000  112.25 (12)",
        "corrected masks  0.7500    3.50",
        "network, test         -       -",
    ]


def test_without_metrics_there_is_no_row():
    assert report.metrics_table({"seconds": 3}) == ""


def test_reports_import_nothing_heavy():
    code = (
        "import sys; from keras_robustseg import report;"
        "[getattr(report, name) for name in report.__all__];"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
