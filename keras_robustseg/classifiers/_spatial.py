"""Pixel classifiers whose labels agree with their neighbours': scores through a Potts problem."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from keras_robustseg.classifiers._base import PixelClassifier, copied
from keras_robustseg.classifiers._grids import Grid, is_list_of_images, read_grid
from keras_robustseg.classifiers._reading import read_labels
from keras_robustseg.optimize import PottsOptions, SolveInfo, Status

if TYPE_CHECKING:
    import keras

OWN = ("weight", "epsilon")
PREFIX = "estimator__"
# Of pixels, and so of the outer classifier's fit as well as of the inner one's.
_OF_PIXELS = ("sample_weight", "soft_labels")


class _Labelling(NamedTuple):
    """Solved images: labels (B, *S, C), the grid, and the cost and edges that were solved."""

    labels: np.ndarray
    grid: Grid
    cost: np.ndarray
    edges: np.ndarray | None


class SpatialClassifier(PixelClassifier):
    """A pixel classifier whose scores go through the relaxed Potts problem of their image.

        u  =  argmin over u_i in the simplex   - <scores, u> + epsilon/2 ||u||^2
                                               + sum_k weight_k sum_e |(D u_k)_e|

    over the edges e between neighbouring pixels: `optimize.relaxed_potts`, as in
    `layers.TVSegmentation` (Chambolle, Cremers and Pock, SIAM J. Imaging Sci. 2012). u is
    `predict_proba`. With weight 0 it is the sparsemax of scores / epsilon, so that `predict` is
    that of the classifier alone.

    The classifier is fitted to pixels as ever; what joins it with the weight is tuning:
    `hypergradient` goes through the Potts problem (its active set) and then through the fit, so
    `tuning.BilevelTuner` finds weight and penalties together. To train all of it by gradient
    descent, `as_layer` is the chain of both.

    Images are (B, *S, F) with 1 to 3 axes of space, or a list of (*S, F) of any sizes (2 or 3
    axes); `fit` takes pixels (N, F) too. A void pixel keeps its scores in the Potts problem. One
    whose features are NaN is cut off from its neighbours. Potts problems are solved in float64 by
    TensorFlow.

    Args:
        estimator: `PixelLogisticRegression`, `PixelSVM` or `PixelQDA`; it is copied, not fitted.
        weight: of the perimeter, 0 or above: a number, or one for each class (C,).
        epsilon: above 0.
        smoothing: Huber's function instead of |.|, with this dual weight; 0 for none.
        isotropic: penalise the length of the gradient instead of each edge.
        tv_iterations: bound on the primal-dual steps.
        tv_tolerance: duality gap per pixel, relative to 1 + the spread of the scores.
        jit_compile: compile the Potts solver by XLA, which pays for many solves of one size.
        tol: of the estimator's fit; None for its own.
        warm_start: whether `fit` begins at the last answer, where the estimator can.

    Attributes:
        estimator_: the fitted classifier.
        tv_info_: certificate of the last Potts problems, one figure an image.

    Raises:
        ValueError: in `fit`, an argument is out of range.

    Example:
        ```python
        model = SpatialClassifier(PixelSVM("squared_hinge", l2=1e-2), weight=0.5).fit(X, masks)
        model.hypergradient(X_val, masks_val, names=["weight", "estimator__l2"])
        ```
    """

    estimator_: Any
    hypergradient_info_: SolveInfo

    def __init__(
        self,
        estimator: Any,
        weight: Any = 0.3,
        *,
        epsilon: float = 0.5,
        smoothing: float = 0.0,
        isotropic: bool = False,
        tv_iterations: int = 2000,
        tv_tolerance: float = 1e-6,
        jit_compile: bool = False,
        tol: float | None = None,
        warm_start: bool = False,
    ) -> None:
        self.estimator = estimator
        self.weight = weight
        self.epsilon = epsilon
        self.smoothing = smoothing
        self.isotropic = isotropic
        self.tv_iterations = tv_iterations
        self.tv_tolerance = tv_tolerance
        self.jit_compile = jit_compile
        self.tol = tol
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the classifier to labelled pixels; see `PixelClassifier.fit`. X may be a list."""
        self._check()
        if is_list_of_images(X):
            grid = read_grid(X)
            X, y = grid.x, grid.filled(y, -1 if np.ndim(y[0]) == grid.x.ndim - 2 else 0)
            sample_weight = None if sample_weight is None else grid.filled(sample_weight, 0)
        self.estimator_ = self._inner().fit(X, y, sample_weight)
        inner = self.estimator_
        self.classes_, self.n_features_in_ = inner.classes_, inner.n_features_in_
        self.solve_info_ = inner.solve_info_
        self._check_weight()
        names = (n if n in _OF_PIXELS else f"{PREFIX}{n}" for n in inner.hyperparameters_)
        self.hyperparameters_ = (*OWN, *names)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return u, the relaxed labels (B, *S, C), or a list of them where X is one."""
        found = self._label(X)
        return found.grid.cropped(found.labels)

    def decision_function(self, X: Any) -> Any:
        """Return u (..., C), or of two classes the difference (...)."""
        found = self._label(X)
        u = found.labels
        return found.grid.cropped(u[..., 1] - u[..., 0] if len(self.classes_) == 2 else u)

    def predict(self, X: Any) -> Any:
        """Return class ids (B, *S), or a list of them where X is one."""
        found = self._label(X)
        return found.grid.cropped(self.classes_[np.argmax(found.labels, axis=-1)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the weighted share of the pixels that are not void whose class is found."""
        found = self._label(X)
        masses = self._masses(found.grid, y, sample_weight)
        hits = np.take_along_axis(masses, np.argmax(found.labels, -1)[..., None], axis=-1)
        return float(hits.sum() / masses.sum())

    def validation_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the weighted mean of -log(.99 u_y + .01 / C), which is finite where u is 0."""
        found = self._label(X)
        masses = self._masses(found.grid, y, sample_weight)
        return float(-np.vdot(masses, np.log(_softened(found.labels))) / masses.sum())

    def hypergradient(
        self, *validation: Any, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the gradient of `validation_loss`; see `PixelClassifier.hypergradient`.

        Args:
            validation: `X, y` or `X, y, sample_weight`, also as one tuple.
            names: out of `hyperparameters_`: "weight", "epsilon", those of the estimator as
                "estimator__l2", and "sample_weight" of its training pixels.

        Raises:
            ValueError: not fitted, or an unknown name.
        """
        chosen = self._chosen(names)
        X, y, *rest = validation[0] if len(validation) == 1 else validation
        found = self._label(X)
        masses = self._masses(found.grid, y, *rest)
        back = -0.99 * masses / _softened(found.labels) / masses.sum()
        arguments = self._tensors(found.cost, found.edges)
        slopes, solved, linear = _compiled(self.jit_compile, True)(
            self._options(), *arguments, cotangent=back
        )
        result = {name: np.asarray(slopes[_POTTS[name]]) for name in OWN}
        inner = [name.removeprefix(PREFIX) for name in chosen if name not in OWN]
        infos = [solved, linear]
        if inner:
            there = found.grid.there
            through = self.estimator_.hypergradient_of_scores(
                found.grid.x[there], -np.asarray(slopes["cost"])[there], inner
            )
            named = (n if n in _OF_PIXELS else f"{PREFIX}{n}" for n in inner)
            result |= dict(zip(named, through.values(), strict=True))
            infos.append(self.estimator_.hypergradient_info_)
        self.hypergradient_info_ = _joined(infos)
        return {name: result[name] for name in chosen}

    def as_layer(self, name: str | None = None) -> keras.layers.Layer:
        """Return a chain (B, *S, F) -> (B, *S, C) of scores and `layers.TVSegmentation`.

        It gives log(.99 u + .01 / C). Weights above 0 are learned when it is trained, together with
        the classifier's.
        """
        import keras

        from keras_robustseg.layers import TVSegmentation

        weight = np.broadcast_to(np.asarray(self.weight, float), (len(self.classes_),))
        smooth = TVSegmentation(
            "learned" if weight.all() else weight,
            epsilon=self.epsilon,
            iterations=self.tv_iterations,
            tolerance=self.tv_tolerance,
            smoothing=self.smoothing,
            isotropic=self.isotropic,
            output="logits",
        )
        smooth.build((None, None, None, len(self.classes_)))
        if weight.all():
            smooth.raw_weight.assign(np.log(np.expm1(weight)))
        return keras.Sequential([self.estimator_.as_layer(), smooth], name=name)

    # Parts

    def _check(self) -> None:
        if not hasattr(self.estimator, "hypergradient_of_scores"):
            raise ValueError(
                "Expected estimator to be a PixelLogisticRegression, PixelSVM or PixelQDA. "
                f"Received: {self.estimator!r}"
            )
        if not (np.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"Expected epsilon above 0. Received: epsilon={self.epsilon!r}")
        weight = np.asarray(self.weight, dtype=np.float64)
        if weight.ndim > 1 or not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(
                "Expected weight to be 0 or above, a number or one for each class. "
                f"Received: weight={self.weight!r}"
            )

    def _check_weight(self) -> None:
        shape = np.shape(self.weight)
        if shape not in ((), (len(self.classes_),)):
            raise ValueError(
                f"Expected weight to be a number or of shape ({len(self.classes_)},), one for each "
                f"class. Received: shape={shape}"
            )

    def _inner(self) -> Any:
        """The classifier to be fitted: a copy, or the last one where it is to begin there."""
        last: Any = getattr(self, "estimator_", None)
        again = self.warm_start and type(last) is type(self.estimator)
        given = self.estimator.get_params(deep=False)
        if self.tol is not None and "tol" in given:
            given["tol"] = self.tol
        if self.warm_start and "warm_start" in given:
            given["warm_start"] = True
        return (last if again else copied(self.estimator)).set_params(**given)

    def _options(self) -> PottsOptions:
        # The adjoint is solved until rounding: what it costs is little beside the solution.
        return PottsOptions(
            float(self.smoothing),
            bool(self.isotropic),
            int(self.tv_iterations),
            float(self.tv_tolerance),
            adjoint_iterations=1000,
            adjoint_tolerance=1e-10,
        )

    def _tensors(self, cost: np.ndarray, edges: np.ndarray | None) -> tuple[Any, ...]:
        weight = np.asarray(self.weight, dtype=np.float64)
        return cost, weight, edges, np.float64(self.epsilon)

    def _label(self, X: Any) -> _Labelling:
        if not hasattr(self, "estimator_"):
            raise ValueError("This SpatialClassifier is not fitted yet. Call `fit` first.")
        grid = read_grid(X)
        if grid.x.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has {grid.x.shape[-1]} features, but the classifier was fitted with "
                f"{self.n_features_in_}."
            )
        there = grid.there
        cost = np.zeros((*there.shape, len(self.classes_)))
        scores = self.estimator_.decision_function(grid.x[there])
        if len(self.classes_) == 2:
            scores = np.stack([np.zeros_like(scores), scores], axis=-1)
        cost[there] = -scores
        edges = grid.edge_weights()
        arguments = self._tensors(cost, edges)
        labels, info = _compiled(self.jit_compile, False)(self._options(), *arguments)
        self.tv_info_ = SolveInfo(*(np.asarray(figure) for figure in info))
        return _Labelling(np.asarray(labels), grid, cost, edges)

    def _masses(self, grid: Grid, y: Any, sample_weight: Any = None) -> np.ndarray:
        """(B, *S, C) mass of each class at each pixel."""
        shape = grid.x.shape[:-1]
        hard = np.ndim(y[0]) == len(shape) - 1
        y = grid.filled(y, -1 if hard else 0)
        weight = None if sample_weight is None else grid.filled(sample_weight, 0)
        labels = read_labels(y, shape, weight, self.classes_)
        if not labels.counted.any():
            raise ValueError("The validation data have no pixel that counts.")
        return labels.masses.reshape(*shape, -1)

    def _chosen(self, names: Sequence[str] | None) -> tuple[str, ...]:
        if not hasattr(self, "estimator_"):
            raise ValueError("This SpatialClassifier is not fitted yet. Call `fit` first.")
        chosen = self.hyperparameters_ if names is None else tuple(names)
        unknown = [name for name in chosen if name not in self.hyperparameters_]
        if unknown:
            raise ValueError(
                f"This fit has no hypergradient for {unknown}. "
                f"Expected some of {list(self.hyperparameters_)}."
            )
        return chosen


_POTTS = {"weight": "class_weights", "epsilon": "epsilon"}


def _softened(labels: np.ndarray) -> np.ndarray:
    return 0.99 * labels + 0.01 / labels.shape[-1]


def _joined(infos: Sequence[Any]) -> SolveInfo:
    """The worst of several certificates."""
    status = max(int(np.max(np.asarray(info.status))) for info in infos)
    residuals = [
        np.max(np.asarray(getattr(info, name)))
        for info in infos
        for name in ("adjoint_residual", "relative_residual")
        if hasattr(info, "adjoint_residual") == (name == "adjoint_residual")
    ]
    known = [float(residual) for residual in residuals if np.isfinite(residual)]
    return SolveInfo(int(Status(status)), adjoint_residual=max(known, default=0.0))


@functools.cache
def _compiled(jit_compile: bool, derivative: bool) -> Any:
    import tensorflow as tf

    from keras_robustseg.optimize import potts_vjp, relaxed_potts

    def solve(options: PottsOptions, *arguments: Any, **cotangent: Any) -> Any:
        function = potts_vjp if derivative else relaxed_potts
        return function(*arguments, options=options, **cotangent)

    return tf.function(solve, jit_compile=jit_compile or None, autograph=False)
