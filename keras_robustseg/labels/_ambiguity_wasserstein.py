"""Wasserstein balls over classes: what it costs to call class k class l."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels._ambiguity_base import (
    Budget,
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


def best_flip_in_budget(gains: Any, prices: Any, budget: Any) -> Any:
    """Return the q that solves  max <q, gains>  s.t.  <q, prices> <= budget, q in the simplex.

    The value is the concave envelope of the points (price, gain) at the budget: of all chords
    over it, the highest. No iteration, C^2 pairs.

    Args:
        gains: (..., C).
        prices: (..., C), 0 for one class at least, infinite for those not allowed.
        budget: scalar, 0 or more.

    Example:
        `best_flip_in_budget(np.array([0.0, 3.0]), np.array([0.0, 1.0]), 0.2)  # [0.8, 0.2]`
    """
    classes, budget = gains.shape[-1], as_level(budget, gains)
    # Classes first: what is done for each of a few classes is then done on long vectors.
    gains, prices = ops.moveaxis(gains, -1, 0), ops.moveaxis(prices, -1, 0)
    numbers = ops.reshape(ops.arange(classes), (-1,) + (1,) * (len(gains.shape) - 1))
    within = prices <= budget
    beyond = ops.logical_and(ops.isfinite(prices), ops.logical_not(within))
    best = ops.max(ops.where(within, gains, -float("inf")), axis=0)
    # Among equal gains the cheapest, so that nothing moves without a reason.
    worth = ops.where(ops.logical_and(within, gains >= best), prices, float("inf"))
    near = far = _first(worth <= ops.min(worth, axis=0), numbers)
    share = ops.zeros_like(best)
    for k in range(classes):
        usable = ops.logical_and(beyond, within[k])
        part = (budget - prices[k]) / ops.where(usable, prices - prices[k], 1.0)
        chord = ops.where(usable, gains[k] + part * (gains - gains[k]), -float("inf"))
        value = ops.max(chord, axis=0)
        better = value > best
        top = _first(chord >= value, numbers)
        best, far = ops.where(better, value, best), ops.where(better, top, far)
        near = ops.where(better, k, near)
        moved = ops.sum(ops.where(ops.equal(numbers, top), part, 0.0), axis=0)
        share = ops.where(better, moved, share)
    near, far = (ops.cast(ops.equal(numbers, x), gains.dtype) for x in (near, far))
    return ops.moveaxis(near + share * (far - near), 0, -1)


def _first(chosen: Any, numbers: Any) -> Any:
    """Number of the first class (C, ...) that is chosen; of none, the last."""
    return ops.min(ops.where(chosen, numbers, numbers.shape[0] - 1), axis=0)


def transported(
    gains: Any,
    observed: Observed,
    matrix: np.ndarray,
    *,
    radius: Any = None,
    price: Any = None,
    per_image: bool = False,
) -> tuple[Any, Any]:
    """Return the best labels (B, *S, C) that transport between classes gives, and its price.

    Args:
        gains: (B, *S, C).
        observed: the labels.
        matrix: ground cost (C, C), infinite where a flip is forbidden.
        radius: budget of each pixel, or of the mean over an image.
        price: of a unit of transport, instead of a radius.
        per_image: whether the pixels of an image share the budget.

    Example:
        `transported(gains, observed, 1 - np.eye(3), radius=0.1)`
    """
    prices = ops.cast(matrix, gains.dtype)
    if observed.hard:
        prices = ops.take(prices, ops.argmax(observed.reference, axis=-1), axis=0)
        if radius is not None and not per_image:
            return best_flip_in_budget(gains, prices, radius), 0.0
        prices, mass = ops.expand_dims(prices, -2), ops.ones_like(gains[..., :1])
    else:
        mass = observed.reference
    payoffs = ops.expand_dims(gains, -2)
    if price is None:
        shares = ops.expand_dims(image_shares(observed.weights), -1) * mass if per_image else mass
        least, pooled = float(np.min(matrix[matrix > 0], initial=np.inf)), len(shares.shape) - 1
        flips = choose_in_budget(
            payoffs, prices, shares, radius, least_price=least, pooled=pooled if per_image else 1
        )
    else:
        flips = choose_at_rate(payoffs, prices, as_level(price, payoffs))
    q = ops.sum(ops.expand_dims(mass, -1) * flips, axis=-2)
    if price is None:
        return q, 0.0
    return q, as_level(price, gains) * ops.sum(mass * spent_on(flips, prices), axis=-1)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class WassersteinAmbiguity(LabelAmbiguity):
    """Labels within a transport cost of the observed ones, the ground cost being between classes.

        sup <q, L>  over  W(y, q) = min { sum_kl c_kl P_kl : P 1 = y, P' 1 = q, P >= 0 } <= radius

    for each pixel, or with the mean of W over the pixels of an image bounded by the radius; or,
    with a price instead of a radius, sup <q, L> - price W(y, q). An infinite cost forbids a flip:
    a class that annotators never confuse with another, or one that is trusted. With
    cost 0 on the diagonal and 1 elsewhere the ball is that of total variation.

    Ids are solved in closed form (the concave envelope of the points (c_yl, L_l) at the radius);
    soft labels, and budgets of images, by one scalar dual (C^2 entries a pixel for soft ones).

    Args:
        cost: c (C, C), c[k, l] the cost of calling class k class l; infinite or None forbids.
        radius: 0 or more, in the unit of the cost.
        budget: "pixel", or "image" for one radius for the mean over an image.
        price: cost of a unit of transport, in the unit of L, instead of a radius.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the cost is not square, negative or NaN somewhere, or not 0 on the diagonal;
            not exactly one of radius and price; a value out of range; or, when called, another
            number of classes.

    Example:
        `WassersteinAmbiguity([[0, 1, 2], [1, 0, 1], [2, 1, 0]], 0.1)(costs, mask)`
    """

    def __init__(
        self,
        cost: Any,
        radius: Any = None,
        *,
        budget: Budget = "pixel",
        price: Any = None,
        stance: Stance = "pessimistic",
    ) -> None:
        super().__init__(stance=stance)
        self.matrix = ground_cost(cost)
        self.budget = one_of("budget", budget, ("pixel", "image"))
        self.radius, self.price = radius_or_price(radius, price)

    @property
    def per_image(self) -> bool:
        """Whether a call returns one value an image."""
        return self.budget == "image"

    def solve(self, gains: Any, observed: Observed) -> tuple[Any, Any]:
        """Return the best labels and the price paid for them."""
        if gains.shape[-1] != len(self.matrix):
            raise ValueError(
                f"`cost` is for {len(self.matrix)} classes. Received: class costs of shape "
                f"{tuple(gains.shape)}"
            )
        budget = {"radius": self.radius, "price": self.price, "per_image": self.per_image}
        return transported(gains, observed, self.matrix, **budget)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor; forbidden flips as None."""
        cost = [[None if np.isinf(c) else float(c) for c in row] for row in self.matrix]
        return {
            **super().get_config(),
            "cost": cost,
            "radius": saved(self.radius),
            "budget": self.budget,
            "price": saved(self.price),
        }


def ground_cost(cost: Any) -> np.ndarray:
    """Return a cost matrix as float64, None read as infinite.

    Raises:
        ValueError: it is not square, negative or NaN somewhere, or not 0 on the diagonal.
    """
    rows = [[float("inf") if c is None else float(c) for c in row] for row in cost]
    matrix = np.array(rows, "float64") if len({len(row) for row in rows}) == 1 else np.zeros(0)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 2
    if not square or not (matrix >= 0).all() or np.diag(matrix).any():
        raise ValueError(
            "`cost` must be a square matrix with entries of 0 or more, infinite where a flip is "
            f"forbidden, and a diagonal of 0. Received: {cost!r}"
        )
    return matrix
