"""The inner problem: fit an estimator at given hyper-parameters, and ask for its hypergradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from keras_robustseg.classifiers._base import copied
from keras_robustseg.tuning._data import Data
from keras_robustseg.tuning._hyperparameter import SAMPLE_WEIGHT


class TunableEstimator(Protocol):
    """What the tuner asks of an estimator; all of `keras_robustseg.classifiers` have it.

    `get_params`, `set_params` and `fit` are scikit-learn's. After `fit`, `validation_loss` is a
    smooth loss, `hypergradient` its derivative to named hyper-parameters, `solve_info_` the
    certificate of the fit and `hypergradient_info_` that of the derivative. Arguments `tol` and
    `warm_start` are used where the constructor has them.
    """

    solve_info_: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor."""

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to labelled pixels."""

    def validation_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return a smooth loss."""

    def hypergradient(self, *validation: Any, names: Any = None) -> dict[str, np.ndarray]:
        """Return name -> derivative of the loss."""


Differentiate = Callable[[Any, Data, Data, tuple[str, ...]], dict[str, np.ndarray]]
"""(fitted estimator, training data, validation data, names) -> hypergradients."""


class Solution(NamedTuple):
    """What one solve of an inner problem says.

    Args:
        loss: validation loss.
        gradients: name -> hypergradient; empty where none was asked for.
        status: worst `optimize.Status` of the fit and of the derivative, as a number.
        residual: of the fit.
        adjoint_residual: relative residual of the derivative's linear system.
        iterations: of the fit.
        seconds: processor time.
    """

    loss: float
    gradients: dict[str, np.ndarray]
    status: int
    residual: float
    adjoint_residual: float
    iterations: int
    seconds: float


def implicit(
    estimator: Any, train: Data, validation: Data, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Return the hypergradient that the estimator derives from its optimality conditions."""
    del train  # the estimator remembers what it was fitted to
    return estimator.hypergradient(validation.x, validation.y, validation.weight, names=names)


class Inner:
    """One split of the data, with an estimator that is fitted to it again and again.

    Args:
        estimator: copied; the copy is warm-started where it can be.
        train: what it is fitted to.
        validation: what it is judged by.
        rows: which rows of the whole training data `train` is, for weights per sample.
        per_annotator: whether tuned weights are one per annotator, else one per sample.
        differentiate: how the hypergradient is computed.
    """

    def __init__(
        self,
        estimator: Any,
        train: Data,
        validation: Data,
        rows: np.ndarray,
        per_annotator: bool,
        differentiate: Differentiate = implicit,
    ) -> None:
        self.estimator = copied(estimator)
        self.train, self.validation, self.rows = train, validation, rows
        self.per_annotator, self.differentiate = per_annotator, differentiate
        if "warm_start" in self.estimator.get_params(deep=False):
            self.estimator.set_params(warm_start=True)

    def solve(
        self, values: Mapping[str, np.ndarray], tolerance: float | None, gradient: bool = True
    ) -> Solution:
        """Fit at given values, to a tolerance, and return loss and hypergradients."""
        began = time.process_time()
        train = self.train._replace(weight=self.weights(values))
        fit_at(self.estimator, train, values, tolerance)
        val = self.validation
        loss = float(self.estimator.validation_loss(val.x, val.y, val.weight))
        gradients = self._gradients(train, values) if gradient else {}
        status, residual, iterations = _figures(self.estimator.solve_info_)
        adjoint_status, adjoint = 0, np.nan
        if gradient and getattr(self.estimator, "hypergradient_info_", None) is not None:
            adjoint_status, adjoint, _ = _figures(self.estimator.hypergradient_info_)
        return Solution(
            loss,
            gradients,
            max(status, adjoint_status),
            residual,
            adjoint,
            iterations,
            time.process_time() - began,
        )

    def weights(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the weights of the training data at given values."""
        if SAMPLE_WEIGHT not in values:
            return self.train.weight
        return self.train.weight * values[SAMPLE_WEIGHT][self._entries()]

    def _entries(self) -> np.ndarray:
        """Which entry of the tuned weights each pixel or row has."""
        annotator = self.train.annotator
        return annotator if self.per_annotator and annotator is not None else self.rows

    def _gradients(self, train: Data, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(self.differentiate(self.estimator, train, self.validation, tuple(values)))
        if SAMPLE_WEIGHT in values:
            of_weights = found[SAMPLE_WEIGHT] * self.train.weight
            found[SAMPLE_WEIGHT] = np.zeros(values[SAMPLE_WEIGHT].shape)
            np.add.at(found[SAMPLE_WEIGHT], self._entries(), of_weights)
        return found


def fit_at(
    estimator: Any, train: Data, values: Mapping[str, np.ndarray], tolerance: float | None
) -> Any:
    """Fit an estimator at given values of its hyper-parameters; weights are in `train`."""
    arguments = {
        name: value if value.ndim else float(value)
        for name, value in values.items()
        if name != SAMPLE_WEIGHT
    }
    if tolerance is not None and "tol" in estimator.get_params(deep=False):
        arguments["tol"] = tolerance
    return estimator.set_params(**arguments).fit(train.x, train.y, train.weight)


def _figures(info: Any) -> tuple[int, float, int]:
    """Worst status, residual and iterations of a certificate, which may have one per class."""
    measured = (
        np.max(np.asarray(getattr(info, name, np.nan), dtype=np.float64))
        for name in ("adjoint_residual", "relative_residual", "residual")
    )
    residual = next((float(value) for value in measured if not np.isnan(value)), np.nan)
    return int(np.max(np.asarray(info.status))), residual, int(np.max(np.asarray(info.iterations)))
