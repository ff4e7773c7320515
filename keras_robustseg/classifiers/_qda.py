"""Quadratic and linear discriminant analysis whose precision matrices know of noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy.special import softmax

from keras_robustseg.classifiers._base import PixelClassifier
from keras_robustseg.classifiers._gaussian import Gaussians, Moments, mass_gradient, moments
from keras_robustseg.classifiers._precision import KINDS, Penalties, estimate, gradient
from keras_robustseg.classifiers._reading import (
    Labels,
    check_classes,
    check_finite,
    read_features,
    read_labels,
)
from keras_robustseg.optimize import SolveInfo, Status
from keras_robustseg.optimize._info import warn_unless_ok

if TYPE_CHECKING:
    import keras

_OF_KIND = {"robust": ("sigma2", "nuclear", "l1"), "glasso": ("l1",), "empirical": ()}


class _Fit(NamedTuple):
    """What the hypergradient needs of a fit."""

    x: np.ndarray
    labels: Labels
    moments: Moments
    covariances: np.ndarray
    precisions: np.ndarray
    penalties: list[Penalties]
    arguments: dict[str, Any]


class PixelQDA(PixelClassifier):
    """Gaussian classes with means m_k, precision matrices P_k and priors.

        score_k(x) = logdet P_k / 2 - (x - m_k)^T P_k (x - m_k) / 2 + log prior_k

    P_k minimises logdet(P^-1 + sigma2 I) + tr((I + sigma2 P)^-1 P S_k) + nuclear tr P
    + l1 sum over i != j of |P_ij|, S_k the covariance of the class (Benfenati, Chouzenoux, Pesquet,
    Signal Processing 169, 2020). sigma2 is the variance of noise that the features of the training
    pixels have and those to be classified do not: P_k is that of the clean features.

    Args:
        precision: "robust", the model above; "glasso", the same with sigma2 = nuclear = 0;
            "empirical", the inverse of S_k.
        sigma2: noise variance, in squared units of the features; a number, or one per class (C,).
        nuclear: penalty of the trace; a number, or (C,). "robust" needs it above 0 where a
            direction of S_k has a variance below sigma2.
        l1: penalty of the entries off the diagonal; a number, or (C,).
        shared_covariance: one matrix for all classes, which makes the classifier linear (LDA).
        priors: (C,) probabilities of the classes; None for their shares of the mass.
        tol: of the solve of P.
        max_iter: iterations of it at most.

    Attributes:
        means_: (C, F).
        covariance_: (C, F, F), or (1, F, F) where it is shared.
        precision_: of the same shape.
        priors_: (C,).

    Raises:
        ValueError: in `fit`, a class is empty or too small for its covariance (it is named), or an
            argument means nothing.

    Example:
        ```python
        qda = PixelQDA("robust", sigma2=0.2, nuclear=1e-3, l1=1e-2).fit(features, masks)
        qda.predict_proba(clean_features)
        ```
    """

    def __init__(
        self,
        precision: str = "robust",
        *,
        sigma2: Any = 0.0,
        nuclear: Any = 1e-3,
        l1: Any = 1e-3,
        shared_covariance: bool = False,
        priors: Any = None,
        tol: float = 1e-8,
        max_iter: int = 200,
    ) -> None:
        self.precision = precision
        self.sigma2 = sigma2
        self.nuclear = nuclear
        self.l1 = l1
        self.shared_covariance = shared_covariance
        self.priors = priors
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Estimate means, covariances, precision matrices and priors.

        Args:
            X: (N, F) or (B, *S, F); sparse ones are made dense.
            y: class ids (N,) or (B, *S), negative for void; or soft labels with a last axis C.
            sample_weight: not negative, of the shape of the ids; None for 1.

        Raises:
            ValueError: see the class.
        """
        x, labels = self._read(X, y, sample_weight, None)
        check_classes(labels.classes, labels.masses.sum(axis=0))
        self._check_counts(labels)
        of = moments(x[labels.counted], labels.masses[labels.counted])
        covariances = self._covariances(of, labels.classes)
        penalties = self._penalties(len(labels.classes))
        found = [
            estimate(self.precision, covariance, each, self.tol, self.max_iter)
            for covariance, each in zip(covariances, penalties, strict=True)
        ]
        precisions = np.stack([matrix for matrix, _ in found])
        self.classes_, self.n_features_in_ = labels.classes, x.shape[1]
        self.means_, self.covariance_, self.precision_ = of.means, covariances, precisions
        self.priors_ = _priors(self.priors, of.masses)
        self.solve_info_ = _stacked([info for _, info in found])
        self.hyperparameters_ = (*_OF_KIND[self.precision], "sample_weight")
        self._fit: _Fit | None = _Fit(
            x, labels, of, covariances, precisions, penalties, self.get_params(deep=False)
        )
        warn_unless_ok(self.solve_info_, f"PixelQDA(precision={self.precision!r})")
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return log posteriors up to a constant of the pixel, (..., C); of two, the difference."""
        scores = self._scores(X)
        return scores[..., 1] - scores[..., 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, (..., C)."""
        return softmax(self._scores(X), axis=-1)

    def validation_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the weighted mean cross-entropy.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            sample_weight: as in `fit`.
        """
        return self._gaussians().loss(*self._validation(X, y, sample_weight))

    def hypergradient(
        self, *validation: Any, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the gradient of `validation_loss` to the hyper-parameters of the last fit.

        Args:
            validation: `X, y` or `X, y, sample_weight`, also as one tuple.
            names: out of `hyperparameters_`; None for all of them.

        Returns:
            name -> array of the shape of the argument; "sample_weight" of the shape of the ids,
            0 where a pixel did not count.

        Raises:
            ValueError: not fitted, or an unknown name.
        """
        chosen = self._chosen(names)
        parts = validation[0] if len(validation) == 1 else validation
        if not isinstance(parts, (tuple, list)) or len(parts) not in (2, 3):
            raise ValueError("Expected validation data X, y or X, y, sample_weight.")
        return self._through(self._gaussians().loss_gradient(*self._validation(*parts)), chosen)

    def hypergradient_of_scores(
        self, X: Any, to_scores: np.ndarray, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the hypergradient of any loss of the scores, from its gradient to them.

        Args:
            X: (N, F) or (B, *S, F).
            to_scores: (..., C) derivative of the loss to the score of each class at each pixel.
            names: as in `hypergradient`.

        Raises:
            ValueError: as `hypergradient`.
        """
        chosen = self._chosen(names)
        x, _ = read_features(X, self.n_features_in_)
        slopes = self._gaussians().pulled_back(x, to_scores.reshape(len(x), -1))
        return self._through(slopes, chosen)

    def as_layer(self, name: str | None = None) -> keras.layers.Layer:
        """Return a Keras layer (..., F) -> (..., C) of the scores."""
        from keras_robustseg.classifiers._quadratic import QuadraticScores

        of = self._gaussians()
        layer = QuadraticScores(len(self.classes_), name=name)
        layer.build((None, self.n_features_in_))
        roots = np.linalg.cholesky(of.precisions).transpose(0, 2, 1)
        bias = 0.5 * np.linalg.slogdet(of.precisions)[1] + of.log_priors
        layer.set_weights([of.means, roots, bias])
        return layer

    # Parts

    def _read(
        self, X: Any, y: Any, weight: Any, classes: np.ndarray | None
    ) -> tuple[np.ndarray, Labels]:
        x, shape = read_features(X, None if classes is None else self.n_features_in_)
        x = x.toarray() if hasattr(x, "toarray") else x
        labels = read_labels(y, shape, weight, classes)
        check_finite(x[labels.counted])
        return x, labels

    def _validation(self, X: Any, y: Any, weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
        self._require_fit()
        x, labels = self._read(X, y, weight, self.classes_)
        if not labels.counted.any():
            raise ValueError("Expected at least one validation pixel that counts.")
        return x[labels.counted], labels.masses[labels.counted]

    def _check_counts(self, labels: Labels) -> None:
        if self.precision not in KINDS:
            raise ValueError(
                f"Expected precision to be one of {KINDS}. Received: precision={self.precision!r}"
            )
        small = labels.classes[(labels.masses > 0).sum(axis=0) < 2]
        if len(small) and not self.shared_covariance:
            raise ValueError(
                f"Class {small[0]} is too small: a covariance needs at least 2 pixels of it."
            )

    def _covariances(self, of: Moments, classes: np.ndarray) -> np.ndarray:
        covariances = of.covariances(self.shared_covariance)
        for k, covariance in enumerate(covariances):
            whose = "All classes together" if self.shared_covariance else f"Class {classes[k]}"
            _check_covariance(covariance, self.precision, whose)
        return covariances

    def _penalties(self, classes: int) -> list[Penalties]:
        rows = 1 if self.shared_covariance else classes
        given = {
            name: _per_class(name, getattr(self, name), rows) for name in _OF_KIND[self.precision]
        }
        zero = np.zeros(rows)
        columns = [given.get(name, zero) for name in Penalties._fields]
        return [Penalties(*map(float, row)) for row in zip(*columns, strict=True)]

    def _gaussians(self) -> Gaussians:
        self._require_fit()
        shape = (len(self.classes_), self.n_features_in_, self.n_features_in_)
        precisions = np.broadcast_to(self.precision_, shape)
        with np.errstate(divide="ignore"):
            return Gaussians(self.means_, precisions, np.log(self.priors_))

    def _scores(self, X: Any) -> np.ndarray:
        self._require_fit()
        x, shape = read_features(X, self.n_features_in_)
        x = x.toarray() if hasattr(x, "toarray") else x
        return self._gaussians().scores(x).reshape(*shape, -1)

    def _through(self, slopes: Gaussians, chosen: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Hypergradients of what has these derivatives to the Gaussians."""
        of, to_precisions = self._differentiable(), slopes.precisions
        if self.shared_covariance:
            to_precisions = to_precisions.sum(axis=0, keepdims=True)
        through = [
            gradient(*each)
            for each in zip(of.precisions, of.covariances, of.penalties, to_precisions, strict=True)
        ]
        self.hypergradient_info_ = _certificate(through)
        found: dict[str, np.ndarray] = {}
        for name in chosen:
            if name == "sample_weight":
                to_covariances = np.stack([part.covariance for part in through])
                found[name] = self._weight_gradient(slopes, to_covariances)
            else:
                each = np.array([getattr(part.penalties, name) for part in through])
                scalar = np.ndim(of.arguments[name]) == 0
                found[name] = each.sum() if scalar else each
        return found

    def _differentiable(self) -> _Fit:
        if self._fit is None:
            raise ValueError(
                "A copy or pickle of PixelQDA has no training data, and so no hypergradient. "
                "Call fit(X, y) again."
            )
        return self._fit

    def __getstate__(self) -> dict[str, Any]:
        """Leave the training data out of pickles and copies: they predict, and have no gradient."""
        state = dict(self.__dict__)
        if "_fit" in state:
            state |= {"_fit": None, "hyperparameters_": ()}
        return state

    def _weight_gradient(self, slopes: Gaussians, to_covariances: np.ndarray) -> np.ndarray:
        fit = self._differentiable()
        x, labels, of = fit.x, fit.labels, fit.moments
        counted = labels.counted
        free = fit.arguments["priors"] is None
        to_log_priors = slopes.log_priors if free else np.zeros_like(slopes.log_priors)
        to_masses = mass_gradient(x[counted], of, slopes.means, to_covariances, to_log_priors)
        found = np.zeros(len(counted))
        found[counted] = (to_masses * labels.distribution[counted]).sum(axis=1)
        return found.reshape(labels.shape)

    def _chosen(self, names: Sequence[str] | None) -> tuple[str, ...]:
        self._require_fit()
        self._differentiable()
        chosen = self.hyperparameters_ if names is None else tuple(names)
        unknown = [name for name in chosen if name not in self.hyperparameters_]
        if unknown:
            raise ValueError(
                f"Expected names out of {self.hyperparameters_}. Received: {unknown[0]!r}"
            )
        return chosen

    def _require_fit(self) -> None:
        if not hasattr(self, "precision_"):
            raise ValueError("This PixelQDA is not fitted. Call fit(X, y) first.")


def _per_class(name: str, value: Any, rows: int) -> np.ndarray:
    found = np.asarray(value, dtype=np.float64)
    if found.shape not in ((), (rows,)) or not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError(
            f"Expected {name} to be finite and not negative, a number or of shape ({rows},). "
            f"Received: {name}={value!r}"
        )
    return np.broadcast_to(found, (rows,))


def _priors(priors: Any, masses: np.ndarray) -> np.ndarray:
    if priors is None:
        return masses / masses.sum()
    found = np.asarray(priors, dtype=np.float64)
    fits = found.shape == masses.shape and np.all(found >= 0) and abs(found.sum() - 1) < 1e-6
    if not fits:
        raise ValueError(
            f"Expected priors of shape {masses.shape}, not negative, with sum 1. "
            f"Received: priors={priors!r}"
        )
    return found


def _check_covariance(covariance: np.ndarray, precision: str, whose: str) -> None:
    """Refuse a covariance that the model has no precision matrix for."""
    constant = np.flatnonzero(np.diag(covariance) <= 0)
    if len(constant):
        raise ValueError(
            f"{whose}: feature {constant[0]} is constant, so its variance is 0. Leave it out."
        )
    if precision != "empirical":
        return
    diagonal = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(diagonal, diagonal)
    if np.linalg.eigvalsh(correlation)[0] <= 1e-12 * len(covariance):
        raise ValueError(
            f"{whose}: the covariance of {len(covariance)} features is singular (too few pixels, "
            "or features that repeat others). Use precision='glasso', or fewer features."
        )


def _stacked(infos: list[SolveInfo]) -> SolveInfo:
    """One certificate with an item per matrix."""
    columns = zip(*infos, strict=True)
    return SolveInfo(*(np.array([np.max(np.asarray(item)) for item in c]) for c in columns))


def _certificate(through: list[Any]) -> SolveInfo:
    near = [part.margin < 1e-6 for part in through]
    status = [
        Status.SINGULAR if part.singular else Status.NEAR_KINK if close else Status.OK
        for part, close in zip(through, near, strict=True)
    ]
    return SolveInfo(
        np.array(status, dtype=np.int32),
        adjoint_residual=np.array([part.residual for part in through]),
        kink_margin=np.array([part.margin for part in through]),
    )
