"""A Dice loss between squared and absolute distances, which outliers move less."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.losses._soft_dice import SoftDice, class_ratio_per_image


def noise_robust_dice_per_image(
    probabilities: Any, reference: Any, weights: Any = None, *, gamma: float = 1.5, **options: Any
) -> tuple[Any, Any]:
    """Return sum_i |p_i - q_i|^gamma / sum_i (p_i^2 + q_i^2), averaged over classes, of each image.

    Wang et al. (IEEE TMI 2020, the loss of COPLE-Net). gamma = 2 is the Dice loss with squares,
    1 - 2 <p, q> / (|p|^2 + |q|^2); gamma = 1 weighs all errors alike, as the mean absolute error
    does. In place of smoothing constants stands the rule for empty classes of
    `soft_dice_per_image`.

    Args:
        probabilities: p (B, *S, C).
        reference: q (B, *S, C), any label distribution.
        weights: (B, *S) base weights of the pixels; 1 by default.
        gamma: in [1, 2].
        **options: `pooled`, `empty` and `include_background` of `soft_dice_per_image`.

    Returns:
        (values, weights), each (B,); the weight is the sum of the pixel weights of the image.

    Example:
        `values, weights = noise_robust_dice_per_image(keras.ops.softmax(logits), one_hot_mask)`
    """
    distance = ops.power(ops.abs(probabilities - reference), gamma)
    size = ops.square(probabilities) + ops.square(reference)
    return class_ratio_per_image(distance, size, reference, weights, **options)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class NoiseRobustDice(SoftDice):
    """Mean over images of `noise_robust_dice_per_image`; an image weighs as its pixels together.

    Args:
        gamma: exponent in [1, 2].
        **kwargs: arguments of `SoftDice`.

    Raises:
        ValueError: `gamma` is out of its range.

    Example:
        `losses.NoiseRobustDice(gamma=1.5)(mask, logits)`
    """

    def __init__(self, gamma: float = 1.5, **kwargs: Any) -> None:
        if not 1.0 <= gamma <= 2.0:
            raise ValueError(f"`gamma` must be in [1, 2]. Received: gamma={gamma}")
        super().__init__(**kwargs)
        self.gamma = gamma

    def per_image(
        self, probabilities: Any, reference: Any, weights: Any, **options: Any
    ) -> tuple[Any, Any]:
        """Return the loss of each image and its weight, each (B,)."""
        return noise_robust_dice_per_image(
            probabilities, reference, weights, gamma=self.gamma, **options
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "gamma": self.gamma}
