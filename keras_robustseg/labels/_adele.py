"""ADELE (Liu et al., CVPR 2022): early-learning correction of masks, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels._store_codec import STORAGES

SURE = 12.0
"""Logit of the class of a corrected pixel over the others: the rest is 6e-6."""


def resize_linear(values: Any, sizes: Sequence[int]) -> Any:
    """Return (B, *sizes, C): linear interpolation between the centres of the pixels, any rank.

    A matrix for every axis: it is differentiated and compiled everywhere, in 3-D too.

    Args:
        values: (B, *S, C) with a static shape S.
        sizes: as many as S has axes.
    """
    for axis, size in enumerate(sizes, start=1):
        old = values.shape[axis]
        if old == size:
            continue
        matrix = ops.cast(_interpolation(old, size), values.dtype)
        values = ops.moveaxis(ops.tensordot(values, matrix, axes=[[axis], [1]]), -1, axis)
    return values


def _interpolation(old: int, new: int) -> np.ndarray:
    """Matrix (new, old) that takes samples at pixel centres to new pixel centres."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old), "float32")
    matrix[np.arange(new), low] = 1.0 - (place - low)
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += place - low
    return matrix


def log_mean(log_ps: Sequence[Any]) -> Any:
    """Return log of the mean of several probabilities (B, *S, C)."""
    return ops.logsumexp(ops.stack(list(log_ps)), axis=0) - float(np.log(len(log_ps)))


def scale_divergence(log_ps: Sequence[Any], log_m: Any) -> Any:
    """Return the Jensen-Shannon divergence 1/n sum_s KL(p_s || m) of the scales (B, *S).

    Args:
        log_ps: (B, *S, C) log probabilities of each scale.
        log_m: (B, *S, C) log of their mean.
    """
    terms = [ops.sum(ops.exp(log_p) * (log_p - log_m), axis=-1) for log_p in log_ps]
    return sum(terms[1:], terms[0]) / float(len(terms))


def confident_pixels(p: Any, confidence: float) -> Any:
    """Return which pixels (B, *S) have a class above `confidence`: a gate of pixels, not of images.

    The authors' program takes the maximum over the whole image, which lets every image pass that
    has one sure pixel.

    Args:
        p: (B, *S, C) probabilities.
        confidence: the paper's tau (correction) or rho (consistency).

    Example:
        `confident_pixels(np.array([[[0.9, 0.1], [0.6, 0.4]]]), 0.8)  # [[True, False]]`
    """
    return ops.max(p, axis=-1) > confidence


def corrected_classes(
    p: Any, given: Any, correcting: Any, present: Any, *, confidence: float
) -> tuple[Any, Any]:
    """Return which pixels get the predicted class in the place of the given one, and that class.

    A pixel is corrected if the prediction is confident there, if the given and the predicted
    class are both being corrected (background is as soon as any class is), and if the image's
    mask has the predicted class somewhere (background always may be predicted).

    Args:
        p: (B, *S, C) probabilities, the mean over the scales.
        given: int (B, *S) original class, in 0..C-1.
        correcting: (C,) 1 for the classes whose correction has begun.
        present: (B, C) 1 for the classes that the image's original mask has; None for no such
            constraint.
        confidence: tau.

    Returns:
        bool (B, *S), and int (B, *S).
    """
    predicted = ops.argmax(p, axis=-1)
    background = ops.arange(p.shape[-1]) == 0
    begun = ops.logical_or(ops.cast(correcting, "bool"), background)
    begun = ops.logical_and(begun, ops.any(ops.cast(correcting, "bool")))
    allowed = ops.logical_and(ops.take(begun, given), ops.take(begun, predicted))
    allowed = ops.logical_and(allowed, confident_pixels(p, confidence))
    if present is not None:
        there = ops.logical_or(ops.cast(present, "bool"), background)
        flat = ops.reshape(predicted, (ops.shape(predicted)[0], -1))
        seen = ops.take_along_axis(ops.cast(there, "int32"), ops.cast(flat, "int32"), axis=1)
        allowed = ops.logical_and(allowed, ops.reshape(seen, ops.shape(predicted)) > 0)
    return allowed, predicted


@keras.saving.register_keras_serializable(package="keras_robustseg")
class Adele:
    """ADELE: masks are corrected class by class, when the training curve says that it is time.

        L_i = 1/S sum_s CE(q_i, p_is)  +  consistency 1/S sum_s KL(p_is || m_i) [max_k m_ik > gate]

    Liu, Liu, Zhu, Shen, Fernandez-Granda, "Adaptive early-learning correction for segmentation
    from noisy annotations" (CVPR 2022). p_is is the prediction for the image resized by scale s,
    m_i the mean over the S scales, q_i the mask, given or corrected. The IoU of the predictions
    in training with the given masks is fitted, for each class, by a(1 - exp(-t^b/c)); when the
    slope has dropped by `slope_drop`, the class is about to be memorised, and its pixels are
    corrected from then on: where m_i is confident, its class takes the place of the given one
    (`corrected_classes`).

    As in the authors' program the predictions of training serve for the correction: the mean of
    the scales is there anyway. Different from it, the gates are of pixels and not of images,
    the correction is always relative to the original mask, void stays void, and predictions for
    augmented images are carried back to the original frame.

    A step costs as many network passes as there are scales, of their sizes.

    Args:
        confidence: tau in (0, 1), least probability of a correction.
        slope_drop: r in (0, 1).
        consistency: weight of the divergence between scales, at least 0.
        gate: rho in [0, 1), least probability for which the scales must agree.
        scales: factors of the image size; 1 must be among them.
        class_constraint: whether a pixel can only become a class that its image's mask has.
        repeat: whether a pixel is corrected anew at every visit, from its original class; if not,
            only in the epoch after its class has begun.
        store: "device" or "disk", where corrections are kept, C-1 numbers per pixel.
        storage: "float32" or "float16".

    Raises:
        ValueError: a value out of its range.

    Example:
        ```python
        model = RobustSegmenter(network, Adele(), label_shapes=pipeline.shapes)
        model.compile(keras.optimizers.Adam(2e-3), metrics=[Dice(2)])
        model.fit(pipeline.dataset(), epochs=40)
        ```
    """

    default_region_weight = 0.0
    keeps_rows = True

    def __init__(
        self,
        *,
        confidence: float = 0.8,
        slope_drop: float = 0.9,
        consistency: float = 1.0,
        gate: float = 0.8,
        scales: Sequence[float] = (0.7, 1.0, 1.5),
        class_constraint: bool = True,
        repeat: bool = True,
        store: str = "device",
        storage: str = "float32",
    ) -> None:
        self.confidence, self.slope_drop = float(confidence), float(slope_drop)
        self.consistency, self.gate = float(consistency), float(gate)
        self.scales = [float(scale) for scale in scales]
        self.class_constraint, self.repeat = bool(class_constraint), bool(repeat)
        self.store, self.storage = store, storage
        self._check()

    def _check(self) -> None:
        for name in ("confidence", "slope_drop"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` must be in (0, 1). Received: {getattr(self, name)}")
        if not 0.0 <= self.gate < 1.0:
            raise ValueError(f"`gate` must be in [0, 1). Received: {self.gate}")
        if not 0.0 <= self.consistency < float("inf"):
            raise ValueError(f"`consistency` must be at least 0. Received: {self.consistency}")
        if 1.0 not in self.scales or not all(0.0 < scale <= 4.0 for scale in self.scales):
            raise ValueError(
                "`scales` must be in (0, 4] and have 1 among them, the prediction that is served. "
                f"Received: {self.scales}"
            )
        if self.store not in ("device", "disk"):
            raise ValueError(f'`store` must be "device" or "disk". Received: {self.store!r}')
        # From one class to another the logits move by 24: out of reach of eight bits.
        if self.storage not in STORAGES or self.storage == "uint8":
            raise ValueError(
                f'`storage` must be "float32" or "float16". Received: {self.storage!r}'
            )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("confidence", "slope_drop", "consistency", "gate", "scales")
        others = ("class_constraint", "repeat", "store", "storage")
        return {name: getattr(self, name) for name in (*names, *others)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Adele:
        """Rebuild from `get_config`."""
        return cls(**config)
