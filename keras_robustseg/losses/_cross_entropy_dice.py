"""Cross-entropy plus Dice, the loss most segmentation networks are trained with."""

from __future__ import annotations

from typing import Any

import keras

from keras_robustseg.losses._cross_entropy import cross_entropy
from keras_robustseg.losses._soft_dice import SoftDice


@keras.saving.register_keras_serializable(package="keras_robustseg")
class CrossEntropyDice(SoftDice):
    """Mean cross-entropy over pixels + dice_weight x mean Dice loss over images.

    The sum is that of nnU-Net (Isensee et al. 2021), with the Dice loss of `SoftDice`.

    Args:
        dice_weight: weight of the Dice loss, 0 or more.
        **kwargs: arguments of `SoftDice`.

    Raises:
        ValueError: the weight is negative.

    Example:
        `losses.CrossEntropyDice(dice_weight=0.5)(mask, logits)`
    """

    def __init__(self, dice_weight: float = 1.0, **kwargs: Any) -> None:
        if not dice_weight >= 0.0:
            raise ValueError(
                f"`dice_weight` must be 0 or more. Received: dice_weight={dice_weight}"
            )
        super().__init__(**kwargs)
        self.dice_weight = dice_weight

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the cross-entropy of the pixels and the weighted Dice loss of the images."""
        dice = [(self.dice_weight * v, w) for v, w in super().terms(log_p, labels, weights)]
        return [(cross_entropy(log_p, labels), weights), *dice]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "dice_weight": self.dice_weight}
