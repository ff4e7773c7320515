"""A map of structures of tensors as a map of one tensor (items, unknowns), with its Jacobian."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import backend

from keras_robustseg.optimize._linear import check_finite

Tensors = list[Any]


def vjp(function: Callable[..., Any], at: Sequence[Any], cotangents: Any) -> Tensors:
    """Return J^T v of `function(*at)`: zeros where it does not depend on an input."""
    at = [tf.identity(x) for x in at]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(at)
        value = function(*at)
    return tape.gradient(
        value, at, output_gradients=cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def jvp(function: Callable[..., Any], at: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Return J u, as the derivative of v -> J^T v: forward mode skips custom gradients."""
    at = [tf.identity(x) for x in at]
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(at)
            value = function(*at)
        dummy = tf.nest.map_structure(tf.ones_like, value)
        outer.watch(dummy)
        back = inner.gradient(
            value, at, output_gradients=dummy, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    return outer.gradient(
        back,
        dummy,
        output_gradients=list(tangents),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def in_graph(function: Callable[..., Any], *tensors: Any) -> Any:
    """Call a function of tensors; in eager mode as a graph, in which loops run much faster."""
    if not tf.executing_eagerly():
        return function(*tensors)
    graph = tf.function(function, autograph=False).get_concrete_function(*tensors)
    return graph(*tensors)


@dataclasses.dataclass(frozen=True)
class Problem:
    """x = T(x, params) on lists of tensors.

    Attributes:
        function: (xs, ps) -> list like xs.
        shapes: the static shapes of xs.
        batch_axes: how many leading axes number separate items.
    """

    function: Callable[[Tensors, Tensors], Tensors]
    shapes: tuple[tuple[int, ...], ...]
    batch_axes: int

    def pack(self, xs: Sequence[Any]) -> Any:
        """Return (items, unknowns)."""
        flat = [tf.reshape(x, (-1, self._size(shape))) for x, shape in self._pairs(xs)]
        return flat[0] if len(flat) == 1 else tf.concat(flat, axis=1)

    def unpack(self, packed: Any, like: Sequence[Any]) -> Tensors:
        """Return tensors of the shapes of `like`."""
        parts = tf.split(packed, [self._size(shape) for shape in self.shapes], axis=1)
        return [tf.reshape(part, tf.shape(x)) for part, x in zip(parts, like, strict=True)]

    def mapping(self, like: Sequence[Any], ps: Tensors) -> Callable[[Any], Any]:
        """Return T on packed points."""
        return lambda packed: self.pack(self.function(self.unpack(packed, like), ps))

    def figure(self, value: Any, like: Sequence[Any]) -> Any:
        """Return a figure (items, 1) with the batch axes as its shape."""
        return tf.reshape(value, tf.shape(like[0])[: self.batch_axes])

    def _size(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape[self.batch_axes :], dtype=int))

    def _pairs(self, xs: Sequence[Any]) -> Any:
        return zip(xs, self.shapes, strict=True)


def require_tensorflow(what: str) -> None:
    """Raise where Keras runs on another backend."""
    if backend.backend() != "tensorflow":
        raise ValueError(
            f"`{what}` needs the TensorFlow backend of Keras. Received: {backend.backend()!r}. "
            'Set KERAS_BACKEND="tensorflow".'
        )


def as_tensors(name: str, structure: Any, dtype: Any = None) -> Tensors:
    """Return the leaves of a structure as tensors; numbers of Python get `dtype`.

    Raises:
        ValueError: a leaf that is not finite, where that can be read.
    """
    tensors = []
    for leaf in tf.nest.flatten(structure):
        if isinstance(leaf, float | int) and not isinstance(leaf, bool | np.generic):
            leaf = tf.constant(leaf, dtype=dtype or backend.floatx())
        tensor = tf.convert_to_tensor(leaf)
        if tensor.dtype.is_floating:
            check_finite(name, tensor)
        tensors.append(tensor)
    return tensors


def make_problem(
    function: Callable[..., Any], x0: Any, params: Any, batch_axes: int
) -> tuple[Problem, Tensors, Tensors]:
    """Return the problem of `function(x, *params)`, and the tensors of x0 and params.

    Raises:
        ValueError: x0 is not real floating, mixes types, has unknown sizes or too few axes.
    """
    xs = as_tensors("x0", x0)
    if not xs or any(x.dtype not in (tf.float32, tf.float64) for x in xs):
        found = [x.dtype.name for x in xs]
        raise ValueError(f"`x0` must be of float32 or float64 tensors. Received: {found}.")
    if len({x.dtype for x in xs}) > 1:
        raise ValueError(
            f"The tensors of `x0` must be of one type. Received: {[x.dtype.name for x in xs]}."
        )
    ps = as_tensors("params", params, xs[0].dtype)
    _check_batch(xs, batch_axes)
    single = not isinstance(params, tuple | list)

    def on_lists(points: Tensors, parameters: Tensors) -> Tensors:
        point = tf.nest.pack_sequence_as(x0, points)
        given = tf.nest.pack_sequence_as(params, parameters)
        result = (
            function(point, given)
            if single and params is not None
            else function(point, *(given or ()))
        )
        _check_structure(result, x0)
        return [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(result)]

    return Problem(on_lists, tuple(tuple(x.shape) for x in xs), batch_axes), xs, ps


def _check_structure(result: Any, x0: Any) -> None:
    try:
        tf.nest.assert_same_structure(result, x0)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "The map must return the structure that it is given. "
            f"Expected: {x0!r:.200}. Received: {result!r:.200}."
        ) from error


def _check_batch(xs: Tensors, batch_axes: int) -> None:
    if batch_axes < 0 or any(len(x.shape) < batch_axes for x in xs):
        raise ValueError(
            f"`batch_axes` must be between 0 and the rank of every tensor of `x0`. "
            f"Received: {batch_axes}, shapes {[tuple(x.shape) for x in xs]}."
        )
    if any(size is None for x in xs for size in x.shape[batch_axes:]):
        raise ValueError(
            "All axes of `x0` but the batch axes must have known sizes. "
            f"Received: {[tuple(x.shape) for x in xs]} with `batch_axes={batch_axes}`."
        )
