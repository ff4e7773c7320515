"""The chain rule from penalties and class masses to the arguments of `fit` and the constructor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robustseg.classifiers._penalty import Penalty, gathered, spread
from keras_robustseg.classifiers._reading import Labels

PENALTIES = ("l2", "l1", "group", "feature_penalty")
PIXELWISE = ("class_weight", "sample_weight", "soft_labels")


def penalty_gradients(
    penalty: Penalty,
    W: np.ndarray,
    U: np.ndarray,
    given: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return d val / d argument for those of `PENALTIES` that are asked for.

    Args:
        penalty: as the fit had it.
        W: (F, K) coefficients without the intercept.
        U: (F, K) adjoint.
        given: arguments of the estimator, by name.
        names: what is asked for.
    """
    factor = np.ones(len(W)) if given["feature_penalty"] is None else given["feature_penalty"]
    slopes = {"l2": U * W, "l1": U * np.sign(W)}
    found = {
        name: gathered(-np.asarray(factor)[:, None] * slopes[name], given[name])
        for name in ("l2", "l1")
        if name in names
    }
    if "feature_penalty" in names:
        each = (spread(name, given[name], *W.shape) * slopes[name] for name in ("l2", "l1"))
        found["feature_penalty"] = -sum(each).sum(axis=1)
    if "group" in names:
        found["group"] = group_gradient(penalty, W, U, np.ndim(given["group"]) == 0)
    return found


def group_gradient(penalty: Penalty, W: np.ndarray, U: np.ndarray, shared: bool) -> np.ndarray:
    """Return d val / d weight of the groups, (G,), or their sum.

    Args:
        penalty: as the fit had it.
        W: (F, K).
        U: (F, K).
        shared: whether one number is the weight of all groups.
    """
    of_features = penalty.rows(np.arange(len(W)))._replace(group=np.ones_like(penalty.group))
    along = (of_features.group_slope(W) * U).sum(axis=1)
    inside = of_features.member >= 0
    each = -np.bincount(of_features.member[inside], along[inside], minlength=len(penalty.group))
    return np.asarray(each.sum()) if shared else each


def pixel_gradients(
    masses: np.ndarray,
    tangent: np.ndarray,
    labels: Labels,
    class_weight: np.ndarray,
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return d val / d argument for those of `PIXELWISE` that are asked for.

    A mass is weight x class weight x label.

    Args:
        masses: (n, C) d val / d masses of the pixels that count.
        tangent: (n, C) the same for masses whose sum stays, as those of a label do.
        labels: of all pixels.
        class_weight: (C,).
        names: what is asked for.
    """
    counted, found = labels.counted, {}
    share = labels.distribution[counted]
    weight = (labels.masses[counted] / np.where(share > 0, share, 1.0)).max(axis=1)
    if "class_weight" in names:
        found["class_weight"] = (masses * labels.masses[counted]).sum(axis=0)
    if "sample_weight" in names:
        of_weight = (masses * class_weight * share).sum(axis=1)
        found["sample_weight"] = _among_all(of_weight, counted).reshape(labels.shape)
    if "soft_labels" in names:
        same = np.ptp(class_weight) == 0
        scale = (weight / labels.totals[counted])[:, None] * class_weight
        of_labels = _among_all(scale * (tangent if same else masses), counted)
        found["soft_labels"] = of_labels.reshape(*labels.shape, len(class_weight))
    return found


def _among_all(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Values of the pixels that count, and zeros for the others."""
    found = np.zeros((len(counted), *values.shape[1:]))
    found[counted] = values
    return found
