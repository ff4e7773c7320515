"""When a class begins to be memorised: the bend of its training curve (Liu et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_POINTS = 4  # three numbers are fitted
_LEARNED = 0.1


class Curve(NamedTuple):
    """f(t) = a (1 - exp(-t^b / c)), with a and b in (0, 1] and c > 0."""

    a: float
    b: float
    c: float

    def value(self, t: float | np.ndarray) -> np.ndarray:
        """Return f(t) for t >= 0."""
        return self.a * -np.expm1(-(np.asarray(t, "float64") ** self.b) / self.c)

    def slope(self, t: float | np.ndarray) -> np.ndarray:
        """Return f'(t) = a b / c t^(b-1) exp(-t^b / c) for t > 0."""
        t = np.asarray(t, "float64")
        return self.a * self.b / self.c * t ** (self.b - 1.0) * np.exp(-(t**self.b) / self.c)


def fit_curve(values: Sequence[float] | np.ndarray) -> Curve:
    """Fit f to a training curve, by weighted least squares.

    Later epochs weigh more, from 1 up to 10 times in geometric steps, as in the authors' program:
    the bend is what counts. At given b and c the best a is a quotient, so two numbers are
    searched, from several starts.

    Args:
        values: IoU of epochs 1, 2, ..., at least four.

    Raises:
        ValueError: fewer than four values, or one that is not finite.

    Example:
        `fit_curve(Curve(0.8, 0.7, 2.0).value(np.arange(1, 20)))`
    """
    from scipy.optimize import least_squares

    y = np.asarray(values, "float64")
    if y.ndim != 1 or len(y) < LEAST_POINTS or not np.isfinite(y).all():
        raise ValueError(
            f"A training curve is fitted to at least {LEAST_POINTS} finite values. "
            f"Received: {values}"
        )
    t, weight = np.arange(1.0, len(y) + 1), np.geomspace(1.0, 10.0, len(y))

    def best(shape: np.ndarray) -> Curve:
        rise = Curve(1.0, shape[0], np.exp(shape[1])).value(t) * weight
        a = float(rise @ (y * weight)) / max(float(rise @ rise), 1e-300)
        return Curve(float(np.clip(a, 0.0, 1.0)), float(shape[0]), float(np.exp(shape[1])))

    fits = [
        least_squares(
            lambda shape: weight * (best(shape).value(t) - y),
            (b, np.log(c)),
            bounds=([1e-3, -10.0], [1.0, 10.0]),
            xtol=1e-12,
            ftol=1e-12,
            gtol=1e-12,
        )
        for b, c in ((0.9, 1.0), (0.5, 1.0), (0.9, 10.0))
    ]
    return best(min(fits, key=lambda fit: fit.cost).x)


def memorization_begins(values: Sequence[float] | np.ndarray, slope_drop: float = 0.9) -> bool:
    """Tell whether the training curve of a class has bent by the last of its epochs.

        |f'(1) - f'(t)| / |f'(1)| > slope_drop

    with f fitted to the curve, whose start, below a tenth of its highest value, is left out:
    there the class was not yet learned. Needs no clean mask.

    Args:
        values: IoU of the predictions in training with the masks as given, an entry an epoch.
        slope_drop: the paper's r, in (0, 1).

    Example:
        `memorization_begins([0.1, 0.4, 0.55, 0.6, 0.61, 0.61])`
    """
    y = np.asarray(values, "float64")
    if not len(y) or not y.max() > 0:
        return False
    learned = y[int(np.argmax(y >= _LEARNED * y.max())) :]
    if len(learned) < LEAST_POINTS:
        return False
    curve = fit_curve(learned)
    first, last = curve.slope(1.0), curve.slope(float(len(learned)))
    return bool(first > 0 and (first - last) / first > slope_drop)
