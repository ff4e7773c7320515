"""Measures by moments: mean plus deviation or upper semideviation."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.risk._reduce import LOCAL, Local
from keras_robustseg.risk._rows import answer, per_row, rows, signed, stanced, tiny


def expectation(losses: Any, weights: Any, *, reduce: Local = LOCAL) -> tuple[Any, Any]:
    """Return the mean and the base weights over their sum.

    Example:
        `expectation(keras.ops.array([1.0, 2.0]), [1.0, 3.0])  # 1.75, [0.25, 0.75]`
    """
    of = rows(losses, weights, reduce)
    return answer(of, of.probability)


def mean_semideviation(
    losses: Any,
    weights: Any,
    coefficient: Any,
    order: int,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the mean plus a share of the upper semideviation, and its weights.

    m + c (E (l - m)_+^order)^(1 / order), coherent for c in [0, 1] (Ogryczak and Ruszczynski,
    SIAM J. Optimization 2002).

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        coefficient: c, a number or (...,).
        order: 1 or 2.
        stance: "optimistic" for m - c (E (m - l)_+^order)^(1 / order).
        reduce: how sums go over the losses.

    Example:
        `mean_semideviation(keras.ops.array([1.0, 3.0]), None, 1.0, 1)  # 2.5`
    """
    of = rows(signed(losses, stance), weights, reduce)
    above = ops.maximum(of.reduce.sum(of.probability * of.gaps) - of.gaps, 0.0)
    if order == 1:
        direction = ops.cast(above > 0, above.dtype)
    else:
        square = of.reduce.sum(of.probability * ops.square(above))
        direction = above / ops.sqrt(ops.maximum(square, tiny(above)))
    centred = direction - of.reduce.sum(of.probability * direction)
    q = of.probability * (1.0 + per_row(coefficient, above) * centred)
    return stanced(answer(of, q), stance)


def mean_deviation(
    losses: Any,
    weights: Any,
    coefficient: Any,
    *,
    stance: str = "pessimistic",
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the mean plus c standard deviations, and its weights, which may be negative.

    m + c (E (l - m)^2)^(1/2) (Markowitz). Where no weight is negative it is the risk of the
    "chi2" ball of radius c^2; elsewhere it is not monotone: a lower loss can raise it.

    Args:
        losses: (..., n).
        weights: (..., n) base weights, or None.
        coefficient: c, a number or (...,).
        stance: "optimistic" for m - c std.
        reduce: how sums go over the losses.

    Example:
        `mean_deviation(keras.ops.array([1.0, 3.0]), None, 1.0)  # 3`
    """
    of = rows(signed(losses, stance), weights, reduce)
    centred = of.reduce.sum(of.probability * of.gaps) - of.gaps
    variance = of.reduce.sum(of.probability * ops.square(centred))
    direction = centred / ops.sqrt(ops.maximum(variance, tiny(centred)))
    q = of.probability * (1.0 + per_row(coefficient, centred) * direction)
    return stanced(answer(of, q), stance)
