"""Answers of a solver with a given derivative, of first order and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops


def with_derivative(
    value: Any, inputs: tuple[Any, ...], pull_back: Callable[..., tuple[Any, ...]]
) -> Any:
    """Return `value` with J^T v given by a function, and an error where that is differentiated.

    `value` may itself depend on tensors: that derivative is kept and the given one joins it.

    Args:
        value: tensor.
        inputs: tensors to which `pull_back` gives derivatives.
        pull_back: from v, like `value`, to J^T v for each input, in the shapes of the inputs. It
            may use tensors from outside, through which nothing flows.

    Example:
        `with_derivative(keras.ops.stop_gradient(x * x), (x,), lambda v: (2 * x * v,))`
    """

    @ops.custom_gradient
    def attached(value: Any, *inputs: Any) -> Any:
        def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, ...]:
            v = arguments[0] if upstream is None else upstream
            return (v, *(once(g, v, *inputs) for g in pull_back(v)))

        return value + 0.0, gradient

    return attached(value, *inputs)


@ops.custom_gradient
def once(derivative: Any, *origins: Any) -> Any:
    """Return the derivative; to differentiate it, on the way to any of the origins, is refused."""

    def refuse(*arguments: Any, upstream: Any = None) -> Any:
        raise NotImplementedError(
            "This derivative is of first order only: it was differentiated once more. Take "
            "stop_gradient of it, or do not nest gradient tapes around it."
        )

    del origins
    return derivative + 0.0, refuse
