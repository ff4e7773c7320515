"""Noise that moves the mask as a whole (shift, rotation, size) or bends it (elastic)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import FloatArray, IntArray, smooth_field
from keras_robustseg.data.noise._noise import Noise


def shift(
    distance: float | Sequence[float] = 3.0,
    *,
    rotation: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 0.0,
) -> Noise:
    """Moves all foreground by a random similarity about its centroid: y = c + s R (x - c) + t.

    The direction of t is uniform on the circle or sphere, so that no side is favoured; in 3-D the
    axis of R is uniform too. Labels are taken from the nearest pixel; what comes from beyond the
    border is background.

    Args:
        distance: |t| in px.
        rotation: Largest angle in degrees; the angle is uniform in [-rotation, rotation].
        scale: s is uniform in log between 1 / (1 + scale) and 1 + scale.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = shift((0, 6), rotation=15)(mask, seed=0)`
    """
    given = {"distance": distance, "rotation": rotation, "scale": scale}
    return Noise("shift", checked("shift", given), _shift)


def elastic(
    magnitude: float | Sequence[float] = 2.0, *, smoothness: float | Sequence[float] = 8.0
) -> Noise:
    """Bends the mask by a smooth random displacement u: noisy(x) = mask(x + u(x)).

    Each component of u is a Gaussian field of standard deviation `magnitude` and covariance
    exp(-d^2 / (2 smoothness^2)). Folds appear when magnitude approaches smoothness.

    Args:
        magnitude: In px.
        smoothness: In px.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = elastic(2.0, smoothness=8.0)(mask, seed=0)`
    """
    given = {"magnitude": magnitude, "smoothness": smoothness}
    return Noise("elastic", checked("elastic", given), _elastic)


def _shift(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    # Drawn before the empty mask returns, and in a fixed order, so that levels can be compared.
    direction = _direction(rng, mask.ndim)
    angle = math.radians(level["rotation"]) * rng.uniform(-1.0, 1.0)
    size = (1.0 + level["scale"]) ** rng.uniform(-1.0, 1.0)
    axis = _direction(rng, 3)
    if not (mask > 0).any():
        return mask
    centre = np.argwhere(mask > 0).mean(axis=0)
    # affine_transform wants the map from noisy to clean coordinates.
    inverse = _rotation(mask.ndim, angle, axis).T / size
    offset = centre - inverse @ (centre + level["distance"] * direction)
    return ndimage.affine_transform(mask, inverse, offset, order=0, mode="constant", cval=0)


def _elastic(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    grid = np.indices(mask.shape).astype(float)
    for axis in range(mask.ndim):
        grid[axis] += level["magnitude"] * smooth_field(rng, mask.shape, level["smoothness"])
    return ndimage.map_coordinates(mask, grid, order=0, mode="nearest")


def _direction(rng: np.random.Generator, dims: int) -> FloatArray:
    vector = rng.standard_normal(dims)
    return vector / np.linalg.norm(vector)


def _rotation(dims: int, angle: float, axis: FloatArray) -> FloatArray:
    """Returns the rotation matrix; in 3-D about `axis` by Rodrigues' formula."""
    if dims == 2:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
