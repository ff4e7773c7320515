"""What `robustseg benchmark` does: list a grid, tell its cost, run it, print its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keras_robustseg.benchmark import Benchmark, Results, load_benchmark, markdown, tasks
from keras_robustseg.benchmark._results import collect
from keras_robustseg.benchmark._run import duration, run_benchmark
from keras_robustseg.benchmark._store import CellStore, expected_seconds, unfinished
from keras_robustseg.benchmark._tables import write_tables

Say = Callable[[str], None]


def default_folder(benchmark: Benchmark) -> Path:
    """Return where a benchmark goes without `--out`."""
    return Path("runs") / "benchmarks" / benchmark.name


def list_cells(name: str, out: Path | None, *, profile: str, only: str | None, say: Say) -> None:
    """Print every run of a profile: finished or not, the name of its file, its label.

    Raises:
        RecipeError: the file, the profile, the expression or a recipe is wrong.
    """
    benchmark = load_benchmark(name)
    store = CellStore(out or default_folder(benchmark))
    wanted = tasks(benchmark, profile, only=only)
    done = store.read_all(wanted)
    for task in wanted:
        say(f"{'done' if task.key in done else 'to do':<6} {task.key}  {task.label}")
    say(f"{sum(task.key in done for task in wanted)} of {len(wanted)} are finished")


def tell_cost(
    name: str, out: Path | None, *, profile: str, only: str | None, jobs: int, say: Say
) -> None:
    """Print how many runs there are, how many are to do, and about how long they will take.

    Raises:
        RecipeError: as `list_cells`.
    """
    benchmark = load_benchmark(name)
    store = CellStore(out or default_folder(benchmark))
    every, wanted = tasks(benchmark, profile), tasks(benchmark, profile, only=only)
    done = store.read_all(every)
    todo = unfinished(wanted, done)
    seconds = expected_seconds(todo, every, done, minutes=benchmark.minutes)
    basis = "by the runs that are finished" if done else f"at {benchmark.minutes:g} min a run"
    same = len({task.key for task in wanted})
    say(f"profile {profile}: {len(wanted)} runs, {len(wanted) - same} of them the same as others")
    say(f"to train: {len(todo)}, about {duration(seconds)} of one core {basis}")
    say(f"with --jobs {jobs}: about {duration(seconds / max(jobs, 1))}")


def run(
    name: str, out: Path | None, *, profile: str, only: str | None, jobs: int, say: Say
) -> Results:
    """Train what is not finished, write the tables and print them.

    Raises:
        RecipeError: as `list_cells`.
        StateError: another process works in the folder, or it cannot be written.
        StopRequested: on SIGTERM or Ctrl-C.
    """
    benchmark = load_benchmark(name)
    folder = out or default_folder(benchmark)
    results = run_benchmark(benchmark, folder, profile=profile, only=only, jobs=jobs, say=say)
    say(f"\n{markdown(results)}\nwritten: {folder}")
    return results


def report(name: str, out: Path | None, *, profile: str, say: Say) -> Results:
    """Write and print the tables of what is finished; nothing is trained.

    Raises:
        RecipeError: as `list_cells`.
        StateError: the folder cannot be written.
    """
    benchmark = load_benchmark(name)
    folder = out or default_folder(benchmark)
    every = tasks(benchmark, profile)
    results = collect(benchmark, profile, every, CellStore(folder).read_all(every))
    write_tables(results, folder)
    say(f"{markdown(results)}\nwritten: {folder}")
    return results
