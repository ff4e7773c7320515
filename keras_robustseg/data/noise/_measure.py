"""How far a noisy mask is from the clean one: the numbers of a manifest row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_robustseg.data.noise._geometry import BoolArray, IntArray


def mean_dice(noisy: IntArray, clean: IntArray, num_classes: int) -> float:
    """Returns Dice averaged over the foreground classes of either mask; NaN where there is none.

    Example:
        `mean_dice(noise.dilate(2)(mask, seed=0), mask, 2)`
    """
    from keras_robustseg.metrics._overlap import dice

    return _mean(dice(noisy, clean, num_classes)[1:])


def measure(
    noisy: IntArray,
    clean: IntArray,
    *,
    num_classes: int,
    spacing: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Compares a noisy mask with the clean one.

    Args:
        noisy: Class indices `(*S)`, negative is void.
        clean: The mask before the noise, with the same void.
        num_classes: Number of classes with background.
        spacing: Size of a pixel along each axis, for `hd95`; 1 by default.

    Returns:
        `dice`, `iou`, `hd95`: means over foreground classes, `None` where undefined; `lost` and
        `gained`: for each foreground class, the share of its pixels that noise took away, and
        the share of the other pixels that noise gave to it, `None` where there are none.

    Example:
        `measure(noisy, mask, num_classes=2)["dice"]`
    """
    from keras_robustseg.metrics._overlap import iou

    known = (noisy >= 0) & (clean >= 0)
    pairs = [((noisy == k) & known, (clean == k) & known) for k in range(1, num_classes)]
    return {
        "dice": _plain(mean_dice(noisy, clean, num_classes)),
        "iou": _plain(_mean(iou(noisy, clean, num_classes)[1:])),
        "hd95": _plain(_mean([_hausdorff(after, before, spacing) for after, before in pairs])),
        "lost": [_share(before & ~after, before) for after, before in pairs],
        "gained": [_share(after & ~before, known & ~before) for after, before in pairs],
    }


def _hausdorff(after: BoolArray, before: BoolArray, spacing: Sequence[float] | None) -> float:
    from keras_robustseg.metrics._surface import hausdorff_95

    return float(hausdorff_95(after, before, spacing=spacing))


def _share(part: BoolArray, whole: BoolArray) -> float | None:
    pixels = np.count_nonzero(whole)
    return np.count_nonzero(part) / pixels if pixels else None


def _mean(values: npt.ArrayLike) -> float:
    values = np.asarray(values, dtype=float)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
