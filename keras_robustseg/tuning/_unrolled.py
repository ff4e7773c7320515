"""Hypergradients of a logistic regression through steps of proximal gradient descent, unrolled.

    V+ = prox_{t l1}(V - t grad f(V; h)),    f = the smooth part of the fit's objective

The steps begin at the solution, which counts as a constant, and are differentiated backwards, so
that k of them give the first k terms of the Neumann series of the implicit hypergradient (Bolte,
Pauwels, Vaiter, NeurIPS 2022). TensorFlow only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_robustseg.tuning._data import Data
from keras_robustseg.tuning._hyperparameter import SAMPLE_WEIGHT

KNOWN = ("l2", "l1", "feature_penalty", "class_weight", SAMPLE_WEIGHT)


class _Pixels(NamedTuple):
    """Pixels that count: x (n, F), labels (n, C), whether they have an intercept, the divisor."""

    x: Any
    labels: Any
    intercept: bool
    reduction: str


class Unrolled:
    """Differentiates a number of unrolled steps.

    Args:
        steps: how many; 1 is the one-step hypergradient.

    Raises:
        ValueError: when called, for an estimator or a name that it does not know.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(
        self, estimator: Any, train: Data, validation: Data, names: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Return name -> hypergradient of a fitted logistic regression."""
        _check(estimator, names)
        settings = _arguments(estimator, train)
        pixels, held = _pixels(estimator, train), _pixels(estimator, validation)
        step = 1.0 / _curvature(pixels, settings)
        masses = held.labels * validation.weight.reshape(-1, 1)
        found = _compiled()(
            {name: settings.pop(name) for name in names},
            settings,
            pixels,
            held._replace(labels=masses / np.sum(masses)),
            _coefficients(estimator),
            step,
            steps=self.steps,
        )
        return {name: np.asarray(found[name]) for name in names}


@functools.cache
def _compiled() -> Any:
    import tensorflow as tf

    return tf.function(_gradients, reduce_retracing=True)


def _gradients(
    tuned: dict[str, Any],
    others: dict[str, Any],
    pixels: _Pixels,
    held: _Pixels,
    V: Any,
    step: Any,
    steps: int,
) -> dict[str, Any]:
    """Gradient of the validation loss after some steps from V to what is tuned."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tuned)
        settings = {**others, **tuned}
        masses = _masses(pixels, settings)
        (V,) = tf.while_loop(
            lambda _: True,
            lambda V: (_proximal_step(V, pixels, masses, settings, step),),
            (V,),
            maximum_iterations=steps,
        )
        scores = tf.matmul(held.x, V)
        scores = _both(scores) if V.shape[1] == 1 else scores
        loss = -tf.reduce_sum(held.labels * tf.nn.log_softmax(scores))
    return tape.gradient(loss, tuned, unconnected_gradients="zero")


def _check(estimator: Any, names: tuple[str, ...]) -> None:
    from keras_robustseg.classifiers import PixelLogisticRegression

    unknown = [name for name in names if name not in KNOWN]
    parameters = estimator.get_params(deep=False)
    plain = isinstance(estimator, PixelLogisticRegression) and not (
        np.any(parameters["group"]) or parameters["risk"] or parameters["wasserstein_radius"]
    )
    if unknown or not plain or isinstance(parameters["class_weight"], (str, Mapping)):
        raise ValueError(
            "Unrolled and one-step hypergradients are those of PixelLogisticRegression with l2, "
            f"l1, feature_penalty, class_weight (an array) and sample_weight. Received: "
            f"{estimator!r}, hyper-parameters {names}. Use method='implicit'."
        )


def _arguments(estimator: Any, train: Data) -> dict[str, Any]:
    """The estimator's hyper-parameters, and the weights, as tensors."""
    import tensorflow as tf

    parameters = estimator.get_params(deep=False)
    ones = {"feature_penalty": estimator.n_features_in_, "class_weight": len(estimator.classes_)}
    found = {
        name: np.ones(size) if parameters[name] is None else parameters[name]
        for name, size in ones.items()
    }
    found |= {"l2": parameters["l2"], "l1": parameters["l1"], SAMPLE_WEIGHT: train.weight}
    return {name: tf.constant(value, tf.float64) for name, value in found.items()}


def _pixels(estimator: Any, data: Data) -> _Pixels:
    """Rows of pixels, 0 where they are void."""
    import tensorflow as tf

    x = data.x.toarray() if hasattr(data.x, "toarray") else data.x
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    if data.y.ndim == data.weight.ndim:
        labels = (data.y.reshape(-1, 1) == estimator.classes_).astype(np.float64)
    else:
        labels = data.y.reshape(len(x), -1).astype(np.float64)
        labels /= np.maximum(labels.sum(axis=1, keepdims=True), 1e-37)
    counted = (data.weight.reshape(-1, 1) > 0) & (labels.sum(axis=1, keepdims=True) > 0)
    x = np.where(counted, x, 0.0)
    if estimator.fit_intercept:
        x = np.hstack([x, counted])
    tensors = (tf.constant(x, tf.float64), tf.constant(labels * counted, tf.float64))
    return _Pixels(*tensors, bool(estimator.fit_intercept), estimator.reduction)


def _coefficients(estimator: Any) -> Any:
    import tensorflow as tf

    rows = [estimator.coef_.T] + ([estimator.intercept_[None]] if estimator.fit_intercept else [])
    return tf.constant(np.vstack(rows), tf.float64)


def _masses(pixels: _Pixels, settings: Mapping[str, Any]) -> Any:
    """Mass of each class at each pixel over the divisor of the objective, (n, C)."""
    import tensorflow as tf

    weight = tf.reshape(settings[SAMPLE_WEIGHT], (-1, 1))
    masses = weight * pixels.labels * settings["class_weight"]
    if pixels.reduction == "sum":
        return masses
    if pixels.reduction == "weighted_mean":
        return masses / tf.reduce_sum(masses)
    return masses / tf.math.count_nonzero(tf.reduce_sum(pixels.labels, 1), dtype=tf.float64)


def _curvature(pixels: _Pixels, settings: Mapping[str, Any]) -> float:
    """A bound of the second derivative of the smooth part."""
    mass = np.asarray(_masses(pixels, settings)).sum(axis=1)
    spread = np.linalg.norm(np.asarray(pixels.x) * np.sqrt(mass)[:, None], 2) ** 2
    penalty = np.max(settings["l2"]) * np.max(settings["feature_penalty"])
    return 0.5 * float(spread) + float(penalty)


def _proximal_step(
    V: Any, pixels: _Pixels, masses: Any, settings: Mapping[str, Any], step: float
) -> Any:
    import tensorflow as tf

    scores = tf.matmul(pixels.x, V)
    binary = V.shape[1] == 1
    p = tf.nn.softmax(_both(scores) if binary else scores)
    residual = tf.reduce_sum(masses, axis=1, keepdims=True) * p - masses
    slope = tf.matmul(pixels.x, residual[:, 1:] if binary else residual, transpose_a=True)
    l2, l1 = (_on_coefficients(settings, name, V, pixels.intercept) for name in ("l2", "l1"))
    moved = V - step * (slope + l2 * V)
    return tf.sign(moved) * tf.nn.relu(tf.abs(moved) - step * l1)


def _on_coefficients(settings: Mapping[str, Any], name: str, V: Any, intercept: bool) -> Any:
    """A penalty on every coefficient, 0 on the intercept."""
    import tensorflow as tf

    features = V.shape[0] - intercept
    spread = tf.broadcast_to(settings[name], (features, V.shape[1]))
    spread = spread * tf.reshape(settings["feature_penalty"], (-1, 1))
    return tf.pad(spread, [[0, int(intercept)], [0, 0]])


def _both(scores: Any) -> Any:
    import tensorflow as tf

    return tf.concat([tf.zeros_like(scores), scores], axis=1)
