"""A Dice loss that soft labels minimise, with a stated rule for classes that are not there."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss

Pooled = Literal["image", "batch"]
Empty = Literal["skip", "penalise"]

# A reference whose largest entry is below this share has no such class: the tails of a softmax
# are never 0. Hard masks (1), and one reader in ten, are above it.
_PRESENT = 0.1
# With an empty reference, a prediction on this share of the image costs 1/2.
_EMPTY_SHARE = 0.01


def soft_dice_per_image(
    probabilities: Any,
    reference: Any,
    weights: Any = None,
    *,
    pooled: Pooled = "image",
    empty: Empty = "skip",
    include_background: bool = False,
) -> tuple[Any, Any]:
    """Return the Dice semimetric loss of each image (B,) and the weight (B,) of that image.

    For each class |p - q| / (|p| + |q|) with |.| the weighted L1 norm over the pixels, which is
    1 - Dice where q is hard, and 0 only at p = q for any q (Wang et al. 2023, arXiv 2303.16296,
    equation 9; the usual 1 - 2 <p, q> / (|p| + |q|) has its least value elsewhere for soft q).
    Then the mean over the classes.

    A class is empty in the reference when no pixel of positive weight gives it 0.1 or more.
    "skip" takes such a (image, class) pair out of the mean; an image of only such pairs gets
    value 0 and weight 0. "penalise" keeps the pair and costs |p - q| / (|p| + |q| + W/100), W the
    weight of all pixels: 0 if the prediction is empty too, and up to almost 1.

    Args:
        probabilities: p (B, *S, C).
        reference: q (B, *S, C), any label distribution.
        weights: (B, *S) base weights of the pixels; 1 by default.
        pooled: "image", or "batch": the norms run over all images, and B is 1 in the results.
        empty: rule for classes that the reference lacks.
        include_background: whether class 0 counts.

    Returns:
        (values, weights), each (B,); the weight is the sum of the pixel weights of the image.

    Example:
        `values, weights = soft_dice_per_image(keras.ops.softmax(logits), one_hot_mask)`
    """
    return class_ratio_per_image(
        ops.abs(probabilities - reference),
        probabilities + reference,
        reference,
        weights,
        pooled=pooled,
        empty=empty,
        include_background=include_background,
    )


def class_ratio_per_image(
    distance: Any,
    size: Any,
    reference: Any,
    weights: Any = None,
    *,
    pooled: Pooled = "image",
    empty: Empty = "skip",
    include_background: bool = False,
) -> tuple[Any, Any]:
    """Return sum_i w_i d_ic / sum_i w_i s_ic, averaged over classes c, of each image (B,).

    The rules for empty classes and the weights of images are those of `soft_dice_per_image`,
    which is this ratio for d = |p - q| and s = p + q.

    Args:
        distance: d (B, *S, C).
        size: s (B, *S, C).
        reference: q (B, *S, C), which says what classes an image has.
        weights: (B, *S) base weights of the pixels; 1 by default.
        pooled: as `soft_dice_per_image`.
        empty: as `soft_dice_per_image`.
        include_background: whether class 0 counts.

    Returns:
        (values, weights), each (B,).

    Example:
        `class_ratio_per_image((p - q) ** 2, p**2 + q**2, q)`
    """
    if weights is None:
        weights = ops.ones_like(reference[..., 0])
    first = 0 if include_background else 1
    distance, size, reference = (x[..., first:] for x in (distance, size, reference))
    axes = tuple(range(1, len(reference.shape) - 1))
    axes = (0, *axes) if pooled == "batch" else axes
    pixel = ops.expand_dims(weights, -1)
    distance, size = ops.sum(pixel * distance, axis=axes), ops.sum(pixel * size, axis=axes)
    peak = ops.max(ops.where(pixel > 0, reference, 0.0), axis=axes)
    total = ops.sum(weights, axis=axes)
    present = ops.cast(ops.logical_not(peak < _PRESENT), "float32")
    size = size + (1.0 - present) * _EMPTY_SHARE * ops.expand_dims(total, -1)
    counted = present if empty == "skip" else ops.ones_like(present)
    values = ops.divide_no_nan(distance, size) * counted
    classes = ops.sum(counted, axis=-1)
    mean = ops.divide_no_nan(ops.sum(values, axis=-1), classes)
    weight = total * ops.cast(classes > 0, "float32")
    return ops.reshape(mean, (-1,)), ops.reshape(weight, (-1,))


def soft_dice(
    probabilities: Any,
    reference: Any,
    weights: Any = None,
    *,
    pooled: Pooled = "image",
    empty: Empty = "skip",
    include_background: bool = False,
) -> Any:
    """Return the weighted mean over images of `soft_dice_per_image`, a scalar; same arguments.

    0 with a zero gradient when no image has a class that counts.

    Example:
        `soft_dice(keras.ops.softmax(logits), corrected_labels, weights)`
    """
    values, weight = soft_dice_per_image(
        probabilities,
        reference,
        weights,
        pooled=pooled,
        empty=empty,
        include_background=include_background,
    )
    return ops.divide_no_nan(ops.sum(values * weight), ops.sum(weight))


@keras.saving.register_keras_serializable(package="keras_robustseg")
class SoftDice(SegmentationLoss):
    """Mean over images of `soft_dice_per_image`; an image weighs as much as its pixels together.

    Unreduced, every pixel carries the loss of its image.

    Args:
        pooled: "image", or "batch" for one Dice over all images of the batch.
        empty: "skip" or "penalise", for classes that the mask lacks.
        include_background: whether class 0 counts.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `pooled` or `empty` is none of its values.

    Example:
        `losses.SoftDice(empty="penalise")(mask, logits)`
    """

    def __init__(
        self,
        *,
        pooled: Pooled = "image",
        empty: Empty = "skip",
        include_background: bool = False,
        **kwargs: Any,
    ) -> None:
        check_dice_options(pooled, empty)
        super().__init__(**kwargs)
        self.pooled = pooled
        self.empty = empty
        self.include_background = include_background

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the loss of each image, and the pixel weights of the images that count."""
        values, image_weight = self.per_image(
            ops.exp(log_p),
            labels,
            weights,
            pooled=self.pooled,
            empty=self.empty,
            include_background=self.include_background,
        )
        to_pixels = (-1, *(1,) * (len(weights.shape) - 1))
        counted = ops.reshape(ops.cast(image_weight > 0, "float32"), to_pixels)
        return [(ops.reshape(values, to_pixels), weights * counted)]

    def per_image(
        self, probabilities: Any, reference: Any, weights: Any, **options: Any
    ) -> tuple[Any, Any]:
        """Return the loss of each image and its weight, each (B,)."""
        return soft_dice_per_image(probabilities, reference, weights, **options)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "pooled": self.pooled,
            "empty": self.empty,
            "include_background": self.include_background,
        }


def check_dice_options(pooled: str, empty: str) -> None:
    """Raise ValueError for a value that `SoftDice` does not know."""
    for name, value, allowed in (
        ("pooled", pooled, ("image", "batch")),
        ("empty", empty, ("skip", "penalise")),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")
