"""The epoch log and its CSV file."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from keras_robustseg.errors import StateError
from keras_robustseg.training._history import History
from keras_robustseg.training._state import StateStore


def _log(rng, epoch: int) -> dict:
    """A row as Keras gives it; validation columns come only in later epochs."""
    row = {"epoch": epoch, "loss": rng.normal() * 10.0 ** rng.integers(-20, 20), "phase": "a, b"}
    if epoch >= 3:
        row |= {"val_loss": np.float32(rng.normal()), "skipped": np.int64(epoch)}
    return row | ({"bad": float("nan")} if epoch == 4 else {})


def test_numbers_return_exactly(tmp_path, rng):
    history = History(tmp_path / "history.csv")
    rows = [_log(rng, epoch) for epoch in range(6)]
    for row in rows:
        history.append(row)
    with (tmp_path / "history.csv").open(newline="") as file:
        back = list(csv.DictReader(file))
    assert list(back[0]) == ["epoch", "loss", "phase", "val_loss", "skipped", "bad"]
    assert [float(row["loss"]) for row in back] == [row["loss"] for row in rows]
    assert [row["val_loss"] for row in back[:3]] == [""] * 3
    assert np.float32(back[5]["val_loss"]) == rows[5]["val_loss"]
    assert (back[4]["bad"], back[4]["skipped"], back[0]["phase"]) == ("nan", "4", "a, b")


@pytest.mark.parametrize("stop", range(7))
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path, rng, stop):
    rows = [_log(rng, epoch) for epoch in range(6)]
    whole, before = History(tmp_path / "whole.csv"), History(tmp_path / "resumed.csv")
    for row in rows:
        whole.append(row)
    for row in rows[:stop]:
        before.append(row)
    StateStore(tmp_path).save({}, {"history": before.rows}, step=1)
    for row in rows[stop : stop + 1]:  # one epoch more before the kill, lost with it
        before.append(row)
    resumed = History(tmp_path / "resumed.csv")
    resumed.restore(StateStore(tmp_path).load().meta["history"])
    for row in rows[stop:]:
        resumed.append(row)
    assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert json.dumps(resumed.rows) == json.dumps(whole.rows)


def test_restored_rows_are_cut_to_the_epochs_of_the_state(tmp_path):
    history = History(tmp_path / "history.csv")
    history.restore([{"epoch": epoch, "loss": 0.5} for epoch in range(5)], epochs=2)
    assert (tmp_path / "history.csv").read_text() == "epoch,loss\n0,0.5\n1,0.5\n"
    history.append({"epoch": 2, "loss": 0.25})
    history.rows[0]["loss"] = 99  # a copy
    assert [row["loss"] for row in history.rows] == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("row", [{}, {"epoch": 1}, {"epoch": "2"}, {"epoch": 0}])
def test_epochs_are_logged_once_and_in_order(row):
    history = History(None)
    history.append({"epoch": 1})
    with pytest.raises(StateError, match=r"got a row of epoch .* after that of epoch 1"):
        history.append(row)
    assert history.rows == [{"epoch": 1}]


def test_a_column_holds_numbers_or_words():
    with pytest.raises(StateError, match="column 'dice': expected a number or a word"):
        History(None).append({"epoch": 0, "dice": np.ones(3)})
