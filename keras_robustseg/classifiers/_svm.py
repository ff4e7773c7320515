"""Linear support vector machines of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_robustseg.classifiers._cvar_hinge import fit_cvar_hinge
from keras_robustseg.classifiers._design import Design
from keras_robustseg.classifiers._hinge_fit import fit_hinge
from keras_robustseg.classifiers._linear_classifier import LinearPixelClassifier, Solved
from keras_robustseg.classifiers._losses import SquaredHinge
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._penalty import Penalty
from keras_robustseg.classifiers._training_set import TrainingSet
from keras_robustseg.risk import CVaR

LOSSES = ("hinge", "squared_hinge", "crammer_singer")


class PixelSVM(LinearPixelClassifier):
    """Linear support vector machine of pixels.

        minimise over W, b   (1/n) sum_i s_i sum_k c_k Y_ik loss_k(W x_i + b) + 1/2 sum l2 W^2

    | loss | loss_k(z), two classes: one score z, y = -1 or 1 | several classes |
    |---|---|---|
    | "hinge" | max(0, 1 - y z) | one against the rest |
    | "squared_hinge" | max(0, 1 - y z)^2 | one against the rest |
    | "crammer_singer" | max_j (1[j != k] + z_j - z_k), a score for each class | the same |

    One against the rest is a sum of such problems, in which a pixel has the weight of its own
    class everywhere. The intercept b is not penalised; to penalise it, give X a column of ones and
    `fit_intercept=False`.

    scikit-learn's `SVC(kernel="linear", C=C)` with two classes is "hinge" with `l2=1 / (C n)`, or
    `reduction="sum"` and `l2=1 / C`; so are, without intercept, `LinearSVC(C=C, loss="hinge")`,
    `loss="squared_hinge"`, and `multi_class="crammer_singer"`.

    The hinge losses are quadratic programs, solved by an interior point (Ferris and Munson, SIAM
    J. Optim. 2002) and then exactly on the active set that it finds, by which they are also
    differentiated (Bolte et al., NeurIPS 2021). The squared hinge is solved by semismooth Newton,
    and has l1 and group penalties as `PixelLogisticRegression`.

    Args:
        loss: "hinge", "squared_hinge" or "crammer_singer".
        l2: number, (K,) for each class, (F, 1) for each feature, or (F, K).
        l1: as l2; "squared_hinge" only.
        group: number, or (G,), for the norm of all coefficients of a group; "squared_hinge" only.
        groups: (F,) group of each feature, 0 ... G - 1, negative for none; None for one group.
        feature_penalty: (F,) factors of l1 and l2, or None.
        class_weight: None, "balanced", mapping from ids, or (C,).
        fit_intercept: whether there is b.
        reduction: "mean" divides the sum by n, "weighted_mean" by the sum of all weights, and
            "sum" by nothing.
        risk: `risk.CVaR(alpha)` in place of the mean over pixels, for "hinge" and two classes,
            solved exactly; any measure for "squared_hinge", as in `PixelLogisticRegression`. No
            hypergradient then.
        tol: relative size of the last step; "squared_hinge" only. The others are exact, or their
            status says that they are not.
        max_iter: bound on the steps.
        warm_start: whether `fit` begins at the last answer.

    Raises:
        ValueError: in `fit`, an argument is out of range.

    Example:
        ```python
        model = PixelSVM("crammer_singer", l2=1e-2).fit(X, y)
        model.hypergradient(X_val, y_val, names=["l2", "sample_weight"])
        ```
    """

    def __init__(
        self,
        loss: str = "hinge",
        l2: Any = 1e-3,
        *,
        l1: Any = 0.0,
        group: Any = 0.0,
        groups: Any = None,
        feature_penalty: Any = None,
        class_weight: Any = None,
        fit_intercept: bool = True,
        reduction: str = "mean",
        risk: Any = None,
        tol: float = 1e-9,
        max_iter: int = 200,
        warm_start: bool = False,
    ) -> None:
        self.loss = loss
        self.l2 = l2
        self.l1 = l1
        self.group = group
        self.groups = groups
        self.feature_penalty = feature_penalty
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.reduction = reduction
        self.risk = risk
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def _check(self) -> None:
        self._check_common()
        if self.loss not in LOSSES:
            raise ValueError(f"Expected loss to be one of {LOSSES}. Received: {self.loss!r}")
        if self.loss != "squared_hinge" and (np.any(self.l1) or np.any(self.group)):
            raise ValueError(
                f'loss="{self.loss}" has the l2 penalty alone. Expected l1=0 and group=0, or '
                'loss="squared_hinge".'
            )

    def _tail(self, classes: int) -> float:
        """Tail mass of the CVaR."""
        exact = type(self.risk) is CVaR and self.risk.smoothing is None
        if self.loss != "hinge" or classes > 2 or not exact or self.risk.stance != "pessimistic":
            raise ValueError(
                f'loss="{self.loss}" with {classes} classes has no risk {self.risk!r}. Expected '
                'risk.CVaR(alpha) with loss="hinge" and two classes, or loss="squared_hinge".'
            )
        return float(self.risk.alpha)

    def _columns(self, classes: int) -> int:
        return 1 if classes == 2 and self.loss != "crammer_singer" else classes

    def _minimize(
        self, training: TrainingSet, penalty: Penalty, divisor: float, start: np.ndarray
    ) -> Solved:
        if self.loss == "squared_hinge":
            objective = Objective(SquaredHinge(), training.pixels, divisor, penalty)
            return self._minimize_smooth(objective, start)
        if training.labels is None:
            raise ValueError(
                f'loss="{self.loss}" needs all pixels at once. Expected `fit`, or '
                'loss="squared_hinge" for `fit_blocks`.'
            )
        design = Design(training.x.astype(np.float64, copy=False), self.fit_intercept)
        masses = training.labels.masses[training.labels.counted] * training.class_weight
        if self.risk is not None:
            alpha = self._tail(len(training.classes))
            l2, limit = penalty.l2, self.max_iter
            return Solved(*fit_cvar_hinge(design, masses, l2, divisor, alpha, limit), None)
        joint = self.loss == "crammer_singer" or len(training.classes) == 2
        return Solved(*fit_hinge(design, masses, penalty, divisor, start, self.max_iter, joint))
