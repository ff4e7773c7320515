"""Maps that are to be differentiated implicitly may depend on their arguments only: the check.

A tensor or variable that a map closes over would get no gradient, without an error. So the map is
traced once in a graph of its own that notes what comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class _Watching(tf.__internal__.FuncGraph):
    """A graph that notes the outer tensors that its operations use."""

    def __init__(self) -> None:
        super().__init__("watching")
        self.foreign: list[Any] = []

    def capture(self, tensor: Any, name: str | None = None, shape: Any = None) -> Any:
        """Note a tensor that is not of this graph, then do as any graph."""
        inside = not hasattr(tensor, "numpy") and getattr(tensor, "graph", self) is self
        differentiable = tensor.dtype.is_floating or tensor.dtype == tf.resource
        if not inside and differentiable:
            self.foreign.append(tensor)
        return super().capture(tensor, name, shape)


def refuse_closures(
    function: Callable[..., Sequence[Any]], xs: Sequence[Any], ps: Sequence[Any], name: str
) -> None:
    """Trace `function(xs, ps)`, and raise where it uses other tensors or changes shapes.

    Args:
        function: lists of tensors (xs, ps) -> list of tensors like xs.
        xs: tensors of the point.
        ps: tensors of the parameters.
        name: what to call the function in messages.

    Raises:
        ValueError: it closes over a tensor or variable, or returns other shapes or types.
    """
    graph = _Watching()
    with graph.as_default():
        arguments = [[_placeholder(x) for x in group] for group in (xs, ps)]
        results = function(*arguments)
    if graph.foreign:
        tensor = graph.foreign[0]
        what = "a variable" if tensor.dtype == tf.resource else f"a {tensor.dtype.name} tensor"
        raise ValueError(
            f"`{name}` uses {what} of shape {tuple(tensor.shape)} that is not among its arguments: "
            "its gradient would be dropped without a word. Pass it through `params`, also where "
            "it is a constant (or make it a NumPy array, which has no gradient)."
        )
    for x, result in zip(xs, results, strict=True):
        if result.dtype != x.dtype or not result.shape.is_compatible_with(x.shape):
            raise ValueError(
                f"`{name}` must return what it is given. Expected: {tuple(x.shape)}, "
                f"{x.dtype.name}. Received: {tuple(result.shape)}, {result.dtype.name}."
            )


def _placeholder(tensor: Any) -> Any:
    return tf.compat.v1.placeholder(tensor.dtype, tensor.shape)
