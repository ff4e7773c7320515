"""Golden cases of the label sets, and the sets that belong to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from risk_cases import Case

from keras_robustseg import labels
from keras_robustseg.labels import LabelAmbiguity


def stance_of(name: str) -> str:
    return "optimistic" if name.endswith("_optimistic") else "pessimistic"


def divergence(kind: str) -> Callable[[Case], LabelAmbiguity]:
    name = kind.removesuffix("_smoothed").removesuffix("_optimistic").removesuffix("_smoothed")
    stance = stance_of(kind)
    if name == "tv_shared":
        return lambda c: labels.DivergenceAmbiguity("tv", c["param_eps"], "image", stance=stance)
    if name == "kl_penalty":
        return lambda c: labels.DivergencePenaltyAmbiguity("kl", 10 * c["param_eps"], stance=stance)
    return lambda c: labels.DivergenceAmbiguity(name, c["param_eps"], stance=stance)


def wasserstein(budget: str) -> Callable[[Case], LabelAmbiguity]:
    return lambda c: labels.WassersteinAmbiguity(c["cost"], c["param_eps"], budget=budget)


def spatial(kind: str) -> Callable[[Case], LabelAmbiguity]:
    coupling = kind.partition("_")[0]
    return lambda c: labels.SpatialWassersteinAmbiguity(
        int(c["param_radius"]),
        c["param_eps"],
        str(c["cost_kind"]),
        coupling,
        stance=stance_of(kind),
    )


DIVERGENCES = (
    "tv",
    "tv_optimistic",
    "hellinger",
    "hellinger_optimistic",
    "reverse_kl",
    "reverse_kl_optimistic",
    "neyman",
    "chi2_smoothed",
    "kl_smoothed",
    "jeffreys_smoothed",
    "kl_penalty",
    "kl_penalty_smoothed",
    "kl_penalty_smoothed_optimistic",
    "tv_shared",
)
SETS: dict[str, Callable[[Case], LabelAmbiguity]] = {
    **{name: divergence(name) for name in DIVERGENCES},
    "wasserstein_class": wasserstein("pixel"),
    "wasserstein_class_shared": wasserstein("image"),
    **{f"spatial_{kind}": spatial(kind) for kind in ("jitter", "jitter_optimistic", "joint")},
}


def labels_of(case: Case, dtype: str) -> list[np.ndarray]:
    """The labels of a case in each form they have: soft, and ids where they are hard."""
    if case["labels"].ndim == 2 and case["labels"].dtype.kind == "i":
        ids = np.where(case["ignore"], -1, case["labels"])
        soft = np.eye(case["logits"].shape[-1], dtype=dtype)[case["labels"]]
        return [ids[None], np.where(case["ignore"][..., None], 0, soft)[None]]
    soft = case["labels"].astype(dtype)
    return [soft[None], *([soft.argmax(-1)[None]] if (soft.max(-1) == 1).all() else [])]


def value_weights_gradient(
    ambiguity: LabelAmbiguity, logits: np.ndarray, given: np.ndarray
) -> list[np.ndarray]:
    """Value, q and gradient of the sum of values to the logits, under cross-entropy."""
    z = tf.constant(logits[None])
    with tf.GradientTape() as tape:
        tape.watch(z)
        costs = -tf.nn.log_softmax(z)
        value = ambiguity(costs, given)
    q = ambiguity.worst_case_labels(costs, given)
    return [x.numpy()[0] for x in (value, q, tape.gradient(value, z))]
