"""The penalty-Lagrangian function of ALMA and its derivative."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def penalty(y: Any, rho: Any, mu: Any) -> Any:
    """Return P(y, rho, mu), a smooth penalty of a constraint y <= 0; elementwise.

        P = mu y + mu rho y^2 + rho^2 y^3 / 6     for y >= 0
        P = mu y / (1 - max(rho, 1) y)            for y < 0

    Rony et al., Proximal splitting adversarial attack for semantic segmentation (CVPR 2023).
    """
    over = mu * y + mu * rho * y**2 + rho**2 * y**3 / 6
    return tf.where(y >= 0, over, mu * y / _under(y, rho))


def penalty_gradient(y: Any, rho: Any, mu: Any, kind: str = "exact") -> Any:
    """Return dP/dy, elementwise.

    Args:
        y: constraint.
        rho: penalty parameter, > 0.
        mu: multiplier, > 0.
        kind: "exact", or "released": the authors' program has mu y in place of mu for y >= 0, so
            that the pull of a violated constraint vanishes towards the boundary.
    """
    first = mu if kind == "exact" else mu * y
    over = first + 2 * mu * rho * y + rho**2 * y**2 / 2
    return tf.where(y >= 0, over, mu / _under(y, rho) ** 2)


def _under(y: Any, rho: Any) -> Any:
    return 1 - tf.maximum(rho, 1) * tf.minimum(y, 0)
