"""What all pixel classifiers share: scikit-learn's manners and the hypergradient."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from keras_robustseg.classifiers._reading import read_features, read_labels

if TYPE_CHECKING:
    import keras


def copied(estimator: Any) -> Any:
    """Return an estimator with the same arguments, not fitted; nested ones are copied too.

    Args:
        estimator: anything with scikit-learn's `get_params`.

    Example:
        `copied(SpatialClassifier(PixelSVM())).estimator`
    """
    arguments = {
        name: copied(value) if hasattr(value, "get_params") else value
        for name, value in estimator.get_params(deep=False).items()
    }
    return type(estimator)(**arguments)


class CoefficientGradient(NamedTuple):
    """Gradient of a loss to the coefficients of a fitted linear classifier.

    Args:
        coef: of the shape of `coef_`.
        intercept: of the shape of `intercept_`.
    """

    coef: np.ndarray
    intercept: np.ndarray


class PixelClassifier(abc.ABC):
    """Base of the pixel classifiers: scikit-learn's manners on pixels and on images.

    X is (N, F), pixels with F features, or (B, *S, F), images of them. y has one class id for each
    pixel, of the shape of X without its last axis, where a negative id is void; or it is soft,
    (..., C), a distribution over classes 0 ... C - 1 for each pixel, where a row of zeros is void.
    A pixel that is void or of weight 0 is not read: its features may be NaN. All arithmetic of
    `fit` is in float64.

    A subclass keeps the arguments of its constructor unchanged under their names and checks them
    in `fit`, so that `sklearn.base.clone` and `set_params` work. After `fit` there are

    | attribute | |
    |---|---|
    | `classes_` | (C,) ids of the classes, sorted |
    | `n_features_in_` | F |
    | `solve_info_` | `optimize.SolveInfo`: status, residual, iterations |
    | `hyperparameters_` | names that `hypergradient` knows for this fit |

    A problem that has no unique or no finite solution is not an error: it gives the status
    SINGULAR, DIVERGED or NOT_CONVERGED and a warning. Wrong input is a ValueError.
    """

    classes_: np.ndarray
    n_features_in_: int
    solve_info_: Any
    hyperparameters_: tuple[str, ...]

    @abc.abstractmethod
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to labelled pixels.

        Args:
            X: (N, F) or (B, *S, F).
            y: class ids (N,) or (B, *S), negative for void; or soft labels with a last axis C.
            sample_weight: not negative, of the shape of the ids; None for 1.

        Raises:
            ValueError: shapes do not fit, a counted feature is not finite, a weight is negative,
                or fewer than two classes are there.
        """

    @abc.abstractmethod
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores: (...,) of the second class when there are two, else (..., C)."""

    @abc.abstractmethod
    def validation_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the smooth loss, a weighted mean over pixels, that `hypergradient` differentiates.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            sample_weight: as in `fit`.
        """

    @abc.abstractmethod
    def hypergradient(
        self, *validation: Any, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the gradient of a validation loss to the hyper-parameters of the last fit.

        The validation loss depends on a hyper-parameter h only through the fitted coefficients
        W(h): d val / dh = <d val / dW, dW / dh>, and dW / dh follows from the optimality
        conditions of the fit, restricted to the active set where the problem is not smooth
        (Bolte et al., NeurIPS 2021). All names together cost one linear system.
        `hypergradient_info_` is its certificate.

        Args:
            validation: `X, y` or `X, y, sample_weight`, for `validation_loss`; or one
                `CoefficientGradient`, that of any other loss. The same as one tuple.
            names: out of `hyperparameters_`; None for all of them. "l2", "l1" and "group" (the
                penalties), "feature_penalty", "class_weight", "sample_weight", "soft_labels".

        Returns:
            name -> array of the shape that the argument had: () for a number, (C,) per class,
            (F,) for "feature_penalty", the shape of the ids for "sample_weight", that with C for
            "soft_labels". Entries of void pixels are 0.

        Raises:
            ValueError: not fitted, an unknown name, or this fit has no hypergradient.
        """

    @abc.abstractmethod
    def as_layer(self, name: str | None = None) -> keras.layers.Layer:
        """Return a Keras layer (..., F) -> (..., C) of class scores with the fitted weights.

        Softmax of the scores is `predict_proba` where there is one. The layer is trainable, float32
        by default, and is saved and loaded with any model.
        """

    def predict(self, X: Any) -> np.ndarray:
        """Return class ids (N,) or (B, *S)."""
        scores = self.decision_function(X)
        if len(self.classes_) == 2:
            return self.classes_[(scores > 0).astype(int)]
        return self.classes_[np.argmax(scores, axis=-1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the weighted share of the pixels that are not void whose class is found.

        Soft labels count by the mass of the predicted class.
        """
        x, shape = read_features(X, self.n_features_in_)
        labels = read_labels(y, shape, sample_weight, self.classes_)
        found = np.searchsorted(self.classes_, self.predict(x[labels.counted]))
        hits = labels.masses[labels.counted][np.arange(len(found)), found]
        return float(hits.sum() / labels.masses[labels.counted].sum())

    @classmethod
    def _parameter_names(cls) -> list[str]:
        signature = inspect.signature(cls.__init__)
        return sorted(name for name in signature.parameters if name != "self")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor.

        Args:
            deep: also those of nested estimators, as `outer__inner`.
        """
        own = {name: getattr(self, name) for name in self._parameter_names()}
        nested = {
            f"{name}__{inner}": value
            for name, estimator in own.items()
            if deep and hasattr(estimator, "get_params")
            for inner, value in estimator.get_params().items()
        }
        return {**own, **nested}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, nested ones as `outer__inner`, and return self.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            outer, _, inner = name.partition("__")
            if outer not in self._parameter_names():
                raise ValueError(
                    f"Invalid parameter {outer!r} of {type(self).__name__}. "
                    f"Expected one of {self._parameter_names()}."
                )
            if inner:
                getattr(self, outer).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn, which alone asks, that this is a classifier."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(sparse=True),
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.get_params(False).items())
        return f"{type(self).__name__}({shown})"
