"""From the figures of finished cells to the rows of the tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from keras_robustseg.benchmark._file import Benchmark
from keras_robustseg.benchmark._statistics import (
    Array,
    holm,
    image_dice,
    paired_bootstrap,
    ranks,
    wilcoxon,
)
from keras_robustseg.benchmark._targets import CellDice, Verdict, evaluate_targets
from keras_robustseg.benchmark._tasks import Task

CHOICES = ("last", "noisy_validation", "clean_validation", "oracle")


@dataclass
class Run:
    """One finished training: where it stands in the grid, and its figures as plain numbers."""

    cell: str
    method: str
    number: int
    init_seed: int
    data_seed: int
    last: float
    noisy_validation: float
    clean_validation: float
    oracle: float
    noisy_validation_epoch: float
    oracle_epoch: float
    given: float
    corrected: float
    fixed: float
    broken: float
    net: float
    collapsed: bool
    seconds: float
    code: str


@dataclass
class Row:
    """A method in a data cell: means and standard deviations over seeds, and its comparison.

    `difference` (with `low` and `high`, its bootstrap interval) is that of the last epoch's Dice
    to the baseline's; `p` is Wilcoxon's over images, `p_holm` adjusted for the methods of the
    cell; `rank` is among the methods that are not the bound.
    """

    cell: str
    method: str
    runs: int
    mean: dict[str, float]
    sd: dict[str, float]
    collapse: float
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")
    p_holm: float = float("nan")
    rank: float = float("nan")


@dataclass
class Overall:
    """A method over all cells; `p` is Wilcoxon's over pairs of (cell, seed), the baseline's too."""

    method: str
    cells: int
    runs: int
    dice: float
    difference: float
    rank: float
    p: float
    p_holm: float
    collapse: float
    seconds: float


@dataclass
class Results:
    """Everything a benchmark has found so far."""

    name: str
    profile: str
    baseline: str
    trained: int
    total: int
    runs: list[Run]
    rows: list[Row]
    overall: list[Overall]
    verdicts: list[Verdict]
    failed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `results.json` has them."""
        return asdict(self)


def collect(
    benchmark: Benchmark,
    profile: str,
    every: Sequence[Task],
    done: Mapping[str, Mapping[str, Any]],
    *,
    failed: Mapping[str, str] | None = None,
) -> Results:
    """Put the finished cells of a profile into tables.

    Args:
        benchmark: the benchmark.
        profile: name of the profile.
        every: its tasks.
        done: key -> figures of `run_cell`, of the finished ones.
        failed: label -> what went wrong, of those that could not be trained.

    Returns:
        The results; a cell that is not finished is left out of every mean.

    Example:
        `collect(benchmark, "core", every, CellStore(out).read_all(every)).overall`
    """
    grid = _Grid(benchmark, [(task, done[task.key]) for task in every if task.key in done])
    rows = [grid.row(cell, method) for cell, method in grid.places]
    grid.rank(rows)
    return Results(
        name=benchmark.name,
        profile=profile,
        baseline=benchmark.baseline,
        trained=sum(task.key in done for task in every),
        total=len(every),
        runs=list(grid.runs.values()),
        rows=rows,
        overall=grid.overall(rows),
        verdicts=_verdicts(benchmark, rows),
        failed=dict(failed or {}),
    )


class _Grid:
    """Runs by their places, and the comparisons between them."""

    def __init__(
        self, benchmark: Benchmark, finished: Sequence[tuple[Task, Mapping[str, Any]]]
    ) -> None:
        self._baseline = benchmark.baseline
        self._bounds = {name for name, method in benchmark.methods.items() if method.bound}
        self.runs = {(t.cell, t.method, t.number): _run(t, figures) for t, figures in finished}
        self._images = {
            (task.cell, task.method, task.number): np.array(
                figures["test"]["last"]["images"], float
            )
            for task, figures in finished
        }
        self.places = list(dict.fromkeys((task.cell, task.method) for task, _ in finished))

    def row(self, cell: str, method: str) -> Row:
        runs = self._of(cell, method)
        names = [*CHOICES, "given", "corrected", "net", "seconds"]
        values = {name: [float(getattr(run, name)) for run in runs] for name in names}
        row = Row(
            cell=cell,
            method=method,
            runs=len(runs),
            mean={name: _mean(column) for name, column in values.items()},
            sd={name: _sd(column) for name, column in values.items()},
            collapse=_mean([float(run.collapsed) for run in runs]),
        )
        pair = self._pair(cell, method)
        if method != self._baseline and pair is not None:
            interval = paired_bootstrap(*pair)
            row.difference, row.low, row.high = interval.difference, interval.low, interval.high
            row.p = wilcoxon(image_dice(pair[0]), image_dice(pair[1]))
        return row

    def rank(self, rows: Sequence[Row]) -> None:
        """Fill in ranks and adjusted p values, cell by cell."""
        for cell in dict.fromkeys(row.cell for row in rows):
            ranked = [row for row in rows if row.cell == cell and row.method not in self._bounds]
            if ranked:
                places = ranks([[row.mean["last"] for row in ranked]])[0]
                for row, place in zip(ranked, places, strict=True):
                    row.rank = float(place)
            compared = [row for row in ranked if not np.isnan(row.p)]
            for row, p in zip(compared, holm([row.p for row in compared]), strict=True):
                row.p_holm = p

    def overall(self, rows: Sequence[Row]) -> list[Overall]:
        """Return one entry a method, the best mean rank first."""
        methods = dict.fromkeys(row.method for row in rows)
        entries = [self._one([row for row in rows if row.method == name]) for name in methods]
        tested = [e for e in entries if not np.isnan(e.p) and e.method not in self._bounds]
        for entry, p in zip(tested, holm([entry.p for entry in tested]), strict=True):
            entry.p_holm = p
        return sorted(entries, key=lambda entry: (np.isnan(entry.rank), entry.rank))

    def _one(self, rows: Sequence[Row]) -> Overall:
        method = rows[0].method
        pairs = [
            (run.last, self.runs[cell, self._baseline, number].last)
            for (cell, name, number), run in self.runs.items()
            if name == method and (cell, self._baseline, number) in self.runs
        ]
        p = float("nan")
        if pairs and method != self._baseline:
            p = wilcoxon(*np.transpose(pairs))
        return Overall(
            method=method,
            cells=len(rows),
            runs=sum(row.runs for row in rows),
            dice=_mean([row.mean["last"] for row in rows]),
            difference=_mean([row.difference for row in rows]),
            rank=_mean([row.rank for row in rows]),
            p=p,
            p_holm=float("nan"),
            collapse=_mean([row.collapse for row in rows]),
            seconds=_mean([row.mean["seconds"] for row in rows]),
        )

    def _of(self, cell: str, method: str) -> list[Run]:
        return [run for (c, m, _), run in self.runs.items() if (c, m) == (cell, method)]

    def _pair(self, cell: str, method: str) -> tuple[Array, Array] | None:
        """Dice (seeds, images, classes) of a method and of the baseline, seeds that both have."""
        numbers = sorted(
            number
            for c, m, number in self.runs
            if (c, m) == (cell, method) and (cell, self._baseline, number) in self.runs
        )
        if not numbers:
            return None
        ours, theirs = (
            np.stack([self._images[cell, name, number] for number in numbers])
            for name in (method, self._baseline)
        )
        return ours, theirs


def _run(task: Task, figures: Mapping[str, Any]) -> Run:
    test, labels = figures["test"], figures["labels"]
    dice = {name: _number(test.get(name, {}).get("dice")) for name in CHOICES}
    label_names = ("given", "corrected", "fixed", "broken", "net")
    return Run(
        cell=task.cell,
        method=task.method,
        number=task.number,
        init_seed=figures["seeds"]["init"],
        data_seed=figures["seeds"]["data"],
        **dice,
        noisy_validation_epoch=_number(test.get("noisy_validation", {}).get("epoch")),
        oracle_epoch=_number(test["oracle"]["epoch"]),
        **{name: _number(labels.get(name)) for name in label_names},
        collapsed=figures["collapsed"],
        seconds=figures["seconds"]["all"],
        code=figures.get("code", ""),
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return statistics.fmean(known) if known else float("nan")


def _sd(values: Sequence[float]) -> float:
    """Standard deviation over seeds (n - 1); undefined for a single one."""
    known = [value for value in values if not np.isnan(value)]
    return statistics.stdev(known) if len(known) > 1 else float("nan")


def _verdicts(benchmark: Benchmark, rows: Sequence[Row]) -> list[Verdict]:
    if benchmark.targets is None:
        return []
    wanted = benchmark.targets
    return evaluate_targets(
        _cell_dice(benchmark, rows),
        ours=wanted.ours,
        references=wanted.references,
        bound=wanted.bound,
    )


def _cell_dice(benchmark: Benchmark, rows: Sequence[Row]) -> list[CellDice]:
    cells = []
    for cell in dict.fromkeys(row.cell for row in rows):
        of_cell = {row.method: row for row in rows if row.cell == cell}
        noisy = [row for row in of_cell.values() if not benchmark.methods[row.method].bound]
        corrected = {name: row.mean["corrected"] for name, row in of_cell.items()}
        cells.append(
            CellDice(
                cell=cell,
                dice={name: row.mean["last"] for name, row in of_cell.items()},
                given=_mean([row.mean["given"] for row in noisy]),
                corrected={name: dice for name, dice in corrected.items() if not np.isnan(dice)},
                biased=benchmark.cells[cell].biased,
            )
        )
    return cells
