"""Noise on whole objects: one is missing, one too many is there, one has the wrong class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import BoolArray, IntArray, find_objects, smooth_field
from keras_robustseg.data.noise._noise import Noise


def missing(rate: float | Sequence[float] = 0.5, *, classes: Sequence[int] | None = None) -> Noise:
    """Drops each object with a probability; its pixels become background.

    Args:
        rate: The probability.
        classes: Classes whose objects may be missing; all foreground classes by default.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = missing(0.3)(mask, seed=0)`
    """
    return Noise("missing", checked("missing", {"rate": rate, "classes": classes}), _missing)


def extra(
    count: int | Sequence[int] = 1,
    *,
    radius: float | Sequence[float] = 4.0,
    classes: Sequence[int] | None = None,
) -> Noise:
    """Adds objects that are not there: wobbly discs or balls on background, touching no object.

    An object is left out where the background has no room for it.

    Args:
        count: Number of objects.
        radius: Equivalent radius in px, before the wobble of about a fifth of it.
        classes: Classes to draw from; by default those that the mask has, or class 1.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = extra((0, 3), radius=(2, 6))(mask, seed=0)`
    """
    given = {"count": count, "radius": radius, "classes": classes}
    return Noise("extra", checked("extra", given), _extra)


def class_flip(rate: float | Sequence[float] = 0.3, *, num_classes: int | None = None) -> Noise:
    """Gives each object, with a probability, another foreground class, uniform among the others.

    Args:
        rate: The probability.
        num_classes: Number of classes with background; by default the largest label of the mask
            plus one. With a single foreground class nothing changes.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = class_flip(0.2, num_classes=4)(mask, seed=0)`
    """
    given = {"rate": rate, "num_classes": num_classes}
    return Noise("class_flip", checked("class_flip", given), _class_flip)


def _missing(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    ids, classes = find_objects(mask)
    dropped = rng.random(len(classes)) < level["rate"]
    if level["classes"] is not None:
        dropped &= np.isin(classes, level["classes"])
    return np.where(dropped[ids], 0, mask)


def _extra(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    noisy = mask.copy()
    present = np.unique(mask[mask > 0]).tolist() or [1]
    for _ in range(round(level["count"])):
        shape = _wobbly_ball(level["radius"], mask.ndim, rng)
        label = rng.choice(level["classes"] or present)
        _place(noisy, shape, int(label), float(rng.random()))
    return noisy


def _wobbly_ball(radius: float, dims: int, rng: np.random.Generator) -> BoolArray:
    half = int(np.ceil(1.6 * radius))
    axes = np.indices((2 * half + 1,) * dims) - half
    distance = np.sqrt((axes**2).sum(axis=0))
    wobble = 0.2 * radius * smooth_field(rng, distance.shape, max(1.0, 0.8 * radius))
    ball = distance < radius + np.clip(wobble, -0.6 * radius, 0.6 * radius)
    ball[(half,) * dims] = True
    return ball


def _place(noisy: IntArray, shape: BoolArray, label: int, share: float) -> None:
    """Writes `shape` at a place where it fits into background with a pixel to spare, or nowhere."""
    offsets = np.argwhere(shape) - shape.shape[0] // 2
    reach = float(np.sqrt((offsets**2).sum(axis=1)).max()) + 1.5
    # The frame around the image counts as taken, so that an object is never cut by the border.
    taken = np.pad(noisy != 0, 1, constant_values=True)
    room = (ndimage.distance_transform_edt(~taken) > reach)[(slice(1, -1),) * noisy.ndim]
    places = np.flatnonzero(room)
    if places.size:
        centre = np.unravel_index(places[int(share * places.size)], noisy.shape)
        noisy[tuple((offsets + np.array(centre)).T)] = label


def _class_flip(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    ids, classes = find_objects(mask)
    foreground = (level["num_classes"] or int(mask.max()) + 1) - 1
    flips = rng.random(len(classes)) < level["rate"]
    flips[0] = False
    if foreground < 2 or not flips.any():
        return mask
    # 1..K-1 steps along the cycle of K foreground classes: uniform, and never the same class.
    steps = rng.integers(1, foreground, size=len(classes))
    others = (classes - 1 + steps) % foreground + 1
    return np.where(flips, others, classes)[ids]
