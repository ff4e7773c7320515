"""Fixed normalisation of input channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_robustseg")
class FixedNormalization(keras.layers.Layer):
    """Compute (image - mean) / sqrt(variance) per channel, with constants kept in the config.

    Unlike those of `keras.layers.Normalization`, the constants are part of every traced graph, so
    that exporters which cannot follow captured tensors (ONNX) see them. Computes in float32 under
    mixed precision too, because native intensities may be in the thousands.

    Shapes: (B, *S, ch) -> (B, *S, ch).

    Args:
        mean: one number per channel.
        variance: one positive number per channel.
        **kwargs: forwarded to `keras.layers.Layer` (`name`, `dtype`).

    Raises:
        ValueError: the lengths differ from each other or from ch, or a variance is not positive.

    Example:
        `FixedNormalization([-300.0], [9e4])(images)`
    """

    def __init__(self, mean: Sequence[float], variance: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mean = [float(value) for value in mean]
        self.variance = [float(value) for value in variance]
        self._require(len(self.mean) == len(self.variance) and min(self.variance, default=0) > 0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that there is one constant of each kind per channel."""
        self._require(len(self.mean) == input_shape[-1], f" for {input_shape[-1]} channels")

    def call(self, images: Any) -> Any:
        """Return the normalised images."""
        mean, variance = (
            ops.convert_to_tensor(values, dtype=self.compute_dtype)
            for values in (self.mean, self.variance)
        )
        return (images - mean) * ops.rsqrt(variance)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "mean": self.mean, "variance": self.variance}

    def _require(self, good: bool, where: str = "") -> None:
        if not good:
            raise ValueError(
                "Invalid value for argument `normalization`. Expected one mean and one positive "
                f"variance per channel{where}. "
                f"Received: mean={self.mean}, variance={self.variance}"
            )


def normalized(image: Any, normalization: tuple[Sequence[float], Sequence[float]] | None) -> Any:
    """Put a `FixedNormalization(mean, variance)` on a symbolic image; None leaves it as it is."""
    if normalization is None:
        return image
    return FixedNormalization(*normalization, name="normalize")(image)
