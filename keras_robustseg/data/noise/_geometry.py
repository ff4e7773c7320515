"""Objects, signed distances and smooth random fields on pixel grids, in 2-D and 3-D."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]


def signed_distance(region: BoolArray, steps: npt.ArrayLike = 1.0) -> FloatArray:
    """Returns the distance to the region's edge, negative inside, so that `sdf < 0` is the region.

    The edge lies half a (smallest) step outside the outermost pixel centres. The border of the
    image is not an edge: a region that fills the image is -inf, an empty one +inf.

    Args:
        region: Mask `(*S)`.
        steps: Size of a pixel along each axis.

    Example:
        `signed_distance(np.array([[False, True, True]]))  # [[0.5, -0.5, -1.5]]`
    """
    half = 0.5 * float(np.min(steps))
    if not region.any() or region.all():
        return np.full(region.shape, -np.inf if region.any() else np.inf)
    sampling = np.broadcast_to(np.asarray(steps, dtype=float), region.ndim)
    outside = ndimage.distance_transform_edt(~region, sampling=sampling)
    inside = ndimage.distance_transform_edt(region, sampling=sampling)
    return np.where(region, half - inside, outside - half)


def find_objects(mask: IntArray) -> tuple[IntArray, IntArray]:
    """Numbers the objects of a mask: connected pixels of one foreground class, corners included.

    Returns:
        `(ids, classes)`: ids `(*S)` are 0 for background and 1..N for objects; `classes[i]` is
        the class of object i, with `classes[0] == 0`.

    Example:
        `find_objects(np.array([[1, 0, 1, 2]]))  # ([[1, 0, 2, 3]], [0, 1, 1, 2])`
    """
    ids = np.zeros(mask.shape, dtype=np.int32)
    classes = [0]
    for label in np.unique(mask[mask > 0]):
        parts, count = ndimage.label(mask == label, structure=np.ones((3,) * mask.ndim))
        ids += np.where(parts > 0, parts + (len(classes) - 1), 0).astype(np.int32)
        classes += [int(label)] * count
    return ids, np.array(classes)


def equivalent_radius(pixels: npt.ArrayLike, dims: int) -> FloatArray:
    """Returns the radius of the disc (`dims` 2) or ball (3) of the same number of pixels.

    Example:
        `equivalent_radius(np.pi * 25, 2)  # 5.0`
    """
    pixels = np.asarray(pixels, dtype=float)
    return np.sqrt(pixels / math.pi) if dims == 2 else np.cbrt(0.75 * pixels / math.pi)


def nearest(values: IntArray, known: BoolArray) -> IntArray:
    """Gives each pixel the value of the nearest known pixel; `values` itself if none is known.

    Example:
        `nearest(np.array([[3, 9, 9]]), np.array([[True, False, False]]))  # [[3, 3, 3]]`
    """
    if known.all() or not known.any():
        return values
    where = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return values[tuple(where)]


def largest_piece(region: BoolArray) -> BoolArray:
    """Keeps the largest connected piece of a region, corners included; the first one in a tie.

    Example:
        `largest_piece(np.array([[True, False, True, True]]))  # [[F, F, T, T]]`
    """
    parts, count = ndimage.label(region, structure=np.ones((3,) * region.ndim))
    if count < 2:
        return region
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], length: npt.ArrayLike
) -> FloatArray:
    """Draws a Gaussian field of mean 0, variance 1 and covariance exp(-d^2 / (2 length^2)).

    White noise blurred with a Gaussian of sigma = length / sqrt(2), divided by the exact root of
    the kernel's energy, and drawn on a wider grid so that nothing happens at the border.

    Args:
        rng: Generator.
        shape: `S`.
        length: Correlation length in pixels, for all axes or for each.

    Example:
        `smooth_field(np.random.default_rng(0), (64, 64), 3.8).std()  # about 1`
    """
    sigmas = np.broadcast_to(np.asarray(length, dtype=float), len(shape)) / math.sqrt(2.0)
    pads = [math.ceil(3.0 * sigma) for sigma in sigmas]
    field = rng.standard_normal([n + 2 * pad for n, pad in zip(shape, pads, strict=True)])
    for axis, (sigma, pad) in enumerate(zip(sigmas, pads, strict=True)):
        kernel = np.exp(-0.5 * (np.arange(-pad, pad + 1) / sigma) ** 2)
        kernel /= math.sqrt(float((kernel**2).sum()))
        field = ndimage.correlate1d(field, kernel, axis=axis, mode="constant")
    return field[tuple(slice(pad, pad + n) for n, pad in zip(shape, pads, strict=True))]
