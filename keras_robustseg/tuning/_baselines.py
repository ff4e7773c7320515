"""What a tuning is compared with: grid and random search at equal cost, and clean data alone."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keras_robustseg.classifiers._base import copied
from keras_robustseg.tuning._data import Data, fold_rows
from keras_robustseg.tuning._hyperparameter import SAMPLE_WEIGHT, Vector
from keras_robustseg.tuning._inner import fit_at
from keras_robustseg.tuning._problem import OuterProblem


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a search may cost: inner solves, or seconds of processor time.

    Args:
        solves: a number of inner solves, or None.
        seconds: processor time, or None.
    """

    solves: int | None = None
    seconds: float | None = None

    def allows(self, solves: int, seconds: float, next_solves: int) -> bool:
        """Whether one more candidate may be tried after so much was spent."""
        if self.solves is not None:
            return solves + next_solves <= self.solves
        return seconds < (self.seconds or 0.0)


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Args:
        values: name -> value of the best candidate, None where no candidate could be fitted.
        loss: its validation loss.
        candidates: how many were tried.
        solves: inner solves.
        seconds: processor time.
        note: what a reader has to know.
    """

    values: dict[str, np.ndarray] | None
    loss: float
    candidates: int
    solves: int
    seconds: float
    note: str = ""


def random_search(
    problem: OuterProblem, budget: Budget, tolerance: float | None, seed: int
) -> Search:
    """Try the start and then uniform draws of the free variables from their search ranges.

    Args:
        problem: the outer problem.
        budget: how much it may cost.
        tolerance: of the inner solves.
        seed: of the draws.
    """
    low, high = problem.vector.search_range()
    rng = np.random.default_rng(seed)

    def draws() -> Iterator[np.ndarray]:
        yield problem.vector.initial()
        while True:
            yield rng.uniform(low, high)

    return _search(problem, draws(), budget, tolerance, "uniform draws in the search ranges")


def grid_search(problem: OuterProblem, budget: Budget, tolerance: float | None) -> Search:
    """Try a grid over the search ranges, as fine as the budget allows.

    With more free variables than a grid can have axes (two points on each), all entries of a
    record move together; with more records than that, all records do.

    Args:
        problem: the outer problem.
        budget: how much it may cost; of seconds, a grid takes the points that random order gives
            it time for.
        tolerance: of the inner solves.
    """
    points = _grid_size(problem, budget, tolerance)
    axes, note = _grid_axes(problem.vector, points)
    each = max(2, int(np.floor(points ** (1 / len(axes)) + 1e-9)))
    low, high = problem.vector.search_range()
    places = np.stack(list(itertools.product(np.linspace(0, 1, each), repeat=len(axes))))
    order = np.random.default_rng(0).permutation(len(places))

    def candidates() -> Iterator[np.ndarray]:
        for place in places[order]:
            free = problem.vector.initial()
            for axis, share in zip(axes, place, strict=True):
                free[axis] = low[axis] + share * (high[axis] - low[axis])
            yield free

    return _search(problem, candidates(), budget, tolerance, f"{each} points on {note}")


def _grid_size(problem: OuterProblem, budget: Budget, tolerance: float | None) -> int:
    if budget.solves is not None:
        return max(2, budget.solves // len(problem.inners))
    one = problem.evaluate(problem.vector.initial(), tolerance, gradient=False)
    return max(2, min(10_000, int((budget.seconds or 0.0) / max(one.seconds, 1e-6))))


def _grid_axes(vector: Vector, points: int) -> tuple[list[np.ndarray], str]:
    """Free variables that move together, and what they are called."""
    entries = [np.array([i]) for i in range(vector.size)]
    if 2 ** min(len(entries), 60) <= points:
        return entries, "each hyper-parameter"
    records = [np.arange(where.start, where.stop) for where in vector.slices]
    if 2 ** min(len(records), 60) <= points:
        return records, "each record, whose entries move together"
    return [np.arange(vector.size)], "all hyper-parameters together"


def _search(
    problem: OuterProblem,
    candidates: Iterator[np.ndarray],
    budget: Budget,
    tolerance: float | None,
    note: str,
) -> Search:
    best, best_loss, tried, solves, seconds = None, np.inf, 0, 0, 0.0
    for free in candidates:
        if tried and not budget.allows(solves, seconds, len(problem.inners)):
            break
        found = problem.evaluate(free, tolerance, gradient=False)
        tried, solves, seconds = tried + 1, solves + found.solves, seconds + found.seconds
        if found.objective < best_loss:
            best, best_loss = free, found.objective
    values = None if best is None else problem.vector.values(best)
    loss = np.inf if best is None else problem.evaluate(best, tolerance, gradient=False).loss
    return Search(values, loss, tried, solves, seconds, note)


def validation_alone(
    estimator: Any, clean: Data, vector: Vector, *, points: int = 7, folds: int = 5, seed: int = 0
) -> Search:
    """Choose penalties for a training on the validation data alone, by folds of it.

    Weights are left out. The other hyper-parameters move together from the start to both ends of
    their search ranges; the loss is that of the folds held out.

    Args:
        estimator: copied.
        clean: the validation data.
        vector: the hyper-parameters.
        points: how many places are tried, the start among them.
        folds: folds of the validation data.
        seed: of the folds.
    """
    began = time.process_time()
    low, high = vector.search_range()
    start = vector.initial()
    shares = np.linspace(-1, 1, points)
    best, best_loss, solves = None, np.inf, 0
    for share in shares:
        end = high if share > 0 else low
        values = _without_weights(vector.values(start + abs(share) * (end - start)))
        losses = [
            _held_out_loss(estimator, clean, values, *rows)
            for rows in fold_rows(clean, min(folds, clean.weight.shape[0]), seed)
        ]
        solves += len(losses)
        if np.mean(losses) < best_loss:
            best, best_loss = values, float(np.mean(losses))
    note = "loss of folds held out" if best is not None else "no fold of the data can be fitted"
    return Search(best, best_loss, points, solves, time.process_time() - began, note)


def _held_out_loss(
    estimator: Any,
    clean: Data,
    values: Mapping[str, np.ndarray],
    train: np.ndarray,
    held_out: np.ndarray,
) -> float:
    """Loss on held-out rows, infinite where a class is missing in the others."""
    copy = copied(estimator)
    rest = clean.take(held_out)
    try:
        fit_at(copy, clean.take(train), values, None)
        return float(copy.validation_loss(rest.x, rest.y, rest.weight))
    except ValueError:
        return np.inf


def _without_weights(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in values.items() if name != SAMPLE_WEIGHT}
