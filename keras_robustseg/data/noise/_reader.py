"""Noise of human readers: the outline moves by an offset and a smooth wiggle, as fitted to LIDC.

    noisy = [ sdf < b + w ],   b ~ N(0, (sb g)^2),   w ~ GP(0, (sw g)^2 exp(-d^2 / (2 ell^2))),
    g = r^p exp(tau z - tau^2),   z ~ N(0, 1),

with the signed distance sdf and the equivalent radius r of the clean object, in pixels of 0.68 mm;
the largest piece is kept.

The five numbers in `LIDC_READERS` were fitted by this project to the outlines of up to four
radiologists in LIDC-IDRI: ell to the correlation of displacements along the outline, the others by
a coarse search for the quantiles of the Dice between two readers, on 4,774 slices of 697 nodules
of the training patients. On other patients `benchmarks/noise.py` prints how well they hold.
Armato et al., Medical Physics 38:915 (2011), annotations CC BY 3.0, The Cancer Imaging Archive.
"The authors acknowledge the National Cancer Institute and the Foundation for the National
Institutes of Health, and their critical role in the creation of the free publicly available
LIDC/IDRI Database used in this study." Only the numbers are used here, no outline is copied.
Gross errors (a neighbouring vessel taken in) and the influence of the image are not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import (
    BoolArray,
    FloatArray,
    IntArray,
    equivalent_radius,
    find_objects,
    largest_piece,
    signed_distance,
    smooth_field,
)
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.errors import DataError

LIDC_PIXEL_MM = 0.68


class ReaderParameters(NamedTuple):
    """The fitted numbers: exponent p, offset sb, wiggle sw, spread tau of both, length ell (px)."""

    exponent: float
    offset: float
    wiggle: float
    spread: float
    length: float


LIDC_READERS = ReaderParameters(exponent=0.4, offset=0.265, wiggle=0.385, spread=0.4, length=3.8)


class _Drawn(NamedTuple):
    """One object as one reader sees it, in a window: signed distance and the edge's shift."""

    window: tuple[slice, ...]
    distance: FloatArray
    shift: FloatArray
    kept: BoolArray


def reader(
    scale: float | Sequence[float] = 1.0,
    *,
    missing: float | Sequence[float] = 0.0,
    max_radius: float = 32.0,
    keep_largest: bool = True,
    physical: bool = False,
) -> Noise:
    """Redraws every object as another radiologist might; the formula is at the head of the module.

    An object is a connected set of pixels of one class, and gets draws of its own. With s_k the
    signed distance and n_k = b_k + w_k the shift of object k, a pixel goes to the object with the
    smallest s_k - sqrt(2) n_k, unless the background's s_0 + (2 - sqrt(2)) n_k is smaller still:
    for one object this is s < n exactly, and an edge between two objects moves by
    (n_k - n_j) / sqrt(2), of the same variance, and opens no gap.

    An object never vanishes unless `missing` drops it: if its draw leaves nothing, its most
    certain pixel stays, since the fit saw only objects that both readers drew. A long thin object
    counts as at most twice as wide as its deepest inscribed ball.

    Args:
        scale: Factor on b and w; 1 = radiologists, 0 = no noise.
        missing: Probability that an object is not marked at all (in LIDC, one reader of four
            misses .12 of the nodules that the three others marked).
        max_radius: Equivalent radius in px beyond which noise stops growing; the fit has seen
            up to 32.
        keep_largest: Keep one piece of each object, as fitted. Turn it off for nets and shells,
            such as a cortex, which a moved edge may cut anywhere.
        physical: Measure in units of 0.68 mm by the spacing that the call is given, instead of
            taking one pixel as one unit.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range.

    Example:
        `noisy = reader(scale=1.0)(mask, seed=(0, "patient 12"))`
    """
    given = {
        "scale": scale,
        "missing": missing,
        "max_radius": max_radius,
        "keep_largest": keep_largest,
        "physical": physical,
    }
    return Noise("reader", checked("reader", given), _redraw)


def _redraw(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    ids, classes = find_objects(mask)
    steps = _steps(level, mask.ndim)
    best = np.full(mask.shape, np.inf)
    background = signed_distance(mask == 0, steps)
    threshold = background.copy()
    label = np.zeros_like(mask)
    boxes = ndimage.find_objects(ids)
    for number, box in enumerate(boxes, start=1):
        if rng.random() < level["missing"]:
            continue
        drawn = _draw_object(ids, number, box, level, steps, rng)
        window = drawn.window
        score = drawn.distance - math.sqrt(2.0) * drawn.shift
        score[~drawn.kept] = np.inf
        wins = score < best[window]
        best[window][wins] = score[wins]
        label[window][wins] = classes[number]
        rival = background[window] + (2.0 - math.sqrt(2.0)) * drawn.shift
        threshold[window][wins] = rival[wins]
    return np.where(best < threshold, label, 0)


def _draw_object(
    ids: IntArray,
    number: int,
    box: tuple[slice, ...],
    level: Level,
    steps: FloatArray,
    rng: np.random.Generator,
) -> _Drawn:
    radius = min(_radius(ids[box] == number, steps), level["max_radius"])
    spread = LIDC_READERS.spread
    growth = radius**LIDC_READERS.exponent * math.exp(spread * rng.standard_normal() - spread**2)
    growth *= level["scale"]
    offset = LIDC_READERS.offset * growth * rng.standard_normal()
    wiggle = LIDC_READERS.wiggle * growth
    reach = math.sqrt(2.0) * (max(0.0, offset) + 4.0 * wiggle) + 2.0
    window = _widened(box, ids.shape, reach, steps)
    inside = ids[window] == number
    distance = signed_distance(inside, steps)
    shift = offset + wiggle * smooth_field(rng, inside.shape, LIDC_READERS.length / steps)
    return _Drawn(window, distance, *_kept(distance, shift, level["keep_largest"]))


def _radius(inside: BoolArray, steps: FloatArray) -> float:
    """Returns the equivalent radius, at most twice the depth of the deepest inscribed ball."""
    size = np.count_nonzero(inside) * float(np.prod(steps))
    deepest = -float(signed_distance(np.pad(inside, 1), steps).min()) + 0.5 * float(steps.min())
    return min(float(equivalent_radius(size, inside.ndim)), 2.0 * deepest)


def _kept(distance: FloatArray, shift: FloatArray, largest: bool) -> tuple[FloatArray, BoolArray]:
    """Returns the shift, raised where nothing would be left, and where the object may be."""
    margin = distance - shift
    if margin.min() >= 0.0:
        most_certain = np.unravel_index(int(np.argmin(margin)), margin.shape)
        shift = shift.copy()
        shift[most_certain] = distance[most_certain] + 1e-6
    drawn = distance < shift
    if not largest:
        return shift, np.ones_like(drawn)
    return shift, ~drawn | largest_piece(drawn)


def _widened(
    box: tuple[slice, ...], shape: Sequence[int], reach: float, steps: FloatArray
) -> tuple[slice, ...]:
    pads = [math.ceil(reach / step) for step in steps]
    return tuple(
        slice(max(0, side.start - pad), min(size, side.stop + pad))
        for side, size, pad in zip(box, shape, pads, strict=True)
    )


def _steps(level: Level, dims: int) -> FloatArray:
    if not level["physical"]:
        return np.ones(dims)
    spacing = level["spacing"]
    if spacing is None or len(spacing) != dims or not all(step > 0 for step in spacing):
        raise DataError(
            f"noise 'reader' with physical=True needs the spacing of the mask: {dims} positive "
            f"numbers in mm, received {spacing!r}"
        )
    return np.asarray(spacing, dtype=float) / LIDC_PIXEL_MM
