"""From the block `model` of a recipe to a network, by closed tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_robustseg.layers import MonotoneEquilibrium, TVSegmentation, UnrolledProximalNetwork
from keras_robustseg.models import FixedNormalization, from_hub, unet
from keras_robustseg.recipes import Recipe

Scale = tuple[list[float], list[float]]
"""Mean and variance of each channel of the images."""


def make_network(recipe: Recipe, shape: tuple[int | None, ...], classes: int, scale: Scale) -> Any:
    """Return the network of a recipe, which gives logits.

    Args:
        recipe: the recipe.
        shape: of an image, (*S, channels), sizes None.
        classes: how many.
        scale: of the images, kept as constants.
    """
    settings = recipe.model.model_dump()
    head = settings.pop("head")
    network = NETWORKS[settings.pop("kind")](settings, shape, classes, scale, recipe.seed)
    return network if head is None else with_head(network, head)


def with_head(network: keras.Model, settings: dict[str, Any]) -> keras.Model:
    """Return the network with its main logits passed through a `TVSegmentation`."""
    options = {name: value for name, value in settings.items() if name != "kind"}
    head = TVSegmentation(output="logits", name="tv_segmentation", **options)
    outputs = network.outputs
    main, coarser = head(outputs[0]), outputs[1:]
    return keras.Model(network.inputs[0], [main, *coarser] if coarser else main, name=network.name)


def _unet(settings: dict[str, Any], shape: Any, classes: int, scale: Scale, seed: int) -> Any:
    return unet(shape, classes, normalization=scale, seed=seed, **settings)


def _hub(settings: dict[str, Any], shape: Any, classes: int, scale: Scale, seed: int) -> Any:
    preset = settings.pop("preset")
    return from_hub(preset, classes, input_shape=shape, normalization=scale, **settings)


def _equilibrium(
    settings: dict[str, Any], shape: Any, classes: int, scale: Scale, seed: int
) -> keras.Model:
    layer = MonotoneEquilibrium(name="equilibrium", **settings)
    return _with_logits(layer, 1, shape, classes, scale)


def _unrolled(
    settings: dict[str, Any], shape: Any, classes: int, scale: Scale, seed: int
) -> keras.Model:
    size = settings.pop("head_kernel_size")
    layer = UnrolledProximalNetwork(name="unrolled_proximal", **settings)
    return _with_logits(layer, size, shape, classes, scale)


def _with_logits(
    layer: keras.layers.Layer, size: int, shape: Any, classes: int, scale: Scale
) -> keras.Model:
    """The layer on normalised images, and a convolution from its output to logits."""
    convolution = keras.layers.Conv2D if len(shape) == 3 else keras.layers.Conv3D
    image = keras.Input(shape, name="image")
    features = layer(FixedNormalization(*scale, name="normalize")(image))
    head = convolution(classes, size, padding="same", dtype="float32", name="logits")
    return keras.Model(image, head(features), name=layer.name)


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "unet": _unet,
    "hub": _hub,
    "equilibrium": _equilibrium,
    "unrolled_proximal": _unrolled,
}
