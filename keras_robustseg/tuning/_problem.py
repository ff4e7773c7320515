"""The outer problem: validation loss of free variables, over one or several splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_robustseg.tuning._hyperparameter import Vector
from keras_robustseg.tuning._inner import Inner, Solution


class Evaluation(NamedTuple):
    """Loss at one point, mean over the splits, with the worst certificate of them.

    Args:
        loss: validation loss, without the pull.
        objective: with the pull.
        gradient: of the objective to the free variables; empty where none was asked for.
        status: worst `optimize.Status` as a number.
        residual: worst.
        adjoint_residual: worst.
        iterations: sum.
        solves: inner solves, and linear systems of derivatives, which count as one each.
        seconds: processor time.
    """

    loss: float
    objective: float
    gradient: np.ndarray
    status: int
    residual: float
    adjoint_residual: float
    iterations: int
    solves: int
    seconds: float


class OuterProblem:
    """Validation loss as a function of the free variables.

    Args:
        inners: one inner problem per split.
        vector: the hyper-parameters.
    """

    def __init__(self, inners: Sequence[Inner], vector: Vector) -> None:
        self.inners, self.vector = tuple(inners), vector
        self._start, self._pulls = vector.initial(), vector.pulls()

    def evaluate(
        self, free: np.ndarray, tolerance: float | None, gradient: bool = True
    ) -> Evaluation:
        """Solve all inner problems at a point."""
        values = self.vector.values(free)
        found = [inner.solve(values, tolerance, gradient) for inner in self.inners]
        loss = float(np.mean([one.loss for one in found]))
        away = free - self._start
        slope = self._mean_gradient(free, found) + self._pulls * away if gradient else np.zeros(0)
        return Evaluation(
            loss,
            loss + float(self._pulls @ away**2) / 2,
            slope,
            max(one.status for one in found),
            max(one.residual for one in found),
            max(one.adjoint_residual for one in found),
            sum(one.iterations for one in found),
            len(found) * (2 if gradient else 1),
            sum(one.seconds for one in found),
        )

    def _mean_gradient(self, free: np.ndarray, found: Sequence[Solution]) -> np.ndarray:
        slopes = [self.vector.pull_back(free, one.gradients) for one in found]
        return np.mean(slopes, axis=0)
