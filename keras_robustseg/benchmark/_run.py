"""Run a benchmark: what is not finished is trained, and the tables are written again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_robustseg.benchmark._file import Benchmark
from keras_robustseg.benchmark._results import Results, collect
from keras_robustseg.benchmark._store import CellStore, expected_seconds, unfinished
from keras_robustseg.benchmark._tables import write_tables
from keras_robustseg.benchmark._tasks import Task, tasks
from keras_robustseg.benchmark._workers import Outcome, run_here, run_side_by_side
from keras_robustseg.training import RunLock, StopRequested, StopSignals


def run_benchmark(
    benchmark: Benchmark,
    out: str | Path,
    *,
    profile: str = "core",
    only: str | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> Results:
    """Train the cells of a benchmark that are not finished, and write its tables.

    Each finished cell is a file that appears whole; a benchmark that was stopped or killed goes
    on where it was, and a changed recipe trains again only the cells that it changes.

    Args:
        benchmark: the benchmark.
        out: its folder.
        profile: which part of the grid.
        only: regular expression; only tasks `cell/method/s0` that it is found in are trained. The
            tables have all that is finished.
        jobs: processes side by side, each on one core; 0 trains in this process.
        say: where lines about the progress go.

    Returns:
        The results, as `results.json` has them; `failed` tells which cells could not be trained.

    Raises:
        RecipeError: a profile, expression or recipe is wrong.
        StateError: another process works in the folder, or it cannot be written.
        StopRequested: SIGTERM or Ctrl-C; finished cells are kept.

    Example:
        `run_benchmark(load_benchmark("noise_grid"), "runs/noise_grid", only="/s0$", jobs=2)`
    """
    every, wanted = tasks(benchmark, profile), tasks(benchmark, profile, only=only)
    out = Path(out)
    failed: dict[str, str] = {}
    with RunLock(out), StopSignals() as stop:
        store = CellStore(out)
        done = store.read_all(every)
        todo = unfinished(wanted, done)
        say(f"{len(wanted)} cells, {len(todo)} to train, {jobs} side by side")
        ended = (
            run_side_by_side(todo, out, jobs=jobs, stopped=lambda: stop.requested)
            if jobs
            else run_here(todo, out)
        )
        clock = _Clock(todo, every, done, benchmark.minutes, max(jobs, 1))
        for outcome in ended:
            if outcome.error is None:
                done[outcome.task.key] = store.read(outcome.task.key) or {}
            else:
                failed[outcome.task.label] = outcome.error
            say(clock.line(outcome))
        results = collect(benchmark, profile, every, done, failed=failed)
        write_tables(results, out)
    if stop.requested:
        raise StopRequested(f"stopped on request; the same command goes on with {out}")
    return results


class _Clock:
    """Says of each cell that ends what came out, and how long the rest will take."""

    def __init__(
        self,
        todo: Sequence[Task],
        every: Sequence[Task],
        done: dict[str, dict[str, Any]],
        minutes: float,
        jobs: int,
    ) -> None:
        self._left = {task.key: task for task in todo}
        self._every, self._done, self._minutes, self._jobs = every, done, minutes, jobs
        self._total, self._begun = len(todo), time.monotonic()

    def line(self, outcome: Outcome) -> str:
        """Return the line about a cell that has just ended."""
        self._left.pop(outcome.task.key)
        left = list(self._left.values())
        rest = expected_seconds(left, self._every, self._done, minutes=self._minutes)
        return (
            f"[{self._total - len(left)}/{self._total}] {outcome.task.label}  "
            f"{self._summary(outcome)}  {duration(time.monotonic() - self._begun)} gone, "
            f"about {duration(rest / self._jobs)} left"
        )

    def _summary(self, outcome: Outcome) -> str:
        if outcome.error is not None:
            return f"FAILED: {outcome.error}"
        figures = self._done[outcome.task.key]
        last, seconds = figures["test"]["last"]["dice"], figures["seconds"]["all"]
        dice = "no Dice" if last is None else f"Dice {last:.4f}"
        return f"{dice}  {seconds:.0f} s"


def duration(seconds: float) -> str:
    """Return a time in words: `40 s`, `12 min`, `3 h 20 min`.

    Example:
        `duration(3700)  # "1 h 2 min"`
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
