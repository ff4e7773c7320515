"""Layers that let a network of strided stages take images of any size."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

PADDINGS = ("reflect", "edge")


def _source_index(size: Any, padded: Any, mode: str) -> Any:
    """Index into an axis of length `size` for each of `padded` positions.

    Reflection is a triangle wave of period 2(size - 1), so unlike `ops.pad` it also serves an axis
    that is shorter than its padding, down to a single pixel.
    """
    position = ops.arange(padded, dtype="int32")
    last = size - 1
    if mode == "edge":
        return ops.minimum(position, last)
    position = ops.mod(position, ops.maximum(2 * last, 1))
    return ops.minimum(last - ops.abs(position - last), last)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class PadToMultiple(keras.layers.Layer):
    """Extend every spatial axis at its end to the next multiple of `multiple`.

    Shapes: (B, *S, ch) -> (B, *S', ch) with S' = multiple * ceil(S / multiple); sizes may be
    unknown until run time.

    Args:
        multiple: positive integer.
        mode: `"reflect"` (without repeating the border pixel) or `"edge"`.
        **kwargs: forwarded to `keras.layers.Layer` (`name`, `dtype`).

    Raises:
        ValueError: `multiple` is not a positive integer, or `mode` is unknown.

    Example:
        `PadToMultiple(8)(keras.ops.zeros((1, 13, 6, 1))).shape  # (1, 16, 8, 1)`
    """

    def __init__(self, multiple: int, *, mode: str = "reflect", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(multiple, int) or multiple < 1:
            raise ValueError(
                "Invalid value for argument `multiple`. Expected a positive integer. "
                f"Received: multiple={multiple!r}"
            )
        if mode not in PADDINGS:
            raise ValueError(
                f"Invalid value for argument `mode`. Expected one of {PADDINGS}. "
                f"Received: mode={mode!r}"
            )
        self.multiple = multiple
        self.mode = mode

    def _padded(self, size: Any) -> Any:
        # No negative numbers: ONNX divides integers towards zero.
        return (size + self.multiple - 1) // self.multiple * self.multiple

    def call(self, images: Any) -> Any:
        """Return the extended images."""
        sizes = ops.shape(images)[1:-1]
        for axis, size in enumerate(sizes, start=1):
            if isinstance(size, int) and size % self.multiple == 0:
                continue
            index = _source_index(size, self._padded(size), self.mode)
            images = ops.take(images, index, axis=axis)
        return images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the extended shape; unknown sizes stay unknown."""
        spatial = (None if size is None else self._padded(size) for size in input_shape[1:-1])
        return (input_shape[0], *spatial, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "multiple": self.multiple, "mode": self.mode}


@keras.saving.register_keras_serializable(package="keras_robustseg")
class CropLike(keras.layers.Layer):
    """Cut `x` at the end of each spatial axis to the size of `reference`.

    Shapes: [x (B, *S', ch), reference (B, *S, any)] -> (B, *S, ch), with S <= S'.

    Example:
        `CropLike()([padded_logits, images])`
    """

    def call(self, inputs: list[Any]) -> Any:
        """Return the cut tensor."""
        x, reference = inputs
        spatial = tuple(slice(None, size) for size in ops.shape(reference)[1:-1])
        return x[(slice(None), *spatial)]

    def compute_output_shape(
        self, input_shape: list[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Return `reference`'s spatial shape with the channels of `x`."""
        x, reference = input_shape
        return (x[0], *reference[1:-1], x[-1])


def _interpolate(x: Any, axis: int, size: Any) -> Any:
    """Linear interpolation along one axis to `size` pixels, pixel centres at half numbers."""
    length = ops.shape(x)[axis]
    scale = ops.cast(length, "float32") / ops.cast(size, "float32")
    position = (ops.arange(size, dtype="float32") + 0.5) * scale - 0.5
    position = ops.clip(position, 0.0, ops.cast(length - 1, "float32"))
    low = ops.cast(ops.floor(position), "int32")
    high = ops.minimum(low + 1, length - 1)
    share = ops.cast(position - ops.cast(low, "float32"), x.dtype)
    share = ops.reshape(share, (-1,) + (1,) * (len(x.shape) - 1 - axis))
    return ops.take(x, low, axis=axis) * (1 - share) + ops.take(x, high, axis=axis) * share


@keras.saving.register_keras_serializable(package="keras_robustseg")
class ResizeLike(keras.layers.Layer):
    """Resize `x` to the spatial size of `reference`, linearly along each axis.

    Unlike `keras.ops.image.resize` it takes sizes that are known at run time only, and volumes.

    Shapes: [x (B, *s, ch), reference (B, *S, any)] -> (B, *S, ch).

    Example:
        `ResizeLike()([coarse_logits, images])`
    """

    def call(self, inputs: list[Any]) -> Any:
        """Return the resized tensor."""
        x, reference = inputs
        for axis, size in enumerate(ops.shape(reference)[1:-1], start=1):
            x = _interpolate(x, axis, size)
        return x

    def compute_output_shape(
        self, input_shape: list[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Return `reference`'s spatial shape with the channels of `x`."""
        x, reference = input_shape
        return (x[0], *reference[1:-1], x[-1])
