"""Penalties: what a user gives, as arrays over the coefficients, and their proximal operator."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Penalty(NamedTuple):
    """sum l1 |V| + 1/2 sum l2 V^2 + sum_g group_g ||V_g||_2, V (P, K).

    Args:
        l1: (P, K).
        l2: (P, K).
        group: (G,) weights of the groups.
        member: (P,) group of each row, -1 for none.
    """

    l1: np.ndarray
    l2: np.ndarray
    group: np.ndarray
    member: np.ndarray

    @property
    def smooth(self) -> bool:
        """Whether only the quadratic part is there."""
        return not (self.l1.any() or self.group.any())

    @property
    def free(self) -> np.ndarray:
        """Which coefficients have no penalty, (P, K) bool."""
        grouped = np.append(self.group > 0, False)[self.member]
        return (self.l1 == 0) & (self.l2 == 0) & ~grouped[:, None]

    def violation(self, V: np.ndarray, gradient: np.ndarray) -> float:
        """Return by how much V is off its optimality conditions, in the units of the gradient.

        Args:
            V: (P, K).
            gradient: of all but the kinks.
        """
        return float(np.abs(V - self.prox(V - gradient, np.ones_like(V))).max())

    def kinks(self, V: np.ndarray) -> float:
        """Return the part that is not smooth."""
        return float((self.l1 * np.abs(V)).sum() + self.group @ self.norms(V))

    def norms(self, V: np.ndarray) -> np.ndarray:
        """Return the norm of each group, (G,)."""
        grouped = self.member >= 0
        squares = (V[grouped] ** 2).sum(axis=1)
        return np.sqrt(np.bincount(self.member[grouped], squares, minlength=len(self.group)))

    def group_slope(self, V: np.ndarray) -> np.ndarray:
        """Return the gradient of the group norms, 0 where a group is 0."""
        return self._per_row(self.group / np.maximum(self.norms(V), 1e-300))[:, None] * V

    def group_curvature(self, V: np.ndarray) -> np.ndarray:
        """Return the second derivative (P K, P K) of the group norms that are not 0."""
        norms = self.norms(V)
        bend = self._per_row(self.group / np.maximum(norms, 1e-300))
        bend = np.repeat(bend, V.shape[1])
        found = np.diag(bend)
        for group in np.flatnonzero((self.group > 0) & (norms > 0)):
            inside = np.flatnonzero(np.repeat(self.member == group, V.shape[1]))
            unit = V.ravel()[inside] / norms[group]
            found[np.ix_(inside, inside)] -= self.group[group] / norms[group] * np.outer(unit, unit)
        return found

    def _per_row(self, of_groups: np.ndarray) -> np.ndarray:
        """Value of each row's group, 0 without one, (P,)."""
        return np.where(self.member >= 0, of_groups[self.member], 0.0)

    def prox(self, V: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the minimiser of sum (U - V)^2 / (2 step) + kinks(U).

        Args:
            V: (P, K).
            step: (P, K), the same all over a group.
        """
        shrunk = np.sign(V) * np.maximum(np.abs(V) - step * self.l1, 0.0)
        if not self.group.any():
            return shrunk
        norms = np.maximum(self.norms(shrunk), 1e-300)
        pull = self._per_row(self.group / norms)[:, None]
        return np.maximum(1.0 - step[:, :1] * pull, 0.0) * shrunk

    def rows(self, chosen: np.ndarray) -> Penalty:
        """Return the penalty on some rows of V."""
        return self._replace(l1=self.l1[chosen], l2=self.l2[chosen], member=self.member[chosen])


def read_penalty(
    features: int,
    columns: int,
    intercept: bool,
    l1: Any,
    l2: Any,
    group: Any,
    groups: Any,
    feature_penalty: Any,
) -> Penalty:
    """Return the penalty; the intercept has none.

    Args:
        features: F.
        columns: K.
        intercept: whether V has a row for it, the last.
        l1: number, (K,), (F, 1) or (F, K).
        l2: as l1.
        group: number, or (G,) for each group.
        groups: (F,) ids 0 ... G - 1, negative for no group; None for all features in one.
        feature_penalty: (F,) factors of l1 and l2, or None.

    Raises:
        ValueError: a shape does not fit or a value is negative.
    """
    factor = np.ones(features) if feature_penalty is None else np.asarray(feature_penalty, float)
    if factor.shape != (features,) or not _weights_fine(factor):
        raise ValueError(
            f"Expected feature_penalty of shape ({features},), finite and not negative. "
            f"Received: {feature_penalty!r}"
        )
    border = np.zeros((int(intercept), columns))
    l1_rows, l2_rows = (
        np.vstack([factor[:, None] * spread(name, value, features, columns), border])
        for name, value in (("l1", l1), ("l2", l2))
    )
    weights, member = _groups(features, group, groups)
    return Penalty(l1_rows, l2_rows, weights, np.append(member, [-1] * intercept).astype(int))


def spread(name: str, value: Any, features: int, columns: int) -> np.ndarray:
    """Return a penalty as (F, K).

    Args:
        name: of the argument, for the message.
        value: number, (K,), (F, 1), or (F, K).
        features: F.
        columns: K.

    Raises:
        ValueError: the shape does not fit or a value is negative.

    Example:
        `spread("l2", [1.0, 2.0], 5, 2).shape  # (5, 2)`
    """
    given = np.asarray(value, dtype=np.float64)
    if given.shape not in ((), (columns,), (features, 1), (features, columns)):
        hint = (
            ' Two classes have one column of coefficients; formulation="multinomial" gives two.'
            if columns == 1
            else ""
        )
        raise ValueError(
            f"Expected {name} to be a number or of shape ({columns},), ({features}, 1) or "
            f"({features}, {columns}). Received: shape={given.shape}.{hint}"
        )
    if not _weights_fine(given):
        raise ValueError(f"Expected {name} finite and not negative. Received: {value!r}")
    return np.broadcast_to(given, (features, columns))


def gathered(gradient: np.ndarray, value: Any) -> np.ndarray:
    """Return the gradient to an argument from that to its spread over (F, K).

    Example:
        `gathered(np.ones((5, 2)), 0.1)  # 10.0`
    """
    shape = np.shape(value)
    if len(shape) < 2:
        per_column = gradient.sum(axis=0)
        return per_column if shape else np.asarray(per_column.sum())
    return gradient.sum(axis=1, keepdims=True) if shape[1] != gradient.shape[1] else gradient


def _groups(features: int, group: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (G,) and group of each feature (F,)."""
    member = np.zeros(features, int) if groups is None else np.asarray(groups)
    if member.shape != (features,) or member.dtype.kind not in "iu":
        raise ValueError(
            f"Expected groups of {features} whole numbers, one a feature. Received: {groups!r}"
        )
    count = max(int(member.max()) + 1, 1)
    weights = np.asarray(group, dtype=np.float64)
    if weights.shape not in ((), (count,)) or not _weights_fine(weights):
        raise ValueError(
            f"Expected group to be a number or of shape ({count},), finite and not negative. "
            f"Received: {group!r}"
        )
    return np.broadcast_to(weights, (count,)), member


def _weights_fine(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all())
