"""Lung patches drawn by this package: chest CT in looks, not in origin.

LIDC's outlines come without images, so the package draws one for each slice. The image is a
function of the true mask, the texture rating and a key, and of nothing else: the truth is exact,
while the readers' masks are what radiologists really drew. Whoever shows such an image has to say
that it is rendered.

In Hounsfield units, with P the scanner's point spread and W the window:
    image = W( P * over(parenchyma, vessels, chest wall, nodule) + correlated noise )
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import ndimage

__all__ = ["WINDOW_HU", "render_nodule"]

WINDOW_HU = (-1000.0, 400.0)

_PARENCHYMA_HU = -855.0
_WALL_HU = 25.0
_GROUND_GLASS_HU = -620.0
_SOLID_HU = 10.0


def render_nodule(truth: np.ndarray, *, texture: float, key: str) -> np.ndarray:
    """Draws a CT-like patch around a true nodule mask.

    Args:
        truth: bool or 0/1 `(H, W)`, the true nodule; empty draws a patch without one.
        texture: The readers' rating, 1 (ground glass, about -620 HU) to 5 (solid, +10 HU).
        key: Any text, usually the sample's id and a seed. The same key, mask and rating give
            the same image, whatever was drawn before.

    Returns:
        float32 `(H, W)` in [0, 255], the window -1000 to 400 HU.

    Raises:
        ValueError: The mask is not two-dimensional or the rating is not in [1, 5].

    Example:
        >>> truth = np.zeros((64, 64)); truth[28:36, 28:36] = 1
        >>> render_nodule(truth, texture=5.0, key="example").shape
        (64, 64)
    """
    truth = np.asarray(truth)
    if truth.ndim != 2:
        raise ValueError(f"truth: expected a mask (H, W), got shape {truth.shape}")
    if not 1 <= texture <= 5:
        raise ValueError(f"texture: expected a rating from 1 to 5, got {texture}")
    rng = _generator(key)
    scene = _parenchyma(truth.shape, rng)
    nodule = _nodule_attenuation(truth.shape, texture, rng)
    scene = np.where(truth > 0, np.maximum(scene, nodule), scene)
    # Vessels and wall are drawn over the nodule, but a denser nodule shows through.
    scene = np.maximum(scene, _vessels(truth.shape, rng))
    scene = np.maximum(scene, _chest_wall(truth, rng))
    scene = ndimage.gaussian_filter(scene, rng.uniform(0.6, 0.9), mode="nearest")
    scene += _smooth_noise(truth.shape, rng.uniform(0.4, 0.7), rng.uniform(18.0, 50.0), rng)
    return _window(scene)


def _generator(key: str) -> np.random.Generator:
    """A generator that depends on the text alone (Python's own hash changes with each start)."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _smooth_noise(
    shape: tuple[int, ...], sigma: float, deviation: float, rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise, correlated over about `sigma` pixels, of standard deviation `deviation`."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise * (deviation / max(float(noise.std()), 1e-12))


def _parenchyma(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    level = _PARENCHYMA_HU + rng.normal(0.0, 20.0)
    coarse = _smooth_noise(shape, min(shape) / 7, 22.0, rng)
    return level + coarse + _smooth_noise(shape, 1.5, 14.0, rng)


def _nodule_attenuation(
    shape: tuple[int, ...], texture: float, rng: np.random.Generator
) -> np.ndarray:
    solid = ((texture - 1.0) / 4.0) ** 1.5
    level = _GROUND_GLASS_HU + (_SOLID_HU - _GROUND_GLASS_HU) * solid + rng.normal(0.0, 40.0)
    return level + _smooth_noise(shape, 2.0, 30.0 + 60.0 * (1.0 - solid), rng)


def _vessels(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Curved, tapering tubes: the largest attenuation over a random number of them."""
    air = np.full(shape, WINDOW_HU[0])
    for _ in range(rng.integers(1, 7)):
        air = np.maximum(air, _vessel(shape, rng))
    return air


def _vessel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One tube along a quadratic Bezier curve; its edge pixels are filled in part."""
    start, control, end = rng.uniform(-0.15, 1.15, (3, 2)) * np.asarray(shape, dtype=float)
    share = np.linspace(0.0, 1.0, 3 * max(shape) // 2)[:, None]
    curve = (1 - share) ** 2 * start + 2 * share * (1 - share) * control + share**2 * end
    radius = rng.uniform(0.6, 2.0) * np.linspace(1.0, rng.uniform(0.4, 1.0), len(curve))
    rows, columns = (
        (np.arange(length) - curve[:, axis, None]).astype(np.float32)
        for axis, length in enumerate(shape)
    )
    distance = np.sqrt(rows[:, :, None] ** 2 + columns[:, None, :] ** 2)
    outside = (distance - radius.astype(np.float32)[:, None, None]).min(axis=0)
    covered = np.clip(0.5 - outside, 0.0, 1.0)
    return WINDOW_HU[0] + covered * (rng.uniform(-480.0, -120.0) - WINDOW_HU[0])


def _chest_wall(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In one patch of four, soft tissue behind a curved border that stays off the nodule."""
    shape = truth.shape
    angle, bend, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.006), rng.uniform(-1.0, 20.0)
    present = rng.random() < 0.25
    rows, columns = np.indices(shape) - (np.array(shape).reshape(2, 1, 1) - 1) / 2
    along = columns * np.cos(angle) - rows * np.sin(angle)
    depth = columns * np.sin(angle) + rows * np.cos(angle) + bend * along**2
    inside = truth > 0
    edge = depth[inside].max() if inside.any() else 0.0
    texture = _smooth_noise(shape, 1.5, 12.0, rng)
    covered = np.clip(depth - edge - max(gap, 0.0), 0.0, 1.0) * present
    return WINDOW_HU[0] + covered * (_WALL_HU + texture - WINDOW_HU[0])


def _window(scene: np.ndarray) -> np.ndarray:
    low, high = WINDOW_HU
    return (np.clip((scene - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.float32)
