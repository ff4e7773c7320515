"""Risk measures whose worst case is a closed form, a quantile, a rank or a transport."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.risk._cvar import cvar, worst_case
from keras_robustseg.risk._measure import RiskMeasure, checked, constant, plain
from keras_robustseg.risk._moments import expectation, mean_deviation, mean_semideviation
from keras_robustseg.risk._penalties import divergence_penalty, smoothed_cvar
from keras_robustseg.risk._reduce import Local, gathered
from keras_robustseg.risk._spectral import spectral_risk, wasserstein_ball

_register = keras.saving.register_keras_serializable(package="keras_robustseg")


@_register
class Expectation(RiskMeasure):
    """The weighted mean.

    Example:
        `Expectation()(keras.ops.array([1.0, 3.0]))  # 2`
    """

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the mean and the base weights over their sum."""
        return expectation(losses, weights, reduce=reduce)


@_register
class WorstCase(RiskMeasure):
    """The greatest loss that counts; "optimistic", the least. Ties share the weight.

    Example:
        `WorstCase()(keras.ops.array([1.0, 3.0]))  # 3`
    """

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the maximum and the base weights restricted to it."""
        return worst_case(losses, weights, stance=self.stance, reduce=reduce)


@_register
class CVaR(RiskMeasure):
    """Conditional value at risk: the mean of the worst share `alpha` of the mass.

    sup { <q, l> - temperature D(q, p) : q <= p / alpha }, D = 0 without smoothing. Exact with
    weights, ties and a fraction of an atom at the edge; no sort. "optimistic" is the mean of the
    best share, small-loss trimming. See `cvar`.

    Args:
        alpha: tail mass in (0, 1]; 1 is the mean, and towards 0 it is the maximum.
        smoothing: None; "entropic", D = sum q log(q / p); "l2", D = 1/2 sum (q - p)^2 / p (Levy
            et al., NeurIPS 2020; Laguel et al., 2021). Smoothed, the weights change continuously
            with the losses.
        temperature: positive, in units of the loss, with smoothing only.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: a parameter is out of range, or a temperature is missing or has no use.

    Example:
        `CVaR(0.5)(keras.ops.array([1.0, 2.0, 4.0]))  # 10 / 3`
    """

    def __init__(
        self,
        alpha: Any,
        smoothing: str | None = None,
        temperature: Any = None,
        stance: str = "pessimistic",
    ) -> None:
        super().__init__(stance)
        if smoothing not in (None, "entropic", "l2"):
            raise ValueError(
                f'`smoothing` must be None, "entropic" or "l2". Received: smoothing={smoothing!r}'
            )
        if (smoothing is None) is not (temperature is None):
            raise ValueError(
                "`temperature` goes with `smoothing`. "
                f"Received: smoothing={smoothing!r}, temperature={temperature}"
            )
        self.alpha = checked("alpha", alpha, 0.0, 1.0, open_low=True)
        self.smoothing = smoothing
        self.temperature = temperature
        if temperature is not None:
            checked("temperature", temperature, 0.0, open_low=True)

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and the tail weights."""
        if self.smoothing is None:
            return cvar(losses, weights, self.alpha, stance=self.stance, reduce=reduce)
        options: dict[str, Any] = {"stance": self.stance, "reduce": reduce}
        smooth = (self.alpha, self.smoothing, self.temperature)
        return smoothed_cvar(losses, weights, *smooth, **options)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        temperature = None if self.temperature is None else plain(self.temperature)
        own = {"alpha": plain(self.alpha), "smoothing": self.smoothing, "temperature": temperature}
        return {**super().get_config(), **own}


@_register
class EntropicRisk(RiskMeasure):
    """temperature log sum p exp(l / temperature): the tilted mean; as "kl" penalty.

    Towards infinite temperature it is the mean, towards 0 the maximum. "optimistic" is the
    negative tilt of TERM (Li et al., JMLR 2023), -temperature log sum p exp(-l / temperature).

    Args:
        temperature: positive, in units of the loss.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the temperature is not positive.

    Example:
        `EntropicRisk(1.0)(keras.ops.array([1.0, 3.0]))`
    """

    def __init__(self, temperature: Any, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        self.temperature = checked("temperature", temperature, 0.0, open_low=True)

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and the softmax weights."""
        return divergence_penalty(
            losses, weights, "kl", self.temperature, stance=self.stance, reduce=reduce
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "temperature": plain(self.temperature)}


@_register
class MeanSemideviation(RiskMeasure):
    """Mean plus a share of the upper semideviation; see `mean_semideviation`. Coherent and mild.

    Args:
        coefficient: in [0, 1].
        order: 1, mean excess over the mean; 2, its root mean square.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: a parameter is out of range.

    Example:
        `MeanSemideviation(1.0, order=1)(keras.ops.array([1.0, 3.0]))  # 2.5`
    """

    def __init__(self, coefficient: Any, order: int = 1, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        if order not in (1, 2):
            raise ValueError(f"`order` must be 1 or 2. Received: order={order}")
        self.coefficient = checked("coefficient", coefficient, 0.0, 1.0)
        self.order = order

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        options: dict[str, Any] = {"stance": self.stance, "reduce": reduce}
        return mean_semideviation(losses, weights, self.coefficient, self.order, **options)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"coefficient": plain(self.coefficient), "order": self.order}
        return {**super().get_config(), **own}


@_register
class MeanDeviation(RiskMeasure):
    """Mean plus standard deviations, where that is a monotone risk; see `mean_deviation`.

    Where the coefficient is so large that a loss would get a negative weight, lower losses raise
    the risk. Such input is refused: with a ValueError, or inside a compiled function with NaN.
    `DivergenceBall("chi2", coefficient**2)` is equal up to there and monotone beyond.

    Args:
        coefficient: 0 or more.
        monotone: False to allow negative weights.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the coefficient is negative; in a call: a weight would be.

    Example:
        `MeanDeviation(0.5)(keras.ops.array([1.0, 3.0]))  # 2.5`
    """

    def __init__(
        self, coefficient: Any, monotone: bool = True, stance: str = "pessimistic"
    ) -> None:
        super().__init__(stance)
        self.coefficient = checked("coefficient", coefficient, 0.0)
        self.monotone = monotone

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        options: dict[str, Any] = {"stance": self.stance, "reduce": reduce}
        value, q = mean_deviation(losses, weights, self.coefficient, **options)
        if not self.monotone:
            return value, q
        least = -reduce.max(-q)
        refused = ops.squeeze(least < -1e-6 * reduce.max(q), axis=-1)
        known = constant(refused)  # no walrus here: AutoGraph warns of it
        if known is not None and known.any():
            raise ValueError(
                "The mean plus so many standard deviations is not monotone on these losses. "
                "Expected a smaller coefficient, `monotone=False`, or "
                'DivergenceBall("chi2", coefficient**2), which agrees where it is. '
                f"Received: coefficient={self.coefficient}"
            )
        return ops.where(refused, ops.full_like(value, float("nan")), value), q

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"coefficient": plain(self.coefficient), "monotone": self.monotone}
        return {**super().get_config(), **own}


@_register
class SpectralRisk(RiskMeasure):
    """Mean of the quantiles under a spectrum; see `spectral_risk`. The one measure that sorts.

    Args:
        spectrum: (m,) masses of m equal parts of the quantiles, in rising order of the losses: not
            negative, not decreasing, with sum 1. m is the resolution; it need not be the number
            of losses.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the spectrum is none.

    Example:
        `SpectralRisk([0.2, 0.3, 0.5])(keras.ops.array([4.0, 1.0, 2.0]))  # 2.8`
    """

    def __init__(self, spectrum: Any, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        known = constant(spectrum)
        if known is not None and not _is_spectrum(known):
            raise ValueError(
                "`spectrum` must be a vector of numbers that are not negative, do not decrease "
                f"and have sum 1. Received: spectrum={spectrum}"
            )
        self.spectrum = spectrum

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        return gathered(
            lambda x, w: spectral_risk(x, w, self.spectrum, stance=self.stance),
            losses,
            weights,
            reduce,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "spectrum": plain(self.spectrum)}


@_register
class WassersteinBall(RiskMeasure):
    """Worst case over what transport of the mass within a budget can do; see `wasserstein_ball`.

    Args:
        cost: (n, n), price of moving mass from loss i to loss j: not negative, 0 on the diagonal,
            infinite where it is forbidden. n is the number of losses that are reduced together.
        radius: 0 or more, in units of the cost.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the cost matrix or the radius is none; in a call: n does not fit.

    Example:
        `WassersteinBall([[0.0, 1.0], [1.0, 0.0]], 0.1)(keras.ops.array([1.0, 2.0]))  # 1.6`
    """

    def __init__(self, cost: Any, radius: Any, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        known = constant(cost)
        if known is not None and not _is_cost(known):
            raise ValueError(
                "`cost` must be a square matrix that is not negative, with a diagonal of 0. "
                f"Received: cost={cost}"
            )
        self.cost = cost
        self.radius = checked("radius", radius, 0.0)

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        return gathered(self._solve, losses, weights, reduce)

    def _solve(self, losses: Any, weights: Any) -> tuple[Any, Any]:
        size = np.shape(self.cost)[-1]
        if losses.shape[-1] not in (None, size):
            raise ValueError(
                f"`cost` must have one row for each of the {losses.shape[-1]} losses. "
                f"Received: cost of shape {tuple(np.shape(self.cost))}"
            )
        return wasserstein_ball(losses, weights, self.cost, self.radius, stance=self.stance)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"cost": plain(self.cost), "radius": plain(self.radius)}
        return {**super().get_config(), **own}


def _is_spectrum(x: np.ndarray) -> bool:
    falls = np.any(np.diff(x) < -1e-12)
    return bool(x.ndim == 1 and x.size and x[0] >= 0 and not falls and abs(x.sum() - 1) < 1e-5)


def _is_cost(x: np.ndarray) -> bool:
    square = x.ndim == 2 and x.shape[0] == x.shape[1] > 0
    return bool(square and not np.any(np.diagonal(x) != 0) and np.all(x >= 0))
