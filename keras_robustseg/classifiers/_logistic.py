"""Logistic regression of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from keras_robustseg.classifiers._linear_classifier import LinearPixelClassifier, Solved
from keras_robustseg.classifiers._losses import Softmax
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._penalty import Penalty
from keras_robustseg.classifiers._separable import with_separability
from keras_robustseg.classifiers._training_set import TrainingSet

FORMULATIONS = ("auto", "binary", "multinomial")
NORMS = ("l2", "linf")


class PixelLogisticRegression(LinearPixelClassifier):
    """Multinomial or binary logistic regression of pixels.

        minimise over W, b   (1/n) sum_i s_i sum_k c_k Y_ik (-log p_ik) + penalty(W),
        p_i = softmax(W x_i + b),
        penalty(W) = sum l1 |W| + 1/2 sum l2 W^2 + sum_g group_g ||W_g||_2

    with weights s, class weights c and labels Y over the n pixels that count. The intercept b is
    not penalised. Two classes have one row of W, p = (1 - sigmoid, sigmoid), unless
    `formulation="multinomial"`.

    scikit-learn's `LogisticRegression(C=C)` is `l2=1 / (C n)`; with `l1_ratio=r` it is
    `l1=r / (C n)`, `l2=(1 - r) / (C n)`; `reduction="sum"` takes n out: `l2=1 / C`.

    Solved in float64 by Newton's method with Cholesky up to 2000 coefficients and with conjugate
    gradients beyond; with l1 or group penalties by proximal Newton on an active set of features.

    Args:
        l2: number, (K,) for each class, (F, 1) for each feature, or (F, K).
        l1: as l2. Where all of `l1` is above a bound, all coefficients are 0.
        group: number, or (G,), for the norm of all coefficients of a group of features.
        groups: (F,) group of each feature, 0 ... G - 1, negative for none; None for one group.
        feature_penalty: (F,) factors of l1 and l2, or None.
        class_weight: None, "balanced", mapping from ids, or (C,).
        fit_intercept: whether there is b.
        formulation: "auto", "binary" or "multinomial".
        reduction: "mean" divides the sum by n, "weighted_mean" by the sum of all weights, and
            "sum" by nothing.
        risk: a measure of `keras_robustseg.risk` in place of the mean over pixels; see
            `docs/classifiers.md`. No hypergradient then.
        wasserstein_radius: two classes only; adds radius times a dual norm of W, which makes the
            mean loss the worst one over all distributions of features within that Wasserstein
            distance of the data (Shafieezadeh-Abadeh et al., NeurIPS 2015; labels do not move).
        wasserstein_norm: "l2" or "linf", of the distance between features; the penalty is the
            2-norm, or the 1-norm.
        tol: relative size of the last step.
        max_iter: bound on the steps.
        warm_start: whether `fit` begins at the last answer.

    Raises:
        ValueError: in `fit`, an argument is out of range.

    Example:
        ```python
        model = PixelLogisticRegression(l2=1e-3).fit(X, y)
        model.hypergradient(X_val, y_val, names=["l2"])
        ```
    """

    def __init__(
        self,
        l2: Any = 1e-3,
        *,
        l1: Any = 0.0,
        group: Any = 0.0,
        groups: Any = None,
        feature_penalty: Any = None,
        class_weight: Any = None,
        fit_intercept: bool = True,
        formulation: str = "auto",
        reduction: str = "mean",
        risk: Any = None,
        wasserstein_radius: float = 0.0,
        wasserstein_norm: str = "l2",
        tol: float = 1e-9,
        max_iter: int = 200,
        warm_start: bool = False,
    ) -> None:
        self.l2 = l2
        self.l1 = l1
        self.group = group
        self.groups = groups
        self.feature_penalty = feature_penalty
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.formulation = formulation
        self.reduction = reduction
        self.risk = risk
        self.wasserstein_radius = wasserstein_radius
        self.wasserstein_norm = wasserstein_norm
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities (..., C) of the classes."""
        scores = self.decision_function(X)
        if len(self.classes_) == 2:
            return np.stack([expit(-scores), expit(scores)], axis=-1)
        return softmax(scores, axis=-1)

    def _check(self) -> None:
        self._check_common()
        if self.formulation not in FORMULATIONS:
            raise ValueError(
                f"Expected formulation to be one of {FORMULATIONS}. Received: {self.formulation!r}"
            )
        if self.wasserstein_norm not in NORMS:
            raise ValueError(
                f"Expected wasserstein_norm to be one of {NORMS}. "
                f"Received: {self.wasserstein_norm!r}"
            )
        if not 0 <= self.wasserstein_radius < np.inf:
            raise ValueError(
                f"Expected wasserstein_radius of 0 or more. Received: {self.wasserstein_radius!r}"
            )

    def _columns(self, classes: int) -> int:
        if classes > 2 and self.formulation == "binary":
            raise ValueError(f'formulation="binary" has 2 classes. The data have {classes}.')
        return 1 if classes == 2 and self.formulation != "multinomial" else classes

    def _minimize(
        self, training: TrainingSet, penalty: Penalty, divisor: float, start: np.ndarray
    ) -> Solved:
        objective = Objective(Softmax(), training.pixels, divisor, penalty)
        solved = self._minimize_smooth(objective, start)
        return solved._replace(info=with_separability(objective, solved.V, solved.info))

    def _known(self, training: TrainingSet) -> tuple[str, ...]:
        return super()._known(training) + ("wasserstein_radius",) * bool(self.wasserstein_radius)

    def _read_penalty(self, features: int, columns: int) -> Penalty:
        penalty = super()._read_penalty(features, columns)
        radius = self.wasserstein_radius
        if radius == 0:
            return penalty
        if columns > 1 or penalty.group.any():
            raise ValueError(
                "wasserstein_radius is for two classes with one row of coefficients, and without "
                f"a group penalty. Received: {columns} rows, group={self.group!r}"
            )
        if self.wasserstein_norm == "linf":
            border = np.arange(len(penalty.l1))[:, None] < features
            return penalty._replace(l1=penalty.l1 + radius * border)
        member = np.where(np.arange(len(penalty.l1)) < features, 0, -1)
        return penalty._replace(group=np.array([float(radius)]), member=member)

    def _penalty_gradients(
        self, penalty: Penalty, W: np.ndarray, U: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        found = super()._penalty_gradients(penalty, W, U, names)
        if "wasserstein_radius" in names:
            norm = float(np.linalg.norm(W)) or 1.0
            slope = np.sign(W) if self.wasserstein_norm == "linf" else W / norm
            found["wasserstein_radius"] = np.asarray(-np.vdot(U, slope))
        return found
