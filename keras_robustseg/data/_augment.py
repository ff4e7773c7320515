"""Augmentation as a linear map of pixels, drawn from a seed: images, masks and label rows share it.

A draw is a table that says, for every pixel of the batch, which pixels of the original image it
is taken from and with which weight: one pixel for flips, right angles and crops, the 2^n corners
around a position for affine and elastic maps. The same table moves the image, the mask (nearest
corner) and the label rows, and its transpose carries the update of the rows back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

ALGORITHM = "philox"  # the same numbers with and without XLA


@dataclass(frozen=True)
class Affine:
    """Rotation in the last two axes (degrees), scale (share), shift (pixels): largest values."""

    rotation: float = 15.0
    scale: float = 0.1
    shift: float = 2.0
    probability: float = 0.5


@dataclass(frozen=True)
class Elastic:
    """Smooth displacement of `magnitude` pixels (standard deviation) over `sigma` pixels."""

    sigma: float = 8.0
    magnitude: float = 2.0
    probability: float = 0.5


@dataclass(frozen=True)
class Intensity:
    """Largest changes: brightness and noise in standard deviations, contrast and gamma shares."""

    brightness: float = 0.1
    contrast: float = 0.1
    noise: float = 0.0
    gamma: float = 0.0


@dataclass(frozen=True)
class Augment:
    """What may be done to a training image.

    Args:
        flip: axes that may be mirrored; `True` means all.
        rotate90: right angles in the last two axes (images that are not square: half turns,
            unless they are cropped to a square).
        affine, elastic, intensity: `None` leaves them out.
    """

    flip: bool | tuple[int, ...] = True
    rotate90: bool = False
    affine: Affine | None = None
    elastic: Elastic | None = None
    intensity: Intensity | None = None


class Geometry(NamedTuple):
    """Rows (*T, K) of the flattened image, -1 outside it, and weights (*T, K) or None for 1.

    `fill` is the same with positions outside moved to the nearest edge, for the image.
    """

    index: Any
    fill: Any
    weight: Any


def draw_geometry(
    shape: Any, target: Sequence[int], augment: Augment | None, seed: Any
) -> Geometry:
    """Draw where each pixel of a (*T) crop comes from in an image of spatial shape `shape`.

    Args:
        shape: int32 tensor (n,), spatial shape of the image; n is 2 or 3.
        target: T.
        augment: `None` takes the centre and moves nothing.
        seed: int32 tensor (2,). The same seed gives the same map.
    """
    positions = _rigid(shape, target, augment, _child(seed, 10))
    if augment is None or (augment.affine is None and augment.elastic is None):
        return _relabel(positions, shape)
    grid = tf.stack([tf.broadcast_to(p, target) for p in positions], axis=-1)
    grid = tf.cast(grid, tf.float32)
    if augment.affine is not None:
        grid = _affine(grid, augment.affine, _child(seed, 11))
    if augment.elastic is not None:
        grid += _elastic(target, augment.elastic, _child(seed, 12))
    return _corners(grid, shape)


def _child(seed: Any, number: int) -> Any:
    """An independent seed."""
    return tf.random.fold_in(seed, number, alg=ALGORITHM)


def _rigid(shape: Any, target: Sequence[int], augment: Augment | None, seed: Any) -> list[Any]:
    """Position along every axis of the image, each broadcastable to T."""
    n = len(target)
    if augment is None:
        swap, mirrored = tf.constant(False), [tf.constant(False)] * n
        chance = tf.fill([n], 0.5)
    else:
        swap, mirrored = _turns(shape, target, augment, seed)
        chance = tf.random.stateless_uniform([n], _child(seed, 1), alg=ALGORITHM)
    axes = []
    for a in range(n):
        partner = {n - 2: n - 1, n - 1: n - 2}.get(a, a)
        size = tf.where(swap, shape[partner], shape[a])
        slack = tf.cast(size - target[a], tf.float32)
        # An image smaller than the crop sits in the middle of it.
        start = tf.floor(chance[a] * (tf.maximum(slack, 0.0) + 1.0))
        start = tf.cast(start + tf.floor(tf.minimum(slack, 0.0) / 2.0), tf.int32)
        line = start + tf.range(target[a])
        line = tf.where(mirrored[a], size - 1 - line, line)
        axes.append(tf.reshape(line, [-1 if b == a else 1 for b in range(n)]))
    first, second = axes[n - 2], axes[n - 1]
    rows = tf.cond(swap, lambda: _pair(second, first, target), lambda: _pair(first, second, target))
    return [*axes[: n - 2], *rows]


def _pair(rows: Any, columns: Any, target: Sequence[int]) -> tuple[Any, Any]:
    # Both branches of a condition must have one shape.
    plane = [1] * (len(target) - 2) + list(target[-2:])
    return tf.broadcast_to(rows, plane), tf.broadcast_to(columns, plane)


def _turns(shape: Any, target: Sequence[int], augment: Augment, seed: Any) -> tuple[Any, list[Any]]:
    """Whether the last two axes change places, and which axes of the result are mirrored."""
    n = len(target)
    axes = range(n) if augment.flip is True else (augment.flip or ())
    coins = tf.random.stateless_uniform([n + 1], seed, alg=ALGORITHM)
    mirrored = [coins[a] < 0.5 if a in axes else tf.constant(False) for a in range(n)]
    if not augment.rotate90:
        return tf.constant(False), mirrored
    turn = tf.cast(coins[n] * 4, tf.int32)
    fits = tf.logical_or(
        tf.equal(shape[n - 2], shape[n - 1]),
        tf.logical_and(tf.reduce_min(shape[n - 2 :]) >= max(target[-2:]), target[-2] == target[-1]),
    )
    turn = tf.where(fits, turn, turn - turn % 2)
    mirrored[n - 2] = tf.math.logical_xor(mirrored[n - 2], turn >= 2)
    mirrored[n - 1] = tf.math.logical_xor(mirrored[n - 1], tf.logical_or(turn == 1, turn == 2))
    return tf.equal(turn % 2, 1), mirrored


def _strides(shape: Any) -> Any:
    return tf.math.cumprod(shape, exclusive=True, reverse=True)


def _relabel(positions: list[Any], shape: Any) -> Geometry:
    strides, inside = _strides(shape), tf.constant(True)
    index: Any = 0
    for a, position in enumerate(positions):
        index += tf.clip_by_value(position, 0, shape[a] - 1) * strides[a]
        inside = tf.logical_and(inside, tf.logical_and(position >= 0, position < shape[a]))
    inside = tf.broadcast_to(inside, tf.shape(index))
    return Geometry(tf.where(inside, index, -1)[..., None], index[..., None], None)


def _affine(grid: Any, affine: Affine, seed: Any) -> Any:
    n = grid.shape[-1]
    draw = tf.random.stateless_uniform([3 + n], seed, -1.0, 1.0, alg=ALGORITHM)
    on = tf.cast(draw[0] < 2 * affine.probability - 1, tf.float32)
    angle = on * draw[1] * affine.rotation * (3.141592653589793 / 180)
    scale = 1.0 + on * draw[2] * affine.scale
    centre = tf.reduce_mean(grid, axis=list(range(n)))
    moved = (grid - centre) * scale
    rows, columns = moved[..., n - 2], moved[..., n - 1]
    turned = [
        rows * tf.cos(angle) - columns * tf.sin(angle),
        rows * tf.sin(angle) + columns * tf.cos(angle),
    ]
    moved = tf.stack([*tf.unstack(moved[..., : n - 2], axis=-1), *turned], axis=-1)
    return moved + centre + on * draw[3:] * affine.shift


def _elastic(target: Sequence[int], elastic: Elastic, seed: Any) -> Any:
    n = len(target)
    coarse = [int(t / elastic.sigma) + 3 for t in target]
    field = tf.random.stateless_normal([*coarse, n], seed, alg=ALGORITHM)
    for a, (size, knots) in enumerate(zip(target, coarse, strict=True)):
        at = tf.range(size, dtype=tf.float32)[:, None] / elastic.sigma + 1.0
        basis = tf.exp(-0.5 * (at - tf.range(knots, dtype=tf.float32)) ** 2)
        # Unit variance of the sum, whatever the position.
        basis /= tf.sqrt(tf.reduce_sum(basis**2, axis=1, keepdims=True))
        field = tf.tensordot(basis, field, [[1], [a]])
        field = tf.transpose(field, [*range(1, a + 1), 0, *range(a + 1, n + 1)])
    coin = tf.random.stateless_uniform([], _child(seed, 1), alg=ALGORITHM)
    return tf.where(coin < elastic.probability, elastic.magnitude, 0.0) * field


def _corners(grid: Any, shape: Any) -> Geometry:
    """Linear interpolation at real positions, as 2^n rows and weights."""
    # Right angles about half-integer centres come out exact but for rounding.
    grid = tf.round(grid * 4096.0) / 4096.0
    low = tf.floor(grid)
    share = grid - low
    low = tf.cast(low, tf.int32)
    inside = tf.reduce_all((grid >= -0.5) & (grid < tf.cast(shape, tf.float32) - 0.5), axis=-1)
    strides, indices, weights = _strides(shape), [], []
    for corner in itertools.product((0, 1), repeat=grid.shape[-1]):
        at = tf.clip_by_value(low + corner, 0, shape - 1)
        indices.append(tf.reduce_sum(at * strides, axis=-1))
        weights.append(tf.reduce_prod(tf.where(tf.equal(corner, 1), share, 1.0 - share), axis=-1))
    fill, weight = tf.stack(indices, axis=-1), tf.stack(weights, axis=-1)
    return Geometry(tf.where(inside[..., None], fill, -1), fill, weight)


def take_image(image: Any, geometry: Geometry) -> Any:
    """Return the image (*T, channels), linearly interpolated, edges continued outside."""
    rows = tf.gather(tf.reshape(image, [-1, image.shape[-1]]), geometry.fill)
    if geometry.weight is None:
        return rows[..., 0, :]
    return tf.reduce_sum(rows * geometry.weight[..., None], axis=-2)


def take_mask(mask: Any, geometry: Geometry, dims: int) -> Any:
    """Return the mask (*T) or (*T, R) at the nearest pixel, -1 outside the image."""
    nearest = geometry.index[..., 0]
    if geometry.weight is not None:
        best = tf.argmax(geometry.weight, axis=-1, output_type=tf.int32)
        nearest = tf.gather(geometry.index, best, batch_dims=dims)
    readers = mask.shape[dims:].as_list()
    taken = tf.gather(tf.reshape(mask, [-1, *readers]), tf.maximum(nearest, 0))
    outside = nearest < 0
    return tf.where(outside[..., None] if readers else outside, -1, taken)


def change_intensity(image: Any, intensity: Intensity, seed: Any) -> Any:
    """Return the image with brightness, contrast, gamma and noise drawn from `seed`."""
    draw = tf.random.stateless_uniform([3], seed, -1.0, 1.0, alg=ALGORITHM)
    mean, variance = tf.nn.moments(image, axes=list(range(image.shape.rank)))
    spread = tf.sqrt(variance)
    image = (image - mean) * (1.0 + draw[0] * intensity.contrast) + mean
    image += draw[1] * intensity.brightness * spread
    if intensity.gamma:
        low, high = tf.reduce_min(image), tf.reduce_max(image)
        width = tf.maximum(high - low, 1e-12)
        image = low + width * ((image - low) / width) ** (1.0 + draw[2] * intensity.gamma)
    if intensity.noise:
        noise = tf.random.stateless_normal(tf.shape(image), _child(seed, 1), alg=ALGORITHM)
        image += intensity.noise * spread * noise
    return image
