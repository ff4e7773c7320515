"""Benchmarks that run: cell by cell, again after a kill, and with what has changed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_benchmark_file import written
from typer.testing import CliRunner

from keras_robustseg.benchmark import CellStore, load_benchmark, run_benchmark, tasks
from keras_robustseg.benchmark import _cell as cell_module
from keras_robustseg.benchmark._run import duration
from keras_robustseg.benchmark._store import expected_seconds, unfinished
from keras_robustseg.cli import app
from keras_robustseg.recipes import recipe_from_dict
from keras_robustseg.training._atomic import plain


def planted(recipe: Any) -> dict[str, Any]:
    """Figures that a recipe decides, in the form of `run_cell`, without a training."""
    recipe = recipe_from_dict(recipe)
    method = recipe.method.kind if recipe.data.readers != "truth" or recipe.data.noise else "clean"
    mean = {"supervised": 0.7, "pencil": 0.82, "clean": 0.9}[method]
    rng = np.random.default_rng(recipe.seed)
    images = (mean + rng.normal(0, 0.01, (3, 1))).tolist()
    dice = float(np.mean(images))
    chosen = {"epoch": 1, "dice": dice, "images": images}
    labels = {"given": 0.6, "validation": 0.6}
    if method == "pencil":
        labels |= {"corrected": 0.75, "fixed": 40, "broken": 10, "net": 30}
    names = ("last", "noisy_validation", "clean_validation", "oracle")
    return {
        "test": dict.fromkeys(names, chosen),
        "curve": {"epoch": [1], "test": [dice]},
        "labels": labels,
        "volume": [1.0],
        "collapsed": method == "supervised",
        "seeds": {"init": recipe.seed, "data": recipe.data_seed},
        "seconds": {"all": 30.0, "training": 20.0},
        "steps": 2,
        "skipped_steps": 0,
    }


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replaces the training of a cell; what is trained is listed."""
    names: list[str] = []

    def run_cell(recipe: Any) -> dict[str, Any]:
        names.append(recipe["name"])
        return planted(recipe)

    monkeypatch.setattr(cell_module, "run_cell", run_cell)
    return names


def test_a_finished_benchmark_trains_nothing_again(tmp_path: Path, trained: list[str]) -> None:
    benchmark = load_benchmark(written(tmp_path))
    first = run_benchmark(benchmark, tmp_path / "out", jobs=0, say=lambda line: None)
    assert len(trained) == 6
    again = run_benchmark(benchmark, tmp_path / "out", jobs=0, say=lambda line: None)
    assert len(trained) == 6
    assert plain(again.to_dict()) == plain(first.to_dict())


def test_the_full_profile_takes_over_what_the_core_one_has_done(
    tmp_path: Path, trained: list[str]
) -> None:
    benchmark = load_benchmark(written(tmp_path))
    run_benchmark(benchmark, tmp_path / "out", jobs=0, say=lambda line: None)
    trained.clear()
    run_benchmark(benchmark, tmp_path / "out", profile="full", jobs=0, say=lambda line: None)
    assert len(trained) == 6
    assert all(name.endswith("s1") for name in trained)


def test_a_changed_recipe_trains_only_what_it_changes(tmp_path: Path, trained: list[str]) -> None:
    out = tmp_path / "out"
    run_benchmark(load_benchmark(written(tmp_path)), out, jobs=0, say=lambda line: None)
    trained.clear()
    noise = [{"kind": "shift", "distance": 5}]
    changed = load_benchmark(written(tmp_path, cells__shifted__data__noise=noise))
    run_benchmark(changed, out, jobs=0, say=lambda line: None)
    assert sorted(trained) == ["shifted.ce.s0", "shifted.ours.s0"]


@pytest.mark.parametrize(
    "content",
    ["", '{"format": 1, "figures": {"te', "[]", '{"format": 0}', '{"format": 1, "key": "x"}'],
)
def test_a_cell_that_is_not_whole_does_not_count(
    tmp_path: Path, trained: list[str], content: str
) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    run_benchmark(benchmark, out, jobs=0, say=lambda line: None)
    trained.clear()
    victim = tasks(benchmark, "core")[1]
    CellStore(out).path(victim.key).write_text(content, encoding="utf-8")
    run_benchmark(benchmark, out, jobs=0, say=lambda line: None)
    assert trained == [victim.label.replace("/", ".")]


def test_a_cell_is_not_taken_for_another(tmp_path: Path, trained: list[str]) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    run_benchmark(benchmark, out, jobs=0, say=lambda line: None)
    store, (one, other) = CellStore(out), tasks(benchmark, "core")[:2]
    store.path(one.key).write_bytes(store.path(other.key).read_bytes())
    assert store.read(one.key) is None


def test_a_cell_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_cell(recipe: Any) -> dict[str, Any]:
        if recipe["name"] == "shifted.ce.s0":
            raise ValueError("planted")
        return planted(recipe)

    monkeypatch.setattr(cell_module, "run_cell", run_cell)
    benchmark, out, lines = load_benchmark(written(tmp_path)), tmp_path / "out", []
    results = run_benchmark(benchmark, out, jobs=0, say=lines.append)
    assert results.failed == {"shifted/ce/s0": "ValueError: planted"}
    assert results.trained == 5
    assert any("FAILED: ValueError: planted" in line for line in lines)
    assert "Not trained" in (out / "table.md").read_text()


def test_only_trains_what_matches_and_tables_have_all(tmp_path: Path, trained: list[str]) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    run_benchmark(benchmark, out, only="readers/", jobs=0, say=lambda line: None)
    assert sorted(trained) == ["readers.ce.s0", "readers.clean.s0", "readers.ours.s0"]
    results = run_benchmark(benchmark, out, only="shifted/ce", jobs=0, say=lambda line: None)
    assert len(trained) == 4
    assert len(results.rows) == 4


def test_tables_have_the_planted_figures(tmp_path: Path, trained: list[str]) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    results = run_benchmark(benchmark, out, profile="full", jobs=0, say=lambda line: None)
    rows = {(row.cell, row.method): row for row in results.rows}
    ours, base = rows["shifted", "ours"], rows["shifted", "ce"]
    assert ours.runs == 2
    # Noise of an image is that of its seed for every method, so differences are exact.
    assert ours.difference == pytest.approx(0.12)
    assert (ours.low, ours.high) == pytest.approx((0.12, 0.12))
    expected = [np.mean(0.82 + np.random.default_rng(s).normal(0, 0.01, (3, 1))) for s in (1, 2)]
    assert ours.mean["last"] == pytest.approx(np.mean(expected))
    assert ours.sd["last"] == pytest.approx(np.std(expected, ddof=1))
    assert (ours.rank, base.rank) == (1.0, 2.0)
    assert np.isnan(rows["shifted", "clean"].rank)
    assert (ours.collapse, base.collapse) == (0.0, 1.0)
    assert ours.mean["net"] == 30
    assert [verdict.passed for verdict in results.verdicts] == [True, True, True]
    methods = {entry.method: entry for entry in results.overall}
    assert methods["ours"].p == pytest.approx(2 / 2**4)  # four pairs, all of one sign
    assert methods["ours"].difference == pytest.approx(0.12)


def test_files_say_the_same(tmp_path: Path, trained: list[str]) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    results = run_benchmark(benchmark, out, profile="full", jobs=0, say=lambda line: None)
    content = json.loads((out / "results.json").read_text())
    assert [row["mean"]["last"] for row in content["rows"]] == [
        row.mean["last"] for row in results.rows
    ]
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["last_mean"]) for row in rows] == [row.mean["last"] for row in results.rows]
    assert [row["corrected_mean"] for row in rows if row["method"] == "ce"] == ["", ""]
    with (out / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    seeds = {(run["init_seed"], run["data_seed"]) for run in runs}
    assert seeds == {("1", "7"), ("2", "8")}
    table = (out / "table.md").read_text()
    assert "PASS" in table
    assert f"{results.rows[1].mean['last']:.4f}" in table


def test_time_is_told_by_what_has_finished(tmp_path: Path, trained: list[str]) -> None:
    benchmark, out = load_benchmark(written(tmp_path)), tmp_path / "out"
    every = tasks(benchmark, "full")
    assert expected_seconds(every, every, {}, minutes=2.0) == 12 * 120
    run_benchmark(benchmark, out, jobs=0, say=lambda line: None)
    done = CellStore(out).read_all(every)
    todo = unfinished(every, done)
    assert expected_seconds(todo, every, done, minutes=2.0) == 6 * 30


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (750, "12 min"), (3700, "1 h 2 min"), (7180, "2 h 0 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# The command -------------------------------------------------------------------


def invoked(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["benchmark", *arguments])


def test_listing_and_dry_run_train_nothing(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    listed = invoked(str(path), "--out", str(out), "--list", "--only", "readers")
    assert listed.exit_code == 0, listed.output
    assert "to do" in listed.output
    assert "0 of 3 are finished" in listed.output
    told = invoked(str(path), "--out", str(out), "--dry-run", "--profile", "full", "--jobs", "2")
    assert "12 runs" in told.output
    assert "about 12 min of one core at 1 min a run" in told.output
    assert "--jobs 2: about 6 min" in told.output
    assert not out.exists()


def test_the_report_of_what_is_finished(tmp_path: Path, trained: list[str]) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    only = "readers/(ce|ours)"
    run_benchmark(load_benchmark(path), out, only=only, jobs=0, say=lambda line: None)
    shown = invoked(str(path), "--out", str(out), "--report")
    assert shown.exit_code == 0, shown.output
    assert "2 of 6 runs are finished" in shown.output
    assert "not run yet: readers" in shown.output


def test_bad_input_is_one_error(tmp_path: Path) -> None:
    shown = invoked(str(written(tmp_path, baseline="sgd")), "--list")
    assert shown.exit_code == 2
    assert "expected a method out of ce, ours, clean" in shown.output


# Real trainings ------------------------------------------------------------------


def test_a_real_cell_in_this_process(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path))
    results = run_benchmark(
        benchmark, tmp_path / "out", only="readers/ours", jobs=0, say=lambda line: None
    )
    assert results.failed == {}
    (run,) = results.runs
    assert 0.0 <= run.last <= run.oracle <= 1.0
    assert run.fixed - run.broken == run.net
    assert (run.init_seed, run.data_seed) == (1, 7)


def started(path: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from keras_robustseg.cli import main; main()", "benchmark"]
    return subprocess.Popen(
        [*command, str(path), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def cells(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "cells").glob("*.json")}


def wait_for_cells(process: subprocess.Popen[str], out: Path, count: int) -> None:
    while len(cells(out)) < count and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_benchmark_that_was_killed_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    process = started(path, out, "--only", "/(ce|clean)/")
    wait_for_cells(process, out, 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 75}[number], output
    before = cells(out)
    assert before
    process = started(path, out, "--only", "/(ce|clean)/", "--jobs", "2")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    after = cells(out)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_figures_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        output, _ = started(path, out, "--jobs", jobs, "--only", "/ours/").communicate(timeout=600)
        assert "FAILED" not in output
        dice = {
            name: json.loads(content)["figures"]["test"]["last"]["images"]
            for name, content in cells(out).items()
        }
        found.append(dice)
    assert found[0]
    assert found[0] == found[1]
