"""What all risk measures share: axes, weights, stance, changing parameters, configuration."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.risk._reduce import LOCAL, Local
from keras_robustseg.risk._rows import as_float, check_stance

Axis = int | Sequence[int] | None


class RiskMeasure(abc.ABC):
    """Base of the risk measures: many losses to one number.

    A call returns the risk of `losses` along `axis`, under base probabilities in proportion to
    `weights`. A loss of weight 0 does not count and is not read: it may be NaN. Where nothing
    counts the risk is 0 and so is its gradient. A counted loss that is NaN or infinite makes the
    risk NaN or infinite. The gradient to the losses is `worst_case_weights` (Danskin's theorem;
    first derivatives only). float64 is kept; everything else is computed and returned in float32.

    Parameters may be numbers, tensors, or Keras variables, which can change between steps without
    a new trace. Numbers out of range are refused; the values of variables are not looked at again.

    Args:
        stance: "pessimistic", the supremum over the weights; or "optimistic", the infimum, which
            is -risk(-losses).

    Raises:
        ValueError: a parameter is out of range; in a call: shapes do not fit, or constant weights
            are negative.
    """

    def __init__(self, stance: str = "pessimistic") -> None:
        check_stance(stance)
        self.stance = stance

    @abc.abstractmethod
    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk (...,) and the worst-case weights (..., n) over the last axis.

        Args:
            losses: (..., n).
            weights: (..., n) or None.
            reduce: how sums go over the losses.
        """

    def __call__(
        self, losses: Any, weights: Any = None, axis: Axis = None, *, reduce: Local = LOCAL
    ) -> Any:
        """Return the risk.

        Args:
            losses: a tensor.
            weights: base weights, not negative, of any scale, of a shape that broadcasts to that
                of the losses; None for 1.
            axis: one axis or several to reduce; None for all.
            reduce: `AcrossReplicas()` for the losses of all replicas as one.

        Returns:
            The losses' shape without `axis`.
        """
        folded, base, _ = _fold(losses, weights, axis)
        return self.solve(folded, base, reduce)[0]

    def worst_case_weights(
        self, losses: Any, weights: Any = None, axis: Axis = None, *, reduce: Local = LOCAL
    ) -> Any:
        """Return the weights q at which the risk is reached, of the shape of the losses."""
        folded, base, unfold = _fold(losses, weights, axis)
        return unfold(self.solve(folded, base, reduce)[1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor; variables by their present values."""
        return {"stance": self.stance}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RiskMeasure:
        """Return the measure with these arguments."""
        return cls(**config)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({shown})"


def checked(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> Any:
    """Return a parameter after checking that its present value lies between two bounds.

    Args:
        name: of the parameter, for the message.
        value: number, array, tensor or Keras variable.
        low: lower bound.
        high: upper bound, included unless infinite.
        open_low: whether the lower bound itself is excluded.

    Raises:
        ValueError: it does not lie there, or is no number.

    Example:
        `checked("alpha", 0.1, 0.0, 1.0)`
    """
    known = constant(value)
    if known is None:
        return value
    fits = np.all((known > low) if open_low else (known >= low)) and np.all(known <= high)
    if not fits or not np.all(np.isfinite(known)):
        left, right = "(" if open_low else "[", ")" if high == math.inf else "]"
        raise ValueError(
            f"`{name}` must be in {left}{low:g}, {high:g}{right}. Received: {name}={value}"
        )
    return value


def constant(value: Any) -> np.ndarray | None:
    """Return the present value of a parameter, or None for a tensor of a graph.

    Example:
        `constant(keras.Variable(0.1))  # array(0.1)`
    """
    try:
        if isinstance(value, keras.Variable) or hasattr(value, "shape"):
            value = ops.convert_to_numpy(value)
        return np.asarray(value, dtype="float64")
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        if isinstance(value, str) or value is None:
            raise ValueError(f"Expected a number. Received: {value!r}") from None
        return None


def plain(value: Any) -> Any:
    """Return a parameter as a number or nested list, for a configuration.

    Example:
        `plain(keras.Variable(0.5))  # 0.5`
    """
    known = constant(value)
    if known is None:
        raise ValueError(f"A tensor of a graph cannot be saved. Received: {value}")
    return known.item() if known.ndim == 0 else known.tolist()


def _fold(losses: Any, weights: Any, axis: Axis) -> tuple[Any, Any, Any]:
    """Losses and weights with the axes to reduce flattened into the last, and the way back."""
    losses = as_float(losses)
    rank = len(losses.shape)
    weights = _weights_like(losses, weights)
    if axis is None:
        axes = list(range(rank))
    else:
        axes = [_axis(a, rank) for a in (axis if isinstance(axis, Sequence) else [axis])]
    if len(set(axes)) != len(axes):
        raise ValueError(f"`axis` must name each axis once. Received: axis={axis}")
    kept = [a for a in range(rank) if a not in axes]
    order = kept + axes
    shape = ops.shape(losses)

    def fold(x: Any) -> Any:
        moved = ops.transpose(x, order) if order != list(range(rank)) else x
        return ops.reshape(moved, (*(shape[a] for a in kept), -1))

    def unfold(x: Any) -> Any:
        moved = ops.reshape(x, tuple(shape[a] for a in order))
        back = [order.index(a) for a in range(rank)]
        return ops.transpose(moved, back) if back != list(range(rank)) else moved

    return fold(losses), None if weights is None else fold(weights), unfold


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"`axis` must be in [{-rank}, {rank}). Received: axis={axis}")
    return axis % rank


def _weights_like(losses: Any, weights: Any) -> Any:
    """The weights in the shape and type of the losses, checked as far as they are known."""
    if weights is None:
        return None
    if isinstance(weights, (np.ndarray, list, tuple, float, int)) and np.any(
        np.asarray(weights) < 0
    ):
        raise ValueError(f"`weights` must not be negative. Received: weights={weights}")
    weights = ops.cast(ops.convert_to_tensor(weights), losses.dtype)
    have, want = tuple(weights.shape), tuple(losses.shape)
    pairs = zip(have[::-1], want[::-1], strict=False)
    if len(have) > len(want) or not all(h in (1, w) or None in (h, w) for h, w in pairs):
        raise ValueError(
            "`weights` must have a shape that broadcasts to that of `losses`. "
            f"Received: weights of shape {have}, losses of shape {want}"
        )
    return weights if have == want and None not in want else weights + ops.zeros_like(losses)
