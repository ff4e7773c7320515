"""Wasserstein balls over positions: masks whose labels moved by a few pixels."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels._ambiguity_base import (
    LabelAmbiguity,
    Observed,
    Stance,
    as_level,
    image_shares,
    one_of,
    radius_or_price,
    saved,
)
from keras_robustseg.labels._ambiguity_transport import (
    choose_at_rate,
    choose_in_budget,
    spent_on,
)

Metric = Literal["euclidean", "sqeuclidean", "chebyshev"]
Coupling = Literal["jitter", "joint"]
Offset = tuple[int, ...]

_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "euclidean": lambda offset: float(np.sqrt((offset**2).sum())),
    "sqeuclidean": lambda offset: float((offset**2).sum()),
    "chebyshev": lambda offset: float(np.abs(offset).max()),
}


def shells(window: int, dims: int, metric: Metric = "euclidean") -> dict[float, list[Offset]]:
    """Return the offsets within a window, by their distance, nearest first.

    Example:
        `shells(1, 2)  # {0.0: [(0, 0)], 1.0: [(-1, 0), ...], 1.41...: [(-1, -1), ...]}`
    """
    found: dict[float, list[Offset]] = {}
    for offset in itertools.product(range(-window, window + 1), repeat=dims):
        found.setdefault(_METRICS[metric](np.array(offset)), []).append(offset)
    return dict(sorted(found.items()))


class Neighbours:
    """Maps of an image (B, *S, ...) read at a pixel's neighbours, 0 beyond the border.

    Args:
        window: largest offset along an axis.
        dims: number of spatial axes.
    """

    def __init__(self, window: int, dims: int) -> None:
        self.window, self.dims = window, dims

    def reader(self, x: Any) -> Callable[[Offset], Any]:
        """Return offset -> the map whose entry at i is that of x at i + offset."""
        reach = self.window
        rest = [(0, 0)] * (len(x.shape) - 1 - self.dims)
        padded = ops.pad(x, [(0, 0), *[(reach, reach)] * self.dims, *rest])

        def read(offset: Offset) -> Any:
            cut = [slice(reach + step, (step - reach) or None) for step in offset]
            return padded[(slice(None), *cut)]

        return read


def distance_to_labels(
    reference: Any, *, window: int, metric: Metric = "euclidean", missing: float = float("inf")
) -> Any:
    """Return how far the nearest pixel with each class is, (B, *S, C).

    Args:
        reference: (B, *S, C) one-hot labels, 0 where there is none.
        window: how far a pixel looks along each axis.
        metric: distance between pixels.
        missing: result where no pixel in the window has the class.

    Example:
        `distance_to_labels(one_hot_mask, window=2)`
    """
    dims = len(reference.shape) - 2
    read = Neighbours(window, dims).reader(reference)
    distance = ops.full_like(reference, missing)
    for length, offsets in reversed(shells(window, dims, metric).items()):
        present = read(offsets[0])
        for offset in offsets[1:]:
            present = ops.maximum(present, read(offset))
        distance = ops.where(present > 0, length, distance)
    return distance


@keras.saving.register_keras_serializable(package="keras_robustseg")
class SpatialWassersteinAmbiguity(LabelAmbiguity):
    """Masks whose labels moved by up to `window` pixels, a bounded distance on the mean.

    With n pixels that count, distances c_ij of pixels i, j within the window W, and y_i the
    label distribution of pixel i, the value of an image is (weights are base weights, not 1/n,
    where they differ)

        jitter  max over P, sum_i P_ij = 1/n:  sum_ij P_ij <y_i, L_j>  s.t. <P, c> <= radius
                = min_r  r radius + (1/n) sum_j max_{i in W(j)} [<y_i, L_j> - r c_ij]
        joint   max over P, sum_j P_ij = 1/n, the same objective and constraint
                = min_r  r radius + (1/n) sum_i sum_k y_ik max_{j in W(i)} [L_jk - r c_ij]

    With "jitter" each pixel borrows the label of a neighbour: only pixels within the window of
    another class can change, and each keeps its weight. "joint" is the Wasserstein ball over
    (position, label): labels move to where they cost most, grey dilation of the class costs, and
    may gather on one pixel; a pixel's row of q then sums to the labels that it has received. With
    a price instead of a radius, r is the price and the term r radius is gone.

    Works in 2-D and 3-D; nothing lies beyond the border; pixels without a label neither give nor
    take. The price of a jittered id is the distance to the nearest pixel of a class, so it takes
    no more memory than C entries a pixel; otherwise one entry for each distance in the window.

    Args:
        window: W, how many pixels a label may move along each axis, 1 or more.
        radius: mean distance that labels may move, pixels (squared for "sqeuclidean").
        metric: "euclidean", "sqeuclidean" or "chebyshev" distance of pixels.
        coupling: "jitter" or "joint".
        price: cost of a unit of distance, in the unit of L, instead of a radius.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: a value out of range, or not exactly one of radius and price.

    Example:
        `SpatialWassersteinAmbiguity(2, 0.1, stance="optimistic")(costs, mask)  # (B,)`
    """

    def __init__(
        self,
        window: int,
        radius: Any = None,
        metric: Metric = "euclidean",
        coupling: Coupling = "jitter",
        *,
        price: Any = None,
        stance: Stance = "pessimistic",
    ) -> None:
        super().__init__(stance=stance)
        if isinstance(window, bool) or int(window) != window or window < 1:
            raise ValueError(f"`window` must be a whole number of 1 or more. Received: {window}")
        self.window = int(window)
        self.metric = one_of("metric", metric, tuple(_METRICS))
        self.coupling = one_of("coupling", coupling, ("jitter", "joint"))
        self.radius, self.price = radius_or_price(radius, price)

    @property
    def per_image(self) -> bool:
        """True: the radius is that of an image."""
        return True

    def solve(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        """Return the labels after the best moves, and the price paid for them."""
        if self.coupling == "jitter" and observed.hard:
            prices = distance_to_labels(observed.reference, window=self.window, metric=self.metric)
            return self._choose(gains, prices, observed.weights)
        kind = _Borrowed if self.coupling == "jitter" else _Sent
        moves = kind(Neighbours(self.window, len(gains.shape) - 2), gains, observed)
        rings = shells(self.window, len(gains.shape) - 2, self.metric)
        payoffs, picks = _best_in_each(rings, moves)
        there = payoffs > -float("inf")
        prices = ops.where(there, ops.cast(np.array(list(rings)), gains.dtype), float("inf"))
        mass = ops.expand_dims(observed.weights, -1) * moves.mass
        choice, paid = self._choose(ops.where(there, payoffs, 0.0), prices, mass)
        q = moves.collect(list(rings.values()), picks, choice)
        return q, paid if self.price is None else ops.sum(moves.mass * paid, axis=-1)

    def _choose(self, payoffs: Any, prices: Any, mass: Any) -> tuple[Any, Any]:
        """Best options (..., O) of atoms with this mass (B, ...), and the price of each."""
        # An atom without mass has no option of its own; some option has to be free everywhere.
        prices = ops.where(ops.expand_dims(mass > 0, -1), prices, 0.0)
        if self.price is not None:
            rate = as_level(self.price, payoffs)
            choice = choose_at_rate(payoffs, prices, rate)
            return choice, rate * spent_on(choice, prices)
        choice = choose_in_budget(
            payoffs,
            prices,
            image_shares(mass),
            self.radius,
            least_price=1.0,
            pooled=len(mass.shape) - 1,
        )
        return choice, 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "window": self.window,
            "radius": saved(self.radius),
            "metric": self.metric,
            "coupling": self.coupling,
            "price": saved(self.price),
        }


class _Borrowed:
    """Jitter: pixel j reads the labels of its neighbour; one atom a pixel."""

    def __init__(self, near: Neighbours, gains: Any, observed: Observed) -> None:
        self.valid = near.reader(ops.expand_dims(observed.weights, -1))
        self.labels, self.gains = near.reader(observed.reference), gains
        self.mass = ops.ones_like(gains[..., :1])

    def payoff(self, offset: Offset) -> Any:
        """<y_{j + offset}, L_j>, (B, *S, 1)."""
        return ops.sum(self.labels(offset) * self.gains, axis=-1, keepdims=True)

    def collect(self, rings: list[list[Offset]], picks: list[Any], choice: Any) -> Any:
        """q (B, *S, C) of a choice of distances (B, *S, 1, O), and whose labels each stands for."""
        q = 0.0
        for ring, offsets in enumerate(rings):
            for place, offset in enumerate(offsets):
                picked = ops.cast(ops.equal(picks[ring], place), choice.dtype)
                q = q + choice[..., ring] * picked * self.labels(offset)
        return q


class _Sent:
    """Joint: the labels of pixel i go to its neighbour; one atom an id, or one a class."""

    def __init__(self, near: Neighbours, gains: Any, observed: Observed) -> None:
        self.valid = near.reader(ops.expand_dims(observed.weights, -1))
        self.gains, self.observed = gains, observed
        hard, shape = observed.hard, ops.shape(gains)
        self.mass = ops.ones_like(gains[..., :1]) if hard else observed.reference
        self.strides = [math.prod(shape[axis + 1 : -1]) for axis in range(1, len(shape) - 1)]
        self.pixels, self.classes = math.prod(shape[:-1]), gains.shape[-1]
        self.pixel = ops.reshape(ops.arange(self.pixels), (*shape[:-1], 1))
        own = ops.cast(ops.argmax(observed.reference, axis=-1), self.pixel.dtype)
        self.label = ops.expand_dims(own, -1) if hard else ops.arange(self.classes)

    def payoff(self, offset: Offset) -> Any:
        """L_{i + offset} at the label of i, (B, *S, 1), or at every class, (B, *S, C)."""
        there = self._entry(sum(map(operator.mul, offset, self.strides)))
        return ops.take(ops.reshape(self.gains, (-1,)), there)

    def collect(self, rings: list[list[Offset]], picks: list[Any], choice: Any) -> Any:
        """q (B, *S, C) of a choice of distances (B, *S, A, O), and where to go at each."""
        weight = ops.expand_dims(self.observed.weights, -1)
        parts, entries = [], []
        for ring, offsets in enumerate(rings):
            shifts = [sum(map(operator.mul, offset, self.strides)) for offset in offsets]
            parts.append(weight * self.mass * choice[..., ring])
            entries.append(self._entry(ops.take(ops.convert_to_tensor(shifts), picks[ring])))
        parts, entries = (ops.reshape(ops.stack(x), (-1,)) for x in (parts, entries))
        arrived = ops.segment_sum(parts, entries, num_segments=self.pixels * self.classes)
        return ops.divide_no_nan(ops.reshape(arrived, ops.shape(self.gains)), weight)

    def _entry(self, shift: Any) -> Any:
        """Which entry of the flat costs; some entry where that is beyond the border."""
        there = ops.clip(self.pixel + ops.cast(shift, self.pixel.dtype), 0, self.pixels - 1)
        return there * self.classes + self.label


def _best_in_each(rings: dict[float, list[Offset]], moves: Any) -> tuple[Any, list[Any]]:
    """Largest payoff at each distance (..., O), -infinite where there is no pixel, and whose."""
    best, picks = [], []
    for offsets in rings.values():
        most, pick = -float("inf"), 0
        for place, offset in enumerate(offsets):
            payoff = ops.where(moves.valid(offset) > 0, moves.payoff(offset), -float("inf"))
            pick = ops.where(payoff > most, place, pick)
            most = ops.maximum(payoff, most)
        best.append(most)
        picks.append(pick)
    return ops.stack(best, axis=-1), picks
