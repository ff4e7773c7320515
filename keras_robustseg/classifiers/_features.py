"""Features of pixels: of the image around them, and of a network's layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_robustseg.classifiers._filters import (
    gaussian,
    hessian_eigenvalues,
    shifts,
    sobel,
    space,
    structure_tensor_eigenvalues,
)

if TYPE_CHECKING:
    import keras


def pixel_features(
    images: Any,
    sigmas: Sequence[float] = (1.0, 2.0, 4.0),
    *,
    intensity: bool = True,
    gradient: bool = True,
    hessian: bool = True,
    structure_tensor: bool = True,
    position: bool = False,
    neighbourhood: int = 0,
) -> Any:
    """Return features of the pixels of 2-D or 3-D images, for a pixel classifier.

    For each channel and each sigma, where the image is smoothed by a Gaussian of sigma pixels:

    | switch | features, d axes of space |
    |---|---|
    | `intensity` | the smoothed image |
    | `gradient` | its Sobel magnitude |
    | `hessian` | d eigenvalues of its second derivative, the greatest first |
    | `structure_tensor` | d eigenvalues of the mean over sigma of g g^T, g the Sobel gradient |

    then for each channel `neighbourhood`, and at the end `position`. The first three, in this
    order, are `skimage.feature.multiscale_basic_features`; the last is
    `skimage.feature.structure_tensor` (mode="nearest") over 16^(d - 1), because Sobel's smoothing
    has sum 1 here. Computed in float32, on whatever device Keras computes.

    Args:
        images: (B, H, W, C) or (B, D, H, W, C), at least two pixels along each axis.
        sigmas: positive, in pixels.
        intensity: whether to return it.
        gradient: whether to return it.
        hessian: whether to return it.
        structure_tensor: whether to return it.
        position: d coordinates, 0 at the first pixel and 1 at the last.
        neighbourhood: radius r of a window; its (2 r + 1)^d pixels are features, 0 for none.

    Returns:
        (B, *S, F) float32, F as long as `pixel_feature_names`.

    Raises:
        ValueError: the shape or an argument is wrong, or nothing is to be returned.

    Example:
        `pixel_features(np.zeros((1, 32, 32, 1)), sigmas=(1, 2)).shape  # (1, 32, 32, 12)`
    """
    x = ops.cast(images, "float32")
    _check(tuple(x.shape), sigmas, neighbourhood)
    switches = (intensity, gradient, hessian, structure_tensor)
    of_channels = list(_of_channels(x, sigmas, switches, neighbourhood))
    found = _position(x) if position else []
    if of_channels:
        by_channel = ops.stack(of_channels, axis=-1)
        flat = (*ops.shape(x)[:-1], x.shape[-1] * len(of_channels))
        found = [ops.reshape(by_channel, flat), *found]
    if not found:
        raise ValueError("No feature is chosen. Set one of the switches to True.")
    return ops.concatenate(found, axis=-1)


def pixel_feature_names(
    dimensions: int,
    channels: int = 1,
    sigmas: Sequence[float] = (1.0, 2.0, 4.0),
    *,
    intensity: bool = True,
    gradient: bool = True,
    hessian: bool = True,
    structure_tensor: bool = True,
    position: bool = False,
    neighbourhood: int = 0,
) -> list[str]:
    """Return the names of what `pixel_features` returns with these arguments, in its order.

    Args:
        dimensions: 2 or 3.
        channels: of the images.
        sigmas: as there.
        intensity: as there.
        gradient: as there.
        hessian: as there.
        structure_tensor: as there.
        position: as there.
        neighbourhood: as there.

    Example:
        `pixel_feature_names(2, sigmas=(1,), hessian=False)[0]  # "channel 0 intensity sigma 1"`
    """
    of_axes = [f" {axis}" for axis in range(dimensions)]
    kinds = [
        (intensity, "intensity", [""]),
        (gradient, "gradient", [""]),
        (hessian, "hessian", of_axes),
        (structure_tensor, "structure tensor", of_axes),
    ]
    names = []
    for channel in range(channels):
        names += [
            f"channel {channel} {kind}{axis} sigma {sigma:g}"
            for sigma in sigmas
            for wanted, kind, axes in kinds
            if wanted
            for axis in axes
        ]
        names += [f"channel {channel} at {by}" for by in _window(neighbourhood, dimensions)]
    return names + [f"position{axis}" for axis in of_axes if position]


def network_features(model: keras.Model, layer_name: str) -> Callable[[Any], Any]:
    """Return a function from images (B, *S, C) to the output (B, *S, F) of a layer of a network.

    A layer on a coarser grid is repeated to the size of the images.

    Args:
        model: a functional or sequential Keras model.
        layer_name: of one of its layers.

    Raises:
        ValueError: there is no such layer; in a call, its grid does not divide that of the images.

    Example:
        `network_features(models.unet((None, None, 1), 3), "bottom")(images)`
    """
    import keras

    part = keras.Model(model.input, model.get_layer(layer_name).output)

    def features(images: Any) -> Any:
        found, wanted = part(images, training=False), tuple(np.shape(images)[1:-1])
        size = tuple(found.shape[1:-1])
        if len(size) != len(wanted) or any(a % b for a, b in zip(wanted, size, strict=True)):
            raise ValueError(
                f"Layer {layer_name!r} has no features for the pixels: images of {wanted} pixels "
                f"give an output of shape {tuple(found.shape)}. Choose a layer whose size divides "
                "theirs."
            )
        for axis, (fine, coarse) in enumerate(zip(wanted, size, strict=True), start=1):
            found = ops.repeat(found, fine // coarse, axis=axis)
        return found

    return features


def _check(shape: tuple[int | None, ...], sigmas: Sequence[float], neighbourhood: int) -> None:
    if len(shape) not in (4, 5) or shape[-1] is None:
        raise ValueError(
            "Expected images of shape (batch, height, width, channels) or (batch, depth, height, "
            f"width, channels). Received: shape={shape}"
        )
    if any(size is not None and size < 2 for size in shape[1:-1]):
        raise ValueError(
            f"Expected at least 2 pixels along each axis of space. Received: shape={shape}"
        )
    if not all(sigma > 0 and np.isfinite(sigma) for sigma in sigmas):
        raise ValueError(f"Expected positive sigmas. Received: {tuple(sigmas)}")
    if not isinstance(neighbourhood, (int, np.integer)) or neighbourhood < 0:
        raise ValueError(f"Expected a whole number as neighbourhood. Received: {neighbourhood!r}")


def _of_channels(
    x: Any, sigmas: Sequence[float], switches: tuple[bool, ...], neighbourhood: int
) -> Iterator[Any]:
    intensity, gradient, hessian, structure_tensor = switches
    for sigma in sigmas:
        smooth = gaussian(x, sigma) if intensity or gradient or hessian else x
        if intensity:
            yield smooth
        if gradient:
            squares = [ops.square(edge) for edge in sobel(smooth)]
            yield ops.sqrt(sum(squares) / len(squares))
        if hessian:
            yield from hessian_eigenvalues(smooth)
        if structure_tensor:
            yield from structure_tensor_eigenvalues(x, sigma)
    if neighbourhood:
        yield from _around(x, list(space(x)), neighbourhood)


def _around(x: Any, axes: list[int], radius: int) -> Iterator[Any]:
    """x at all pixels of a window, in the order of `_window`."""
    for moved in shifts(x, axes[0], radius):
        if len(axes) == 1:
            yield moved
        else:
            yield from _around(moved, axes[1:], radius)


def _window(radius: int, dimensions: int) -> list[tuple[int, ...]]:
    """Steps to all pixels of a window, none for radius 0."""
    return list(product(range(-radius, radius + 1), repeat=dimensions)) if radius else []


def _position(x: Any) -> list[Any]:
    shape = ops.shape(x)
    found = []
    for axis in space(x):
        place = ops.cast(ops.arange(shape[axis]), "float32")
        place = place / ops.cast(shape[axis] - 1, "float32")
        place = ops.reshape(place, [-1 if other == axis else 1 for other in range(len(shape))])
        found.append(ops.broadcast_to(place, (*shape[:-1], 1)))
    return found
