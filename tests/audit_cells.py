"""Cells on noise, masks with planted errors, and predictions that know the truth only roughly."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.special import softmax

from keras_robustseg.report import AuditSample


def cells(
    rng: np.random.Generator, shape: tuple[int, ...] = (48, 40), classes: int = 3, count: int = 4
) -> np.ndarray:
    """Discs or balls of classes 1 to C - 1 on background."""
    truth = np.zeros(shape, np.int16)
    axes = np.indices(shape)
    for number in range(count):
        radius = rng.uniform(0.1, 0.17) * min(shape) * (len(shape) - 1)
        centre = [rng.uniform(radius, n - radius) for n in shape]
        distance = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
        truth[distance < radius**2] = 1 + number % (classes - 1)
    return truth


def predict(
    truth: np.ndarray, classes: int, rng: np.random.Generator, *, noise: float = 0.7
) -> np.ndarray:
    """Blurred truth and smooth noise on the logits, as a network that has seen other masks."""
    hot = np.eye(classes)[np.maximum(truth, 0)]
    sigma = (1.0,) * truth.ndim + (0,)
    blurred = ndimage.gaussian_filter(hot, sigma)
    rough = ndimage.gaussian_filter(rng.normal(size=hot.shape), sigma)
    logits = np.log(blurred + 0.005) + noise * rough / rough.std()
    return softmax(logits, axis=-1).astype(np.float32)


def samples(
    rng: np.random.Generator, number: int, noise=None, *, shape=(48, 40), classes=3
) -> tuple[list[AuditSample], list[np.ndarray]]:
    """Samples whose masks carry `noise`, every other one, and their true masks."""
    made, truths = [], []
    for index in range(number):
        truth = cells(rng, shape, classes)
        given = noise(truth, seed=index) if noise is not None and index % 2 else truth
        image = truth[..., None] + rng.normal(0, 0.2, (*shape, 1))
        spacing = (1.0,) * len(shape)
        made.append(
            AuditSample(
                f"case {index}", given, predict(truth, classes, rng), image, spacing=spacing
            )
        )
        truths.append(truth)
    return made, truths
