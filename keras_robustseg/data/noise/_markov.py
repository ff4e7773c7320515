"""The boundary walk of Yao et al.: an outline that diffuses, step by step, out or in.

Source: "Learning to segment from noisy annotations: a spatial correction approach", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import BoolArray, IntArray
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.data.noise._regions import follow, region_of
from keras_robustseg.errors import RecipeError


def markov(
    steps: int | Sequence[int] = 180,
    *,
    theta1: float | Sequence[float] = 0.8,
    theta2: float | Sequence[float] = 0.05,
    theta3: float | Sequence[float] = 0.2,
    blur: int = 5,
    classes: Sequence[int] | None = None,
) -> Noise:
    """Lets the outline walk: in each of T steps it expands with probability theta1, else shrinks.

    A step flips each frontier pixel with probability theta2; the frontier are the pixels outside
    with a face neighbour inside when it expands, and the other way round when it shrinks. Then
    every pixel flips with probability theta3, and a majority over a `blur` x `blur` window
    smooths the result. With the window, theta3 is all but erased; set `blur=0` to see it.

    theta1 = .8 over-segments, .2 under-segments; published levels are T 80 to 400.

    Args:
        steps: T.
        theta1: Probability that a step expands.
        theta2: Probability that a frontier pixel flips.
        theta3: Probability that any pixel flips in the end.
        blur: Odd width of the final window in px, 0 for none.
        classes: Classes whose common outline walks; all foreground classes by default.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range, or `blur` is even.

    Example:
        `noisy = markov(180, theta1=0.2)(mask, seed=0)`
    """
    given = {
        "steps": steps,
        "theta1": theta1,
        "theta2": theta2,
        "theta3": theta3,
        "blur": blur,
        "classes": classes,
    }
    level = checked("markov", given)
    if not isinstance(level["blur"], int) or (level["blur"] and level["blur"] % 2 == 0):
        raise RecipeError(f"noise 'markov', field 'blur': expected 0 or odd, received {blur!r}")
    return Noise("markov", level, _walk)


def _walk(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    before = region_of(mask, level)
    if not before.any():
        return mask
    after = walk(before, round(level["steps"]), level["theta1"], level["theta2"], rng)
    if level["theta3"]:
        after ^= rng.random(after.shape) < level["theta3"]
    if level["blur"]:
        after = ndimage.uniform_filter(after.astype(np.float32), level["blur"]) > 0.5
    return follow(mask, before, after, level)


def walk(
    region: BoolArray, steps: int, theta1: float, theta2: float, rng: np.random.Generator
) -> BoolArray:
    """Returns the region after `steps` steps of the walk, without the final flips and window.

    Works on a frame one pixel wider than the image, flattened, so that a neighbour is a fixed
    offset; only the frontier, found once a step, is touched.

    Example:
        `walk(region, 180, 0.8, 0.05, np.random.default_rng(0))`
    """
    padded = np.pad(region, 1)
    inner = np.pad(np.ones(region.shape, bool), 1).ravel()
    state = padded.ravel()
    strides = [int(np.prod(padded.shape[axis + 1 :])) for axis in range(region.ndim)]
    offsets = [sign * stride for stride in strides for sign in (1, -1)]
    for expands in rng.random(steps) < theta1:
        frontier = _frontier(state, inner, offsets, outward=bool(expands))
        state[frontier[rng.random(frontier.size) < theta2]] = expands
    return state.reshape(padded.shape)[(slice(1, -1),) * region.ndim]


def _frontier(
    state: BoolArray, inner: BoolArray, offsets: Sequence[int], *, outward: bool
) -> IntArray:
    """Returns the flat indices of the pixels that the region may take (outward) or give up."""
    side = state if outward else ~state & inner
    touched = np.zeros_like(state)
    for offset in offsets:
        shifted = slice(max(offset, 0), state.size + min(offset, 0))
        source = slice(max(-offset, 0), state.size - max(offset, 0))
        touched[shifted] |= side[source]
    touched &= inner
    touched &= ~state if outward else state
    return np.flatnonzero(touched)
