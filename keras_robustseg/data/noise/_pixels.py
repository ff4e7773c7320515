"""Independent label flips of single pixels, by a transition matrix T[true, given]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keras_robustseg.data.noise._fields import Level, checked
from keras_robustseg.data.noise._geometry import FloatArray, IntArray
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.errors import DataError, RecipeError

_MODES = ("symmetric", "asymmetric", "matrix")


def pixel_flip(
    mode: str = "symmetric",
    *,
    rate: float | Sequence[float] = 0.1,
    include_true: bool = False,
    pairs: Mapping[int, int] | None = None,
    matrix: npt.ArrayLike | None = None,
    num_classes: int | None = None,
) -> Noise:
    """Redraws the label of each pixel on its own: P(given = j | true = i) = T[i, j].

    - `"symmetric"`, the true class excluded: T = (1 - rate) I + rate (1 - I) / (C - 1).
    - `"symmetric"`, `include_true`: T = (1 - rate) I + rate / C; only rate (C - 1) / C change.
    - `"asymmetric"`: T[i, pairs[i]] = rate, T[i, i] = 1 - rate; other classes stay.
    - `"matrix"`: T as given; strength is not defined, so no target Dice can be solved for.

    People do not err like this, pixel by pixel; networks withstand it well. It is for studies of
    transition matrices, and should not be the only noise of a comparison.

    Args:
        mode: See above.
        rate: See above.
        include_true: See above; some published code draws this way.
        pairs: Class to the class it is taken for.
        matrix: `(C, C)`, rows summing to 1.
        num_classes: C with background; by default the largest label of the mask plus one, at
            least 2. Not needed with `matrix`.

    Returns:
        The noise.

    Raises:
        RecipeError: A value is outside its range, or does not belong to the mode.

    Example:
        `noisy = pixel_flip(rate=0.2, num_classes=3)(mask, seed=0)`
    """
    given = {
        "mode": mode,
        "rate": rate,
        "include_true": include_true,
        "pairs": pairs,
        "matrix": matrix,
        "num_classes": num_classes,
    }
    level = checked("pixel_flip", given)
    _check_mode(mode)
    level["pairs"] = _checked_pairs(mode, pairs)
    level["matrix"] = _checked_matrix(mode, matrix)
    return Noise("pixel_flip", level, _pixel_flip)


def transition(level: Level, classes: int) -> FloatArray:
    """Returns the transition matrix T (C, C) of a level for `classes` classes.

    Raises:
        DataError: The matrix or the pairs do not fit the number of classes.
    """
    if level["mode"] == "matrix":
        matrix = np.asarray(level["matrix"])
        if len(matrix) < classes:
            raise DataError(
                f"noise 'pixel_flip', field 'matrix': {len(matrix)} classes, but the mask has "
                f"labels up to {classes - 1}"
            )
        return matrix
    rate, identity = level["rate"], np.eye(classes)
    if level["mode"] == "asymmetric":
        flipped = identity.copy()
        for source, target in level["pairs"].items():
            if source < classes > target:
                flipped[source] = identity[target]
        return (1.0 - rate) * identity + rate * flipped
    if level["include_true"]:
        return (1.0 - rate) * identity + rate / classes
    return (1.0 - rate) * identity + rate * (1.0 - identity) / (classes - 1)


def _pixel_flip(mask: IntArray, level: Level, rng: np.random.Generator) -> IntArray:
    mentioned = [label + 1 for pair in (level["pairs"] or {}).items() for label in pair]
    classes = max(level["num_classes"] or 2, int(mask.max()) + 1, *mentioned, 2)
    cumulative = np.cumsum(transition(level, classes), axis=1)
    cumulative[:, -1] = np.inf  # rounding must not let a draw fall off the end
    share = rng.random(mask.shape)
    noisy = np.zeros_like(mask)
    for bound in range(cumulative.shape[1] - 1):
        noisy += share >= cumulative[mask, bound]
    return noisy


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise RecipeError(
            f"noise 'pixel_flip', field 'mode': expected one of {', '.join(_MODES)}, "
            f"received {mode!r}"
        )


def _checked_pairs(mode: str, pairs: Mapping[int, int] | None) -> dict[int, int] | None:
    needed = mode == "asymmetric"
    if needed != bool(pairs):
        expected = "a mapping such as {1: 2}" if needed else f"nothing in mode {mode!r}"
        raise RecipeError(
            f"noise 'pixel_flip', field 'pairs': expected {expected}, received {pairs!r}"
        )
    if not pairs:
        return None
    try:  # keys of a JSON mapping are texts
        whole = {int(source): int(target) for source, target in pairs.items()}
    except (TypeError, ValueError):
        whole = {-1: -1}
    if min(*whole, *whole.values()) < 0:
        raise RecipeError(
            "noise 'pixel_flip', field 'pairs': expected class indices of at least 0, "
            f"received {pairs!r}"
        )
    return whole


def _checked_matrix(mode: str, matrix: npt.ArrayLike | None) -> list[list[float]] | None:
    if mode != "matrix" and matrix is None:
        return None
    try:
        rows = np.asarray(matrix, dtype=float)
    except (TypeError, ValueError):
        rows = np.empty(0)
    square = rows.ndim == 2 and rows.shape[0] == rows.shape[1] >= 2
    if mode != "matrix" or not square or (rows < 0).any() or not _sums_to_one(rows):
        expected = "a square matrix of probabilities with rows summing to 1, in mode 'matrix' only"
        raise RecipeError(
            f"noise 'pixel_flip', field 'matrix': expected {expected}, received {matrix!r}"
        )
    return rows.tolist()


def _sums_to_one(rows: FloatArray) -> bool:
    return bool(np.allclose(rows.sum(axis=1), 1.0, rtol=0, atol=1e-6))
