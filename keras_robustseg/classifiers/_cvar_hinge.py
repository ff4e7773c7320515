"""The support vector machine that minimises the CVaR of the hinge losses of two classes."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from keras_robustseg.classifiers._design import Design
from keras_robustseg.classifiers._hinge import Items
from keras_robustseg.classifiers._hinge_active import HingeAnswer, solve_hinge
from keras_robustseg.classifiers._hinge_fit import to_items
from keras_robustseg.optimize import SolveInfo


def fit_cvar_hinge(
    design: Design, masses: np.ndarray, l2: np.ndarray, divisor: float, alpha: float, max_iter: int
) -> tuple[np.ndarray, SolveInfo]:
    """Return the minimiser of (total mass / divisor) CVaR_alpha(hinge) + 1/2 sum l2 V^2.

    CVaR is the least of eta + sum p (loss - eta)_+ / alpha over eta (Rockafellar and Uryasev, J. of
    Risk 2000). For eta >= 0 (hinge - eta)_+ = max(0, 1 - y (s + y eta)): a hinge loss with one more
    feature y of coefficient eta, as in the nu-SVM (Takeda and Sugiyama, ICML 2008). Should its
    answer have eta < 0, eta = 0 is best, which is the plain machine with costs p / alpha.

    Args:
        design: features of n pixels.
        masses: (n, 2).
        l2: (P, 1).
        divisor: of the sum over pixels.
        alpha: tail mass in (0, 1].
        max_iter: bound on the iterations.

    Example:
        `V, info = fit_cvar_hinge(design, masses, l2, 100.0, 0.2, 200)`
    """
    plain = to_items(design, masses / (alpha * divisor), l2)
    answer = _with_level(plain, float(masses.sum() / divisor), max_iter)
    features = design.x.shape[1]
    if answer.V[features, 0] < 0:
        answer = solve_hinge(plain, np.zeros_like(l2), max_iter)
        return answer.V, answer.info
    return np.delete(answer.V, features, axis=0), answer.info


def _with_level(plain: Items, price: float, max_iter: int) -> HingeAnswer:
    """The answer with the row of eta after the features."""
    features = plain.design.x.shape[1]
    sign = np.where(plain.own == 1, 1.0, -1.0)[:, None]
    x = plain.design.x
    x = sparse.hstack([x, sign], "csr") if sparse.issparse(x) else np.hstack([x, sign])
    l2 = np.insert(plain.l2, features, 0.0, axis=0)
    linear = np.zeros_like(l2)
    linear[features] = price
    design = plain.design._replace(x=x)
    items = plain._replace(design=design, l2=l2, linear=linear)
    return solve_hinge(items, np.zeros_like(l2), max_iter)
