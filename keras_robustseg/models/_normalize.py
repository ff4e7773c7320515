"""Fixed normalisation of input channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers


def normalized(image: Any, normalization: tuple[Sequence[float], Sequence[float]] | None) -> Any:
    """Return (image - mean) / sqrt(variance) per channel, constants kept in the layer's config.

    Args:
        image: symbolic (B, *S, ch).
        normalization: (mean, variance), each with one number per channel; None returns the image.

    Raises:
        ValueError: the lengths differ from ch, or a variance is not positive.
    """
    if normalization is None:
        return image
    mean, variance = ([float(value) for value in values] for values in normalization)
    channels = image.shape[-1]
    if len(mean) != channels or len(variance) != channels or min(variance) <= 0:
        raise ValueError(
            "Invalid value for argument `normalization`. Expected one mean and one positive "
            f"variance for each of {channels} channels. "
            f"Received: mean={mean}, variance={variance}"
        )
    # float32 even under mixed precision: native intensities may be in the thousands.
    return layers.Normalization(
        axis=-1, mean=mean, variance=variance, dtype="float32", name="normalize"
    )(image)
