"""Masks that are all too large, or all too small: what can be suspected, and what cannot be known.

A network that learns from masks which are all two pixels too large predicts masks that are two
pixels too large: no comparison of the two shows it, and without clean masks nobody can know. Two
things give reason for suspicion, and are measured here for every class:

    displacement   how far the believed boundary lies outside the given one, mean over the object
    edge offset    how far outside the given boundary the image has its strongest edge

in pixels, positive where the given mask looks too small. Errors of single masks go both ways; only
an offset with the same sign in most images is reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.special import bdtrc

from ._audit_pixels import BoolArray, FloatArray

REACH = 6  # pixels to both sides of a boundary in which an edge is looked for
_LEAST_PIXELS = 8  # of a distance, for its mean gradient to count
_PROMINENCE = 0.3  # of an edge, as a share of the range of the profile
_LEAST_IMAGES = 8
_LEAST_OFFSET = {"displacement": 0.5, "edge_offset": 0.6}  # pixels, median over images
_LEAST_SHARE = 0.75  # of the images must agree on the sign
_NO_SIGN = 0.25  # pixels; smaller offsets have no sign
_CHANCE = 0.01


def displacement(given: BoolArray, believed: BoolArray) -> float:
    """Return the mean distance by which the believed boundary lies outside the given one, in px.

        (pixels believed - pixels given) / mean boundary length

    To first order the volume between two nearby boundaries is their distance times their length;
    lengths (areas in 3-D) are counted faces times pi / 4 (2 / 3 in 3-D), the mean over directions.

    Args:
        given: bool (*S).
        believed: bool (*S).

    Returns:
        NaN where either is empty, or they share less than half of their mean size: then one is
        missing or elsewhere, which says nothing about boundaries.

    Example:
        `displacement(disc_of_radius_8, disc_of_radius_10)  # about 2`
    """
    sizes = np.count_nonzero(given), np.count_nonzero(believed)
    shared = np.count_nonzero(given & believed)
    if min(sizes) == 0 or shared < 0.25 * sum(sizes):
        return math.nan
    factor = math.pi / 4 if given.ndim == 2 else 2 / 3
    length = factor * (_faces(given) + _faces(believed)) / 2
    return (sizes[1] - sizes[0]) / max(length, 1.0)


def _faces(mask: BoolArray) -> int:
    return sum(int(np.count_nonzero(np.diff(mask, axis=axis))) for axis in range(mask.ndim))


def edge_offset(
    image: np.ndarray, mask: np.ndarray, label: int, *, spacing: Sequence[float] | None = None
) -> float:
    """Return how far outside the boundary of a class the image has its nearest clear edge, in px.

    The profile g(s) is the mean gradient magnitude (Gaussian, one pixel wide) of the pixels at the
    signed distance s from the class, up to 6 px to both sides; the offset is its maximum nearest
    to 0, refined by a parabola. Pixels that are nearer to a boundary between two other classes
    are left out, so that a neighbour's edge is not taken for the own one.

    Args:
        image: (*S, channels).
        mask: int (*S), negative is void.
        label: the class.
        spacing: size of a pixel along each axis; the finest axis is the unit of the result.

    Returns:
        NaN where there is no boundary or no clear edge.

    Example:
        `edge_offset(image, mask, 1)`
    """
    region = mask == label
    if not region.any() or region.all():
        return math.nan
    scale = np.ones(mask.ndim) if spacing is None else np.asarray(spacing) / min(spacing)
    box = _around(region, scale)
    region, mask, image = region[box], mask[box], image[box]
    distance = _signed_distance(region, scale)
    near = (np.abs(distance) < REACH) & (mask >= 0)
    others = _other_boundaries(mask, label)
    if others.any():
        near &= np.abs(distance) <= ndimage.distance_transform_edt(~others, sampling=scale)
    steps = np.floor(distance[near]).astype(int) + REACH
    counts = np.bincount(steps, minlength=2 * REACH)
    gradient = _gradient(image, scale)[near]
    profile = np.bincount(steps, weights=gradient, minlength=2 * REACH) / np.maximum(counts, 1)
    return _nearest_peak(profile, counts >= _LEAST_PIXELS)


def _around(region: BoolArray, scale: FloatArray) -> tuple[slice, ...]:
    """The part of the image that the profile looks at."""
    margin = [math.ceil((REACH + 3) / step) for step in scale]
    return tuple(
        slice(max(edge.start - more, 0), edge.stop + more)
        for edge, more in zip(ndimage.find_objects(region.astype(np.int8))[0], margin, strict=True)
    )


def _signed_distance(region: BoolArray, scale: FloatArray) -> FloatArray:
    """Distance to the boundary, which runs half a pixel beside pixel centres; negative inside."""
    inside = ndimage.distance_transform_edt(region, sampling=scale)
    outside = ndimage.distance_transform_edt(~region, sampling=scale)
    return np.where(region, 0.5 - inside, outside - 0.5)


def _gradient(image: np.ndarray, scale: FloatArray) -> FloatArray:
    channels = [
        ndimage.gaussian_gradient_magnitude(image[..., c].astype(np.float64), 1 / scale)
        for c in range(image.shape[-1])
    ]
    return np.sqrt(sum(channel**2 for channel in channels))


def _other_boundaries(mask: np.ndarray, label: int) -> BoolArray:
    """Pixels beside a boundary between two classes that are both not `label`."""
    found = np.zeros(mask.shape, bool)
    for axis in range(mask.ndim):
        first = tuple(slice(0, -1) if a == axis else slice(None) for a in range(mask.ndim))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in range(mask.ndim))
        edge = (mask[first] != mask[second]) & (mask[first] != label) & (mask[second] != label)
        found[first] |= edge
        found[second] |= edge
    return found


def _nearest_peak(profile: FloatArray, known: BoolArray) -> float:
    """Place of the clear maximum nearest to the middle, among distances with enough pixels."""
    from scipy.signal import find_peaks  # slow to import

    low, high = REACH - 1, REACH  # half a pixel inside, and outside
    if not (known[low] and known[high]):
        return math.nan
    while low > 0 and known[low - 1]:
        low -= 1
    while high < len(profile) - 1 and known[high + 1]:
        high += 1
    values = profile[low : high + 1]
    peaks, _ = find_peaks(values, prominence=max(_PROMINENCE * np.ptp(values), 1e-12))
    if not len(peaks):
        return math.nan
    places = peaks + low - REACH + 0.5
    nearest = np.abs(places).argmin()
    before, top, after = values[peaks[nearest] - 1 : peaks[nearest] + 2]
    bend = before - 2 * top + after
    return float(places[nearest] + (0.5 * (before - after) / bend if bend < 0 else 0.0))


@dataclass
class BiasEvidence:
    """Offsets of one class over the images of an audit.

    Attributes:
        offsets: "displacement" and "edge_offset", one number an image.

    Example:
        >>> evidence = BiasEvidence()
        >>> for _ in range(10):
        ...     evidence.add("edge_offset", -2.0)
        >>> evidence.verdict()["suspicion"]
        'too_large'
    """

    offsets: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in _LEAST_OFFSET}
    )

    def add(self, name: str, offset: float) -> None:
        """Take in the offset of one image; NaN says nothing."""
        if not math.isnan(offset):
            self.offsets[name].append(offset)

    def verdict(self) -> dict[str, Any]:
        """Return `suspicion` ("too_large", "too_small" or None) and what it rests on.

        Each of the two measures has `images`, `median` (px), `agreeing` (share of the images on
        the side of the median) and `consistent`. A measure is consistent if it has at least 8
        images, a median of at least 0.5 px (edges: 0.6 px), at least three quarters of the
        images on one side, and a sign test against chance below 1 %. Edges outrank predictions.
        """
        measures = {name: _summary(name, values) for name, values in self.offsets.items()}
        suspicion = None
        for name in ("edge_offset", "displacement"):
            if measures[name]["consistent"]:
                suspicion = "too_small" if measures[name]["median"] > 0 else "too_large"
                break
        return {"suspicion": suspicion, **measures}


def _summary(name: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"images": 0, "median": None, "agreeing": None, "consistent": False}
    offsets = np.array(values)
    median = float(np.median(offsets))
    agreeing = int(np.count_nonzero(offsets * np.sign(median) > _NO_SIGN))
    consistent = (
        len(offsets) >= _LEAST_IMAGES
        and abs(median) >= _LEAST_OFFSET[name]
        and agreeing >= _LEAST_SHARE * len(offsets)
        and 2 * bdtrc(agreeing - 1, len(offsets), 0.5) < _CHANCE  # two-sided sign test
    )
    share = agreeing / len(offsets)
    return {
        "images": len(offsets),
        "median": median,
        "agreeing": share,
        "consistent": bool(consistent),
    }


def statement(name: str, verdict: dict[str, Any], *, with_images: bool = True) -> str:
    """Say in words what a verdict means for the class `name`.

    Example:
        >>> statement("cell", BiasEvidence().verdict()).startswith("cell: no sign")
        True
    """
    measures = [_measure_text(key, verdict[key]) for key in ("edge_offset", "displacement")]
    shown = "; ".join(text for text in measures if text) or "too few boundaries to measure"
    if verdict["suspicion"]:
        size = str(verdict["suspicion"]).replace("_", " ")
        return (
            f"{name}: the masks may be consistently {size} ({shown}). This is a suspicion, not a "
            "finding: without clean masks it cannot be told from objects whose true boundary "
            "lies there. Draw a few masks again with care and compare."
        )
    found = f"{name}: no sign of masks that are consistently too large or too small ({shown})."
    if with_images:
        return found
    return f"{found} The images were not given, so their edges were not looked at."


def _measure_text(key: str, measure: dict[str, Any]) -> str:
    if not measure["images"]:
        return ""
    what = "edge of the image" if key == "edge_offset" else "boundary believed by the network"
    if abs(measure["median"]) < 0.05:
        return f"{what}: on the given boundary in the median of {measure['images']} masks"
    side = "outside" if measure["median"] > 0 else "inside"
    return (
        f"{what}: {abs(measure['median']):.1f} px {side} the given boundary in the median of "
        f"{measure['images']} masks, {measure['agreeing']:.0%} of them on that side"
    )


GENERAL = (
    "An error that all masks share, such as outlines that are always too large, is learned by the "
    "network like everything else and is not identifiable without clean masks. The audit can only "
    "point to signs of it."
)
