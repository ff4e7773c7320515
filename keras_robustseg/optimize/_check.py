"""Whether a gradient is one: against central differences, along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_robustseg.optimize._linear import epsilon
from keras_robustseg.optimize._problem import as_tensors, require_tensorflow, vjp


class VjpCheck(NamedTuple):
    """Two figures that must agree, one pair per direction: <v, J u> and <J^T v, u>.

    Attributes:
        worst: the largest relative difference.
        differences: <v, J u> by central differences, (n,).
        products: <J^T v, u> by the gradient under test, (n,).

    Example:
        `assert optimize.check_vjp(function, [x]).worst < 1e-6`
    """

    worst: float
    differences: np.ndarray
    products: np.ndarray


def check_vjp(
    function: Callable[..., Any],
    inputs: Any,
    n: int = 3,
    step: float | None = None,
    seed: int = 0,
) -> VjpCheck:
    """Compare a function's vector-Jacobian product with central differences.

    With random u and v of length 1: |<v, J u> - <J^T v, u>| over the larger of the two and of
    |J^T v| / 1000. In float64 a right derivative gives about 1e-8, in float32 about 1e-3; larger
    figures mean a wrong gradient, an answer that is not converged, or a kink within `step`.

    Args:
        function: (*inputs) -> tensor or structure of tensors; a layer, or one that returns
            (x, info), of which the floating tensors of x count.
        inputs: a tensor, or a list or tuple of them.
        n: number of random directions.
        step: distance of the differences relative to the size of the inputs; by default the cube
            root of the rounding unit.
        seed: of the directions.

    Returns:
        `VjpCheck`.

    Raises:
        ValueError: no inputs, or `n` is not positive.

    Example:
        >>> check_vjp(lambda x: x**2, [tf.constant([1.0, 2.0])]).worst  # 1e-4
    """
    require_tensorflow("check_vjp")
    inputs = as_tensors("inputs", inputs if isinstance(inputs, list | tuple) else [inputs])
    if not inputs or n < 1:
        raise ValueError(f"There must be at least one input and direction. Received: n={n}.")
    random = np.random.default_rng(seed)

    def value(*at: Any) -> Any:
        return _floating(function(*at))

    start = value(*inputs)
    size = max(float(tf.reduce_max(tf.abs(x))) if tf.size(x) else 0.0 for x in inputs) or 1.0
    length = size * (epsilon(inputs[0]) ** (1 / 3) if step is None else step)
    pairs = [_pair(value, inputs, start, length, random) for _ in range(n)]
    differences, products, floors = (np.array(column) for column in zip(*pairs, strict=True))
    scale = np.maximum(np.maximum(np.abs(differences), np.abs(products)), floors)
    scale = np.maximum(scale, np.finfo(float).tiny)
    worst = float(np.max(np.abs(differences - products) / scale))
    return VjpCheck(worst, differences, products)


def _pair(
    value: Any, inputs: Sequence[Any], start: Any, length: float, random: np.random.Generator
) -> tuple[float, float, float]:
    u, v = _unit(inputs, random), _unit(start, random)
    ahead = value(*[x + length * d for x, d in zip(inputs, u, strict=True)])
    behind = value(*[x - length * d for x, d in zip(inputs, u, strict=True)])
    slope = [(a - b) / (2.0 * length) for a, b in zip(ahead, behind, strict=True)]
    back = vjp(value, inputs, v)
    floor = 1e-3 * float(np.sqrt(_inner(back, back)))
    return _inner(v, slope), _inner(back, u), floor


def _floating(result: Any) -> list[Any]:
    if isinstance(result, tuple) and len(result) == 2 and hasattr(result[1], "status"):
        result = result[0]
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(result)]
    return [leaf for leaf in leaves if leaf.dtype.is_floating]


def _unit(like: Sequence[Any], random: np.random.Generator) -> list[Any]:
    directions = [random.normal(size=tensor.shape) for tensor in like]
    length = np.sqrt(sum(np.sum(d**2) for d in directions))
    return [tf.constant(d / length, t.dtype) for d, t in zip(directions, like, strict=True)]


def _inner(first: Sequence[Any], second: Sequence[Any]) -> float:
    return float(
        sum(
            np.sum(np.asarray(a, "float64") * np.asarray(b, "float64"))
            for a, b in zip(first, second, strict=True)
        )
    )
