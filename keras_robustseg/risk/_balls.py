"""Worst cases over balls of a phi-divergence around the base weights.

divergence_ball(losses, weights, divergence, radius, order=None, stance="pessimistic")
    -> (value, q)                                        over the last axis
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.risk._cvar import total_variation_ball
from keras_robustseg.risk._penalties import shape_ball_weights
from keras_robustseg.risk._power import power_ball_weights
from keras_robustseg.risk._profiles import SHAPES, from_conjugate
from keras_robustseg.risk._reduce import LOCAL, Local
from keras_robustseg.risk._rows import Rows, answer, per_row, rows, signed, stanced

DIVERGENCES = ("kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys", "renyi")
_ORDERS = {"kl": 1.0, "reverse_kl": 0.0, "chi2": 2.0, "neyman": -1.0, "hellinger": 0.5}


def divergence_ball(
    losses: Any,
    weights: Any,
    divergence: Any,
    radius: Any,
    order: float | None = None,
    stance: str = "pessimistic",
    *,
    reduce: Local = LOCAL,
) -> tuple[Any, Any]:
    """Return the risk of a divergence ball and its worst-case weights.

    sup { <q, l> : q << p, sum q = 1, D(q, p) <= radius }, with p the base weights over their sum
    and D one of

    | name | D(q, p) | radius |
    |---|---|---|
    | "kl" | sum q log(q / p) | >= 0 |
    | "reverse_kl" | sum p log(p / q) | >= 0 |
    | "chi2" | sum (q - p)^2 / p | >= 0 |
    | "neyman" | sum (q - p)^2 / q | >= 0 |
    | "hellinger" | sum (sqrt q - sqrt p)^2 | >= 0, 2 is all |
    | "tv" | 1/2 sum abs(q - p) | >= 0, 1 is all |
    | "jeffreys" | sum (q - p) log(q / p) | >= 0 |
    | "renyi" | log(sum p (q / p)^order) / (order - 1) | >= 0 |

    Args:
        losses: (..., n).
        weights: (..., n) base weights, not negative, of any scale; or None. Losses of weight 0 are
            not read and get no mass.
        divergence: a name above, or the convex conjugate of phi (`from_conjugate`).
        radius: a number, or (...,); 0 gives the mean.
        order: of the Renyi divergence, positive and not 1.
        stance: "optimistic" for the infimum.
        reduce: how sums go over the losses.

    Returns:
        Value (...,), with gradient q; q (..., n).

    Raises:
        ValueError: no such divergence, or its order is out of range.

    Example:
        `divergence_ball(keras.ops.array([1.0, 2.0, 4.0]), None, "kl", 0.1)`
    """
    check_divergence(divergence, order)
    if divergence == "tv":
        return total_variation_ball(losses, weights, radius, stance=stance, reduce=reduce)
    of = rows(signed(losses, stance), weights, reduce)
    q = ball_weights(of, divergence, per_row(radius, of.gaps), order)
    return stanced(answer(of, q), stance)


def ball_weights(of: Rows, divergence: Any, radius: Any, order: float | None = None) -> Any:
    """Return the worst-case weights q (..., n) of rows whose reductions are `of.reduce`.

    Args:
        of: the rows.
        divergence: as in `divergence_ball`, not "tv".
        radius: () or of the shape of `of.total`.
        order: of the Renyi divergence.

    Example:
        `ball_weights(rows(losses), "kl", keras.ops.array(0.1))`
    """
    if callable(divergence) or divergence == "jeffreys":
        shape = from_conjugate(divergence) if callable(divergence) else SHAPES[divergence]
        return shape_ball_weights(of, shape, radius)
    k = float(order) if order is not None else _ORDERS[divergence]
    return power_ball_weights(of, k, _renyi_radius(divergence, radius, k))


def check_divergence(divergence: Any, order: float | None) -> None:
    """Raise unless the divergence is known and its order fits.

    Raises:
        ValueError: see the message.
    """
    if not callable(divergence) and divergence not in DIVERGENCES:
        raise ValueError(
            f"`divergence` must be one of {DIVERGENCES} or the convex conjugate of phi. "
            f"Received: divergence={divergence!r}"
        )
    if (divergence == "renyi") is not (order is not None):
        raise ValueError(
            '`order` belongs to the divergence "renyi", which needs it. '
            f"Received: divergence={divergence!r}, order={order}"
        )
    if order is not None and (not order > 0 or order == 1 or order == float("inf")):
        raise ValueError(
            "`order` must be positive, finite and not 1 (which is the divergence 'kl'). "
            f"Received: order={order}"
        )


def _renyi_radius(divergence: str, radius: Any, order: float) -> Any:
    """Radius of the same ball in units of R_order."""
    if divergence in ("chi2", "neyman"):
        return 0.5 * ops.log1p(radius)
    if divergence == "hellinger":
        return -4.0 * ops.log1p(-ops.minimum(0.5 * radius, 1.0))
    return radius / order if divergence == "renyi" else radius
