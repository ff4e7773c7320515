"""Class costs: what a pixel would cost if its label were class k."""

from __future__ import annotations

from typing import Any

from keras import ops

COSTS = ("cross_entropy", "mae", "gce")


def class_costs(log_p: Any, cost: str = "cross_entropy", *, order: float = 0.7) -> Any:
    """Return the costs L (..., C) of log-probabilities (..., C).

    | cost | L_k | range |
    |---|---|---|
    | "cross_entropy" | -log p_k | 0 to infinity |
    | "gce" | (1 - p_k^order) / order (Zhang and Sabuncu, NeurIPS 2018) | 0 to 1 / order |
    | "mae" | 1 - p_k, half the L1 distance to the label (Ghosh et al., AAAI 2017) | 0 to 1 |

    The bounded ones give a pessimistic set of labels a bound.

    Args:
        log_p: log-probabilities.
        cost: a name above.
        order: of "gce", in (0, 1]: 1 is "mae", towards 0 it is cross-entropy.

    Raises:
        ValueError: the cost has another name.

    Example:
        `class_costs(keras.ops.log_softmax(logits), "mae")`
    """
    check_cost(cost, order)
    if cost == "cross_entropy":
        return -log_p
    power = order if cost == "gce" else 1.0
    return -ops.expm1(power * log_p) / power


def check_cost(cost: str, order: float) -> None:
    """Raise unless the cost is known and its order in range.

    Raises:
        ValueError: it is not.
    """
    if cost not in COSTS:
        raise ValueError(f"`cost` must be one of {COSTS}. Received: cost={cost!r}")
    if not 0.0 < order <= 1.0:
        raise ValueError(f"`gce_order` must be in (0, 1]. Received: gce_order={order}")
