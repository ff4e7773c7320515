"""keras-hub's segmenters as plain networks that return logits of the image's size."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_robustseg.errors import RobustSegError
from keras_robustseg.models._normalize import normalized
from keras_robustseg.models._sizes import CropLike, PadToMultiple, ResizeLike


def from_hub(
    preset: Any,
    num_classes: int,
    *,
    input_shape: Sequence[int | None],
    load_weights: bool = True,
    multiple: int = 32,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    name: str = "hub",
) -> keras.Model:
    """Build a network around a segmenter of keras-hub.

    A grey image is repeated for a backbone of three channels. A backbone of a fixed size gets the
    image resized to it and its logits resized back; any other gets the image mirrored to a
    multiple of `multiple`, and the logits cut back. The preset's own preprocessing is left out:
    `normalization` takes its place.

    Shapes: (B, H, W, ch) -> (B, H, W, num_classes), float32 logits.

    Args:
        preset: name or directory of a preset (`"deeplab_v3_plus_resnet50_pascalvoc"`; a name is
            downloaded by keras-hub), or a keras-hub backbone or image segmenter.
        num_classes: channels of the logits; a preset gets a new head for them.
        input_shape: (H, W, ch) of the images; H and W may be None.
        load_weights: take the preset's weights; False starts from random ones.
        multiple: what the backbone's strides multiply to.
        normalization: (mean, variance) per channel of the image, kept as constants.
        name: the model's name.

    Raises:
        RobustSegError: keras-hub is not installed.
        ValueError: the preset does not fit the images or the classes.

    Example:
        `from_hub("deeplab_v3_plus_resnet50_pascalvoc", 2, input_shape=(None, None, 3))`
    """
    if len(input_shape) != 3 or not input_shape[-1]:
        raise ValueError(
            "Invalid value for argument `input_shape`. Expected (H, W, channels); keras-hub's "
            f"segmenters are 2-D. Received: input_shape={tuple(input_shape)}"
        )
    core = _core(_segmenter(preset, num_classes, load_weights), num_classes)
    image = keras.Input(tuple(input_shape), name="image")
    x = _with_channels(normalized(image, normalization), core.input.shape[-1])
    size = core.input.shape[1:3]
    if None in size:
        logits = core(PadToMultiple(multiple, name="pad")(x))
        logits = CropLike(dtype="float32", name="logits")([logits, image])
    else:
        logits = core(layers.Resizing(*size, name="resize")(x))
        logits = ResizeLike(dtype="float32", name="logits")([logits, image])
    return keras.Model(image, logits, name=name)


def _segmenter(preset: Any, num_classes: int, load_weights: bool) -> keras.Model:
    segmenters = _keras_hub().models.ImageSegmenter
    if isinstance(preset, str):
        return segmenters.from_preset(preset, load_weights=load_weights, num_classes=num_classes)
    if isinstance(preset, segmenters):
        return preset
    for kind in segmenters.__subclasses__():
        if kind.backbone_cls is type(preset):
            return kind(backbone=preset, num_classes=num_classes)
    raise ValueError(
        "Invalid value for argument `preset`. Expected the name of a preset, an image segmenter "
        f"of keras-hub, or a backbone that one of them uses. Received: {type(preset).__name__}"
    )


def _core(segmenter: keras.Model, num_classes: int) -> keras.Model:
    """The segmenter without keras-hub's task around it, whose `predict` preprocesses again."""
    inputs, outputs = segmenter.input, segmenter.output
    if not isinstance(inputs, keras.KerasTensor) or not isinstance(outputs, keras.KerasTensor):
        raise ValueError(
            "Invalid value for argument `preset`. Expected a segmenter with one image as its input "
            f"and one output. Received: {type(segmenter).__name__}"
        )
    if outputs.shape[-1] != num_classes:
        raise ValueError(
            f"Invalid value for argument `num_classes`. Expected {outputs.shape[-1]}, what "
            f"{type(segmenter).__name__} returns. Received: num_classes={num_classes}"
        )
    return keras.Model(inputs, outputs, name="segmenter")


def _with_channels(image: Any, channels: int) -> Any:
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] != 1:
        raise ValueError(
            f"Invalid value for argument `input_shape`. Expected {channels} channels, or one that "
            f"is repeated. Received: {image.shape[-1]} channels"
        )
    return layers.Concatenate(name="repeat")([image] * channels)


def _keras_hub() -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise RobustSegError(
            f"Networks of keras-hub need the extra `hub`, and it cannot be imported ({error}). "
            'Install it with `pip install "keras-robustseg[hub]"`.'
        ) from error
