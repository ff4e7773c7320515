"""The best choice of options under one budget: one scalar dual, piecewise linear."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.labels._ambiguity_base import as_level
from keras_robustseg.labels._ambiguity_rate import rates_at_budget


def choose_at_rate(payoffs: Any, prices: Any, rate: Any) -> Any:
    """Return the option of the largest payoff - rate x price, as one-hot (..., O).

    Among equals the cheapest. An option of infinite price is never chosen.

    Args:
        payoffs: (..., O).
        prices: 0 or more, broadcasts to `payoffs`.
        rate: 0 or more, broadcasts to (...).

    Example:
        `choose_at_rate(np.array([0.0, 3.0]), np.array([0.0, 2.0]), 1.0)  # [0, 1]`
    """
    choice, _ = _Options.of(payoffs, prices).cheapest_of_best(rate)
    return ops.moveaxis(choice, 0, -1)


def spent_on(choice: Any, prices: Any) -> Any:
    """Return sum_o pi_o price_o (...,) of a choice that takes no option of infinite price."""
    return ops.sum(choice * ops.where(ops.isfinite(prices), prices, 0.0), axis=-1)


def choose_in_budget(
    payoffs: Any, prices: Any, weights: Any, budget: Any, *, least_price: float, pooled: int = 1
) -> Any:
    """Return the pi (..., N, O) that solves

        max  sum_n w_n <pi_n, payoffs_n>   over pi_n in the simplex,
        s.t. sum_n w_n <pi_n, prices_n> <= budget.

    The dual min over r >= 0 of  r budget + sum_n w_n max_o (payoff_no - r price_no)  has one
    scalar, found by bisection of log r in a fixed number of steps. The choices on both sides of
    its end are mixed so that they cost the budget, which makes pi exactly feasible, and exact up
    to breakpoints closer together than the last interval.

    Args:
        payoffs: (..., N, O).
        prices: 0 or more, infinite where the option is not allowed, broadcasts to `payoffs` or
            it to them; each n has an option of price 0.
        weights: (..., N), 0 or more.
        budget: scalar, 0 or more.
        least_price: no price lies between 0 and this one.
        pooled: how many axes of the weights, from the last, share one budget; N is all of them.

    Example:
        `choose_in_budget(gains, prices, shares, 0.1, least_price=1.0)`
    """
    axes, budget = tuple(range(-pooled, 0)), as_level(budget, payoffs)
    options = _Options.of(payoffs, prices)

    def spending(rate: Any) -> tuple[Any, Any]:
        choice, paid = options.cheapest_of_best(rate)
        return choice, ops.sum(weights * paid, axis=axes, keepdims=True)

    def fits(rate: Any) -> Any:
        paid = ops.min(options.prices_of_best(rate), axis=0)
        return ops.sum(weights * paid, axis=axes, keepdims=True) <= budget

    top = 2.0 * ops.max(options.spread(), axis=axes, keepdims=True) / least_price
    rates = rates_at_budget(fits, ops.maximum(top, 0.0))
    (dear, high), (cheap, low) = (spending(rate) for rate in rates)
    share = ops.clip(ops.divide_no_nan(budget - low, high - low), 0.0, 1.0)
    return ops.moveaxis(share * dear + (1.0 - share) * cheap, 0, -1)


class _Options(NamedTuple):
    """Options along the first axis: the best of few is found fast where they lie apart.

    payoffs: (O, ...), -infinite where the option is not allowed.
    charged: prices, 0 there.
    prices: as given, infinite there.
    """

    payoffs: Any
    charged: Any
    prices: Any

    @classmethod
    def of(cls, payoffs: Any, prices: Any) -> _Options:
        """Return those of payoffs and prices with the options along the last axis."""
        allowed = ops.isfinite(prices)
        worth = ops.where(allowed, payoffs, -float("inf"))
        parts = worth, ops.where(allowed, prices, 0.0), prices
        return cls(*(_first(x, len(worth.shape)) for x in parts))

    def prices_of_best(self, rate: Any) -> Any:
        """Prices of the options that are best at this rate, infinite for the others."""
        worth = self.payoffs - rate * self.charged
        return ops.where(worth >= ops.max(worth, axis=0), self.prices, float("inf"))

    def cheapest_of_best(self, rate: Any) -> tuple[Any, Any]:
        """The first of the cheapest of the best options as one-hot (O, ...), its price (...)."""
        prices = self.prices_of_best(rate)
        paid = ops.min(prices, axis=0)
        chosen = ops.cast(ops.equal(prices, paid), paid.dtype)
        return ops.where(ops.cumsum(chosen, axis=0) <= 1.0, chosen, 0.0), paid

    def spread(self) -> Any:
        """Largest less least payoff of the options that are allowed, (...)."""
        least = ops.where(ops.isfinite(self.prices), self.payoffs, float("inf"))
        return ops.max(self.payoffs, axis=0) - ops.min(least, axis=0)


def _first(x: Any, rank: int) -> Any:
    missing = rank - len(x.shape)
    return ops.moveaxis(ops.reshape(x, (1,) * missing + tuple(ops.shape(x))), -1, 0)
