"""The proximal operator of the Kullback-Leibler divergence, the fit of Poisson counts."""

from __future__ import annotations

from typing import Any

from keras_robustseg.optimize._prox_input import as_float, check_broadcast, parameter
from keras_robustseg.optimize._prox_log import positive_root


def prox_kl(x: Any, penalty: Any, data: Any) -> Any:
    """Return the proximal operator of penalty (z - data log z), summed over the entries.

    Up to a constant this is penalty KL(data, z). The positive root of a quadratic (Combettes and
    Pesquet 2007):

        (x - penalty + sqrt((x - penalty)^2 + 4 penalty data)) / 2

    Args:
        x: float, any shape.
        penalty: 0 or above, broadcast to x.
        data: 0 or above, broadcast to x.

    Returns:
        0 or above, the shape of x. Differentiable in x, penalty and data; where data is 0 as
        max(x - penalty, 0).

    Raises:
        ValueError: x is not finite, a parameter is negative, or shapes do not go together.

    Example:
        `prox_kl([1.0, -1.0], 1.0, [4.0, 0.0])  # [2, 0]`
    """
    x = as_float(x)
    penalty, data = parameter(penalty, x, "penalty"), parameter(data, x, "data")
    check_broadcast(penalty, tuple(x.shape), "penalty")
    check_broadcast(data, tuple(x.shape), "data")
    return positive_root(x - penalty, penalty * data)
