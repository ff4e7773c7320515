"""Processes that train cells side by side: each keeps TensorFlow loaded and computes on one core.

What a cell gives depends on its recipe alone, so it does not matter which process trains it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from keras_robustseg.benchmark._store import CellStore
from keras_robustseg.benchmark._tasks import Task

# Graphs that were traced stay with their process: it is replaced after so many cells.
CELLS_A_PROCESS = 25
_WAIT = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `error` is None where its figures are on the disk."""

    task: Task
    error: str | None


def run_here(tasks: Sequence[Task], folder: Path) -> Iterator[Outcome]:
    """Train tasks in this process, one after the other."""
    for task in tasks:
        yield Outcome(task, _trained(task.key, task.recipe.resolved(), folder))


def run_side_by_side(
    tasks: Sequence[Task], folder: Path, *, jobs: int, stopped: Callable[[], bool]
) -> Iterator[Outcome]:
    """Train tasks in `jobs` processes; yield each as it ends, in any order.

    Args:
        tasks: what to train, started in this order.
        folder: the benchmark's folder.
        jobs: processes.
        stopped: asked twice a second; once it says True, the processes are ended and cells that
            are not finished are lost.
    """
    pending = list(reversed(tasks))
    workers = [_Worker(folder) for _ in range(min(jobs, len(pending)))]
    try:
        while not stopped() and (pending or any(worker.task for worker in workers)):
            for worker in workers:
                if worker.task is None and pending:
                    worker.give(pending.pop())
            ready = wait([worker.channel for worker in workers if worker.task], timeout=_WAIT)
            yield from [worker.take() for worker in workers if worker.channel in ready]
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, started anew when it has died or trained many cells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.task: Task | None = None
        self._start()

    def _start(self) -> None:
        # A fresh interpreter: a fork of a process that has loaded TensorFlow hangs.
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._folder), daemon=True)
        self._process.start()
        theirs.close()
        self._cells = 0

    def give(self, task: Task) -> None:
        """Start a task."""
        if self._cells >= CELLS_A_PROCESS or not self._process.is_alive():
            self.end()
            self._start()
        self.task = task
        self.channel.send((task.key, task.recipe.resolved()))

    def take(self) -> Outcome:
        """Return how the task that has ended did so."""
        task, self.task = self.task, None
        assert task is not None
        self._cells += 1
        try:
            return Outcome(task, self.channel.recv())
        except EOFError:
            self._process.join()
            return Outcome(task, f"its process ended with code {self._process.exitcode}")

    def end(self) -> None:
        """End the process."""
        self.channel.close()
        self._process.terminate()
        self._process.join()


def _serve(channel: Connection, folder: Path) -> None:
    """Train what comes through the channel, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    use_one_core()
    while True:
        try:
            key, values = channel.recv()
        except EOFError:
            return
        channel.send(_trained(key, values, folder))


def use_one_core() -> None:
    """Let TensorFlow compute on one core of this process; to be called before it has computed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["OMP_NUM_THREADS"] = "1"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _trained(key: str, values: dict[str, Any], folder: Path) -> str | None:
    """Train a cell and write its figures; return what went wrong."""
    from keras_robustseg.benchmark._cell import run_cell

    try:
        CellStore(folder).write(key, values, run_cell(values))
    except Exception as error:  # whatever it is, the other cells go on
        return f"{type(error).__name__}: {error}"
    return None
