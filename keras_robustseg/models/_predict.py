"""Class probabilities of one image of any size, whole or by a sliding window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from scipy.special import expit, softmax


def predict_probabilities(
    network: Any,
    image: np.ndarray,
    *,
    patch: Sequence[int] | None = None,
    overlap: float = 0.5,
    batch_size: int = 4,
) -> np.ndarray:
    """Predict the class probabilities of every pixel of one image.

    With `patch`, windows w at evenly spaced places cover the image and are averaged,

        p(x) = sum_w g(x - c_w) p_w(x) / sum_w g(x - c_w),

    where c_w is the window's centre and g a Gaussian whose standard deviation is an eighth of the
    window (Isensee et al., nnU-Net, Nature Methods 2021), because a network knows least at the
    border of what it sees. Axes shorter than the window are mirrored at their end. All calls of
    the network have one shape then; without `patch` each new image size may be traced anew.

    Args:
        network: a Keras model that returns logits (B, *S, C), or a list of them of which the first
            counts. C = 1 is a binary logit.
        image: (*S, channels), any number type.
        patch: size of the window per spatial axis; None predicts the whole image in one call.
        overlap: least share of a window that its neighbour covers, in [0, 1).
        batch_size: windows in one call.

    Returns:
        float32 (*S, C); two classes where C = 1.

    Raises:
        ValueError: `patch`, `overlap` or `batch_size` does not fit.

    Example:
        ```python
        network = unet((None, None, None, 1), 2, width=4, depth=3)
        volume = np.zeros((40, 70, 33, 1))
        predict_probabilities(network, volume, patch=(32, 32, 32)).shape  # (40, 70, 33, 2)
        ```
    """
    image = np.asarray(image, "float32")
    if patch is None:
        return _probabilities(network, image[None])[0]
    patch = tuple(patch)
    _check(image, patch, overlap, batch_size)
    size = image.shape[:-1]
    missing = [(0, max(window - length, 0)) for window, length in zip(patch, size, strict=True)]
    blended = _blend(
        network, np.pad(image, [*missing, (0, 0)], mode="reflect"), patch, overlap, batch_size
    )
    return blended[tuple(slice(length) for length in size)]


def _blend(
    network: Any, image: np.ndarray, patch: tuple[int, ...], overlap: float, batch_size: int
) -> np.ndarray:
    """Average the windows of an image that is at least as large as one."""
    importance = _importance(patch)[..., None]
    total: Any = 0.0
    weight = np.zeros((*image.shape[:-1], 1), "float32")
    for places in _batched(_places(image.shape[:-1], patch, overlap), batch_size):
        # The last batch is filled up: a smaller one would be traced and compiled once more.
        filled = places + [places[-1]] * (batch_size - len(places))
        found = _probabilities(network, np.stack([image[place] for place in filled]))
        if np.ndim(total) == 0:
            total = np.zeros((*image.shape[:-1], found.shape[-1]), "float32")
        for place, probabilities in zip(places, found, strict=False):
            total[place] += importance * probabilities
            weight[place] += importance
    return total / weight


def _probabilities(network: Any, images: np.ndarray) -> np.ndarray:
    outputs = network.predict_on_batch(images)
    logits = outputs[0] if isinstance(outputs, list | tuple) else outputs
    logits = np.asarray(logits, "float32")
    if logits.shape[-1] > 1:
        return softmax(logits, axis=-1)
    return np.concatenate([expit(-logits), expit(logits)], axis=-1)


def _places(
    size: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> Iterator[tuple[slice, ...]]:
    axes = [
        [slice(start, start + window) for start in _starts(length, window, overlap)]
        for length, window in zip(size, patch, strict=True)
    ]
    return itertools.product(*axes)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spaced, the first at 0, the last at the end, the least number that overlaps enough."""
    steps = math.ceil((length - window) / max(int(window * (1 - overlap)), 1))
    return [round(place) for place in np.linspace(0, length - window, steps + 1)]


def _importance(patch: tuple[int, ...]) -> np.ndarray:
    def gauss(window: int) -> np.ndarray:
        offset = np.arange(window) - (window - 1) / 2
        return np.exp(-0.5 * (offset / (window / 8)) ** 2)

    return reduce(np.multiply.outer, map(gauss, patch)).astype("float32")


def _batched(places: Iterator[Any], batch_size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(places, batch_size)):
        yield batch


def _check(image: np.ndarray, patch: tuple[int, ...], overlap: float, batch_size: int) -> None:
    axes = image.ndim - 1
    if len(patch) != axes or min(patch) < 1:
        raise ValueError(
            f"Invalid value for argument `patch`. Expected {axes} positive sizes for an image of "
            f"shape {image.shape}. Received: patch={patch}"
        )
    if not 0 <= overlap < 1:
        raise ValueError(
            "Invalid value for argument `overlap`. Expected a share in [0, 1). "
            f"Received: overlap={overlap}"
        )
    if batch_size < 1:
        raise ValueError(
            "Invalid value for argument `batch_size`. Expected a positive integer. "
            f"Received: batch_size={batch_size}"
        )
