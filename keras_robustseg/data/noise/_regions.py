"""Noise that moves the edge of a region, and how labels follow the region when it has moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import (
    BoolArray,
    FloatArray,
    IntArray,
    equivalent_radius,
    find_objects,
    nearest,
)
from keras_robustseg.data.noise._noise import Noise


def region_of(mask: IntArray, level: Level) -> BoolArray:
    """Returns the pixels of the classes that a noise acts on: all foreground, or `classes`."""
    classes = level["classes"]
    return mask > 0 if classes is None else np.isin(mask, classes)


def follow(mask: IntArray, before: BoolArray, after: BoolArray, level: Level) -> IntArray:
    """Gives labels to a moved region: edges between the classes inside it stay where they are.

    A gained pixel takes the nearest label of the region. A lost pixel becomes background, or,
    where `classes` chose the region out of others (a tumour inside an organ), the nearest label
    outside it.
    """
    noisy = np.where(after & ~before, nearest(mask, before), mask)
    lost = before & ~after
    outside = 0 if level["classes"] is None else nearest(mask, ~before)
    return np.where(lost, outside, noisy)


def dilate(
    radius: float | Sequence[float] = 2.0,
    *,
    relative: bool = False,
    classes: Sequence[int] | None = None,
) -> Noise:
    """Grows the region by a radius: every pixel nearer than `radius` to it is taken in.

    Args:
        radius: In px (Euclidean, centre to centre), or as a share of the equivalent radius of
            the nearest object when `relative`.
        relative: See `radius`.
        classes: Classes that grow over everything else; all foreground classes together, over
            background, by default.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = dilate(radius=(1, 4))(mask, seed=0)`
    """
    given = {"radius": radius, "relative": relative, "classes": classes}
    return Noise("dilate", checked("dilate", given), _dilate)


def erode(
    radius: float | Sequence[float] = 2.0,
    *,
    relative: bool = False,
    classes: Sequence[int] | None = None,
) -> Noise:
    """Shrinks the region by a radius: every pixel as near to what is outside is given up.

    The border of the image is not an edge, so a mask that fills the image stays as it is.

    Args:
        radius: In px (Euclidean, centre to centre), or as a share of the object's equivalent
            radius when `relative`.
        relative: See `radius`.
        classes: Classes that shrink; all foreground classes together by default.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = erode(radius=0.2, relative=True)(mask, seed=0)`
    """
    given = {"radius": radius, "relative": relative, "classes": classes}
    return Noise("erode", checked("erode", given), _erode)


def _dilate(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    region = region_of(mask, level)
    if not region.any():
        return mask
    distance, where = ndimage.distance_transform_edt(~region, return_indices=True)
    reach = _reach(mask, region, level)[tuple(where)]
    return follow(mask, region, distance <= reach, level)


def _erode(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    region = region_of(mask, level)
    if region.all() or not region.any():
        return mask
    distance = ndimage.distance_transform_edt(region)
    return follow(mask, region, distance > _reach(mask, region, level), level)


def _reach(mask: IntArray, region: BoolArray, level: Level) -> FloatArray:
    """Returns for each pixel of the region how far the edge of its object moves."""
    if not level["relative"]:
        return np.full(mask.shape, level["radius"])
    ids, _ = find_objects(np.where(region, mask, 0))
    radii = equivalent_radius(np.bincount(ids.ravel()), mask.ndim)
    return level["radius"] * radii[ids]
