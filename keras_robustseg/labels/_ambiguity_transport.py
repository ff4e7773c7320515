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
        rate: 0 or more, broadcasts to (..., 1).

    Example:
        `choose_at_rate(np.array([0.0, 3.0]), np.array([0.0, 2.0]), 1.0)  # [0, 1]`
    """
    return _cheapest_of_best(_Options.of(payoffs, prices), rate)


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
    apart = _Options(*(_first(x, len(options.payoffs.shape)) for x in options))

    def spending(price_of_choice: Any) -> Any:
        return ops.sum(weights * price_of_choice, axis=axes, keepdims=True)

    def fits(rate: Any) -> Any:
        worth = apart.payoffs - rate * apart.charged
        best = ops.where(worth >= ops.max(worth, axis=0), apart.prices, float("inf"))
        return spending(ops.min(best, axis=0)) <= budget

    top = 2.0 * ops.max(_spread(options), axis=axes, keepdims=True) / least_price
    rates = rates_at_budget(fits, ops.maximum(top, 0.0))
    dear, cheap = (_cheapest_of_best(options, ops.expand_dims(r, -1)) for r in rates)
    high, low = spending(spent_on(dear, prices)), spending(spent_on(cheap, prices))
    share = ops.clip(ops.divide_no_nan(budget - low, high - low), 0.0, 1.0)
    share = ops.expand_dims(share, -1)
    return share * dear + (1.0 - share) * cheap


class _Options(NamedTuple):
    """Options as a loop over rates wants them.

    payoffs: (..., O), -infinite where the option is not allowed.
    charged: prices, 0 there.
    prices: as given, infinite there.
    """

    payoffs: Any
    charged: Any
    prices: Any

    @classmethod
    def of(cls, payoffs: Any, prices: Any) -> _Options:
        allowed = ops.isfinite(prices)
        worth = ops.where(allowed, payoffs, -float("inf"))
        return cls(worth, ops.where(allowed, prices, 0.0), prices)


def _first(x: Any, rank: int) -> Any:
    """Options (..., O) as (O, ...): the best of few is found fast where they lie apart."""
    missing = rank - len(x.shape)
    return ops.moveaxis(ops.reshape(x, (1,) * missing + tuple(ops.shape(x))), -1, 0)


def _price_of_best(options: _Options, rate: Any) -> Any:
    """Prices of the options that are best at this rate, infinite for the others."""
    worth = options.payoffs - rate * options.charged
    best = worth >= ops.max(worth, axis=-1, keepdims=True)
    return ops.where(best, options.prices, float("inf"))


def _cheapest_of_best(options: _Options, rate: Any) -> Any:
    chosen = ops.argmin(_price_of_best(options, rate), axis=-1)
    return ops.one_hot(chosen, options.payoffs.shape[-1], dtype=options.payoffs.dtype)


def _spread(options: _Options) -> Any:
    """Largest less least payoff of the options that are allowed."""
    least = ops.where(ops.isfinite(options.prices), options.payoffs, float("inf"))
    return ops.max(options.payoffs, axis=-1) - ops.min(least, axis=-1)
