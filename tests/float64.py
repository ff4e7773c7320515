"""Losses against formulas that a test writes down again, in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import log_softmax


def value_and_gradient(
    loss: Callable[..., Any], logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A pure loss of (log p, labels), summed, and its gradient to the logits, in float32."""
    z = tf.constant(logits, "float32")
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = tf.reduce_sum(loss(tf.nn.log_softmax(z), tf.constant(labels, "float32")))
    return value.numpy(), tape.gradient(value, z).numpy()


def differences(f: Callable[[np.ndarray], float], z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Gradient of f at z by central differences."""
    z, gradient = np.array(z, dtype=np.float64), np.zeros(z.shape)
    for index in np.ndindex(*z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[index] += sign * step
            ends.append(f(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def cases(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits (B, H, W, C) and labels, hard and soft, 2-D and 3-D, for several class counts."""
    found = []
    for classes, space in ((2, (2, 3)), (3, (2, 1, 2)), (6, (1, 4))):
        logits = rng.normal(0, 2, (2, *space, classes))
        hard = np.eye(classes)[rng.integers(0, classes, (2, *space))]
        found += [(logits, hard), (logits, rng.dirichlet(np.ones(classes), (2, *space)))]
    return found


def agrees(
    loss: Callable[..., Any],
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> None:
    """The loss has the value of a formula of (log p, labels), and its differences as gradient."""
    for logits, labels in cases(rng):
        value, gradient = value_and_gradient(loss, logits, labels)

        def total(z: np.ndarray, y: np.ndarray = labels) -> float:
            return float(np.sum(formula(log_softmax(z, axis=-1), y)))

        np.testing.assert_allclose(value, total(logits), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, differences(total, logits), rtol=2e-4, atol=2e-6)


def holds_at_extremes(
    loss: Callable[..., Any],
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> None:
    """At logits of -100 and 100 the value is that of the formula, and the gradient is finite."""
    for classes in (2, 4):
        logits = rng.choice([-100.0, 0.0, 100.0], (1, 5, 6, classes))
        labels = np.eye(classes)[rng.integers(0, classes, (1, 5, 6))]
        value, gradient = value_and_gradient(loss, logits, labels)
        expected = np.sum(formula(log_softmax(logits, axis=-1), labels))
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert np.isfinite(gradient).all()
