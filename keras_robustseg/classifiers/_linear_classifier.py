"""Linear classifiers of pixels: what does not depend on the loss."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from keras_robustseg.classifiers._active_rows import minimize_by_rows
from keras_robustseg.classifiers._base import CoefficientGradient, PixelClassifier
from keras_robustseg.classifiers._chain import (
    PENALTIES,
    PIXELWISE,
    penalty_gradients,
    pixel_gradients,
)
from keras_robustseg.classifiers._design import in_memory
from keras_robustseg.classifiers._fitted import Fitted, SmoothFit
from keras_robustseg.classifiers._losses import Softmax
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._penalty import Penalty, read_penalty
from keras_robustseg.classifiers._reading import check_finite, read_features, read_labels
from keras_robustseg.classifiers._risk_fit import minimize_risk
from keras_robustseg.classifiers._training_set import TrainingSet, from_arrays, from_blocks
from keras_robustseg.optimize import SolveInfo, Status, describe
from keras_robustseg.risk import RiskMeasure

if TYPE_CHECKING:
    import keras

REDUCTIONS = ("mean", "weighted_mean", "sum")


class Solved(NamedTuple):
    """Answer of a fit.

    Args:
        V: (P, K) coefficients, with the intercept in the last row where there is one.
        info: certificate.
        fitted: what can be differentiated, or None.
    """

    V: np.ndarray
    info: SolveInfo
    fitted: Fitted | None


class LinearPixelClassifier(PixelClassifier):
    """A classifier by scores that are linear in the features.

    `coef_` is (K, F) and `intercept_` (K,), K = C, or 1 for two classes with one score.
    """

    coef_: np.ndarray
    intercept_: np.ndarray
    hypergradient_info_: SolveInfo
    _fitted: Fitted | None
    _adjoint: np.ndarray | None = None
    l2: Any
    l1: Any
    group: Any
    groups: Any
    feature_penalty: Any
    class_weight: Any
    fit_intercept: bool
    reduction: str
    risk: Any
    tol: float
    max_iter: int
    warm_start: bool

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to labelled pixels; see `PixelClassifier.fit`."""
        self._check()
        training = from_arrays(X, y, sample_weight, self.class_weight, self.fit_intercept)
        return self._solve(training)

    @abc.abstractmethod
    def _check(self) -> None:
        """Refuse arguments of the constructor that are wrong by themselves."""

    @abc.abstractmethod
    def _columns(self, classes: int) -> int:
        """Number K of scores."""

    @abc.abstractmethod
    def _minimize(
        self, training: TrainingSet, penalty: Penalty, divisor: float, start: np.ndarray
    ) -> Solved:
        """Solve the problem."""

    def fit_blocks(self, blocks: Any, classes: Sequence[int] | None = None) -> Self:
        """Fit to pixels that come in blocks and are never held at once.

        The answer is that of `fit` on all of them together. Every pass of the solver reads all
        blocks once; there are some ten. `hypergradient` then gives what belongs to no pixel.

        Args:
            blocks: of (X, y) or (X, y, sample_weight): a list, a `tf.data.Dataset` or any object
                that can be iterated many times, or a function that returns a fresh iterator.
            classes: ids of the classes; None to look for them, in one more pass.

        Raises:
            ValueError: as `fit`; blocks can be read only once.

        Example:
            `PixelLogisticRegression().fit_blocks([(X[:500], y[:500]), (X[500:], y[500:])])`
        """
        self._check()
        return self._solve(from_blocks(blocks, classes, self.class_weight, self.fit_intercept))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores, (...,) of the second class when there are two, else (..., C)."""
        x, shape = self._features(X)
        scores = np.asarray(x @ self.coef_.T) + self.intercept_
        if len(self.classes_) > 2:
            return scores.reshape(*shape, scores.shape[1])
        margin = scores[:, -1] - (scores[:, 0] if scores.shape[1] == 2 else 0.0)
        return margin.reshape(shape)

    def validation_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean cross-entropy of the softmax of the scores."""
        return self._validation(X, y, sample_weight).gradient(self._V)[0]

    def hypergradient(
        self, *validation: Any, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the gradient of a validation loss; see `PixelClassifier.hypergradient`."""
        chosen = self._chosen(names)
        V, start = self._V, self._adjoint if self.warm_start else None
        gradient = self._validation_gradient(validation)
        assert self._fitted is not None
        U, self.hypergradient_info_ = self._fitted.adjoint(V, gradient, start)
        self._adjoint = U
        self._warn(self.hypergradient_info_, "Hypergradient", stacklevel=3)
        features = self.n_features_in_
        found = self._penalty_gradients(self._fitted.penalty, V[:features], U[:features], chosen)
        if set(chosen) & set(PIXELWISE):
            found |= self._pixel_gradients(U, chosen)
        return {name: found[name] for name in chosen}

    def hypergradient_of_scores(
        self, X: Any, to_scores: np.ndarray, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the hypergradient of any loss of the scores, from its gradient to them.

        Args:
            X: (N, F) or (B, *S, F).
            to_scores: (..., C) derivative of the loss to the score of each class at each pixel; of
                two classes the second counts, whose score is that of `decision_function`.
            names: as in `hypergradient`.

        Raises:
            ValueError: as `hypergradient`.
        """
        x, _ = self._features(X)
        slope = np.reshape(to_scores, (x.shape[0], -1))
        if len(self.classes_) == 2:
            slope = slope[:, 1:] if len(self.coef_) == 1 else slope[:, 1:] * [-1.0, 1.0]
        gradient = CoefficientGradient(np.asarray((x.T @ slope).T), slope.sum(axis=0))
        return self.hypergradient(gradient, names=names)

    def as_layer(self, name: str | None = None) -> keras.layers.Layer:
        """Return a `keras.layers.Dense` (..., F) -> (..., C) of scores with the fitted weights."""
        import keras

        self._require_fit()
        kernel, bias = self.coef_.T, self.intercept_
        if kernel.shape[1] == 1:
            kernel, bias = np.hstack([np.zeros_like(kernel), kernel]), np.append(0.0, bias)
        layer = keras.layers.Dense(len(self.classes_), name=name)
        layer.build((None, self.n_features_in_))
        layer.set_weights([kernel, bias])
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """Leave the training data out of pickles and copies: they predict, and have no gradient."""
        state = dict(self.__dict__)
        if "_fitted" in state:
            nothing = {"_fitted": None, "_training": None, "_adjoint": None}
            state |= {**nothing, "hyperparameters_": ()}
        return state

    # What fit and hypergradient are made of -------------------------------------------------

    def _minimize_smooth(self, objective: Objective, start: np.ndarray) -> Solved:
        """Solve a problem whose loss is smooth, by the mean or another risk over pixels."""
        if self.risk is None:
            V, info = minimize_by_rows(objective, start, self.tol, self.max_iter)
            return Solved(V, info, SmoothFit(objective))
        if not isinstance(self.risk, RiskMeasure):
            raise TypeError(
                f"Expected risk to be a measure of keras_robustseg.risk. Received: {self.risk!r}"
            )
        if not objective.penalty.smooth:
            raise ValueError(
                "A risk other than the mean goes with the l2 penalty alone. Expected l1=0, group=0 "
                "and wasserstein_radius=0, or risk=None."
            )
        return Solved(*minimize_risk(objective, self.risk, start, self.tol, self.max_iter), None)

    def _solve(self, training: TrainingSet) -> Self:
        features = training.pixels.rows - self.fit_intercept
        columns = self._columns(len(training.classes))
        penalty = self._read_penalty(features, columns)
        start = self._start(training.pixels.rows, columns)
        solved = self._minimize(training, penalty, self._divisor(training), start)
        self.classes_, self.n_features_in_ = training.classes, features
        self.coef_ = np.ascontiguousarray(solved.V[:features].T)
        self.intercept_ = solved.V[features].copy() if self.fit_intercept else np.zeros(columns)
        self.solve_info_, self._fitted, self._training = solved.info, solved.fitted, training
        self.hyperparameters_ = self._known(training) if solved.fitted else ()
        self._warn(self.solve_info_, "Fit", stacklevel=4)
        return self

    def _chosen(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Names asked for; refuse those that this fit has no derivative for."""
        self._require_fit()
        if self._fitted is None and self.risk is not None:
            raise ValueError(
                f"A fit with risk={self.risk!r} has no hypergradient: its optimality conditions "
                "are differentiated for the mean over pixels alone. Expected risk=None, or a "
                "search over settings such as scikit-learn's GridSearchCV."
            )
        chosen = self.hyperparameters_ if names is None else tuple(names)
        unknown = [name for name in chosen if name not in self.hyperparameters_]
        if unknown or self._fitted is None:
            raise ValueError(
                f"This fit has no hypergradient for {unknown or list(chosen)}. "
                f"Expected some of {list(self.hyperparameters_)}."
            )
        return chosen

    def _read_penalty(self, features: int, columns: int) -> Penalty:
        given = (self.l1, self.l2, self.group, self.groups, self.feature_penalty)
        return read_penalty(features, columns, self.fit_intercept, *given)

    def _penalty_gradients(
        self, penalty: Penalty, W: np.ndarray, U: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        return penalty_gradients(penalty, W, U, self.get_params(False), names)

    def _pixel_gradients(self, U: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        assert self._fitted is not None
        assert self._training.labels is not None
        mean = self.reduction == "weighted_mean"
        masses, tangent = (
            self._fitted.mass_gradient(self._V, U, normalized, mean) for normalized in (False, True)
        )
        labels, factors = self._training.labels, self._training.class_weight
        return pixel_gradients(masses, tangent, labels, factors, names)

    def _known(self, training: TrainingSet) -> tuple[str, ...]:
        ordered = tuple(
            name for name in PENALTIES if name not in ("l1", "group") or np.any(getattr(self, name))
        )
        return ordered if training.labels is None else ordered + PIXELWISE

    def _divisor(self, training: TrainingSet) -> float:
        if self.reduction == "sum":
            return 1.0
        if self.reduction == "mean":
            return float(training.pixels.size)
        return float(training.pixels.class_masses.sum())

    def _start(self, rows: int, columns: int) -> np.ndarray:
        """Coefficients of the last fit, if it is to begin there and they fit, or zeros."""
        if self.warm_start and hasattr(self, "coef_"):
            V = self._V
            if V.shape == (rows, columns) and np.isfinite(V).all():
                return V
        return np.zeros((rows, columns))

    @property
    def _V(self) -> np.ndarray:
        self._require_fit()
        return np.vstack([self.coef_.T, self.intercept_] if self.fit_intercept else [self.coef_.T])

    def _validation_gradient(self, validation: tuple[Any, ...]) -> np.ndarray:
        if len(validation) == 1:
            given = validation[0]
            if isinstance(given, CoefficientGradient):
                return self._stacked(given)
            validation = tuple(given)
        if len(validation) not in (2, 3):
            raise ValueError(
                "Expected X, y and maybe sample_weight, or a CoefficientGradient. "
                f"Received {len(validation)} parts."
            )
        return self._validation(*validation).gradient(self._V)[1]

    def _stacked(self, given: CoefficientGradient) -> np.ndarray:
        coef, intercept = np.asarray(given.coef, float), np.asarray(given.intercept, float)
        if coef.shape != self.coef_.shape or intercept.shape != self.intercept_.shape:
            raise ValueError(
                f"Expected a gradient of shapes {self.coef_.shape} and {self.intercept_.shape}. "
                f"Received: {coef.shape} and {intercept.shape}"
            )
        return np.vstack([coef.T, intercept] if self.fit_intercept else [coef.T])

    def _validation(self, X: Any, y: Any, sample_weight: Any = None) -> Objective:
        """The mean cross-entropy of labelled pixels as a function of V."""
        x, shape = self._features(X)
        labels = read_labels(y, shape, sample_weight, self.classes_)
        if not labels.counted.any():
            raise ValueError("The validation data have no pixel that counts.")
        x, masses = x[labels.counted], labels.masses[labels.counted]
        check_finite(x)
        pixels = in_memory(x, masses, self.fit_intercept)
        columns = len(self.coef_)
        none = read_penalty(x.shape[1], columns, self.fit_intercept, 0.0, 0.0, 0.0, None, None)
        return Objective(Softmax(), pixels, float(masses.sum()), none)

    def _features(self, X: Any) -> tuple[Any, tuple[int, ...]]:
        self._require_fit()
        return read_features(X, self.n_features_in_)

    def _require_fit(self) -> None:
        if not hasattr(self, "coef_"):
            raise ValueError(f"This {type(self).__name__} is not fitted yet. Call `fit` first.")

    def _check_common(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                f"Expected reduction to be one of {REDUCTIONS}. Received: {self.reduction!r}"
            )
        if not self.tol > 0 or not self.max_iter >= 1:
            raise ValueError(
                f"Expected tol > 0 and max_iter >= 1. Received: {self.tol}, {self.max_iter}"
            )

    def _warn(self, info: SolveInfo, what: str, stacklevel: int) -> None:
        if info.status != Status.OK:
            text = f"{what} of {type(self).__name__}: {describe(info)}."
            warnings.warn(text, RuntimeWarning, stacklevel=stacklevel)
