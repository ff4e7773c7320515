"""Loops of small steps as one graph: TensorFlow is slow between small operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras import backend, tree

from keras_robustseg.optimize._info import is_concrete

# A function of its own for each signature: TensorFlow warns of one that is traced again and again.
_KEPT = 128


def in_graph(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, run as one graph where TensorFlow runs step by step.

    Inside a compiled function, and on other backends, it is called as it stands.

    Args:
        function: one of a module, not a closure, since traces of it are kept.
        arguments: tensors in tuples, and numbers, which are constants of the graph.

    Example:
        `answer = in_graph(minimised, problem, 1e-9, 100, 2000)`
    """
    leaves = tree.flatten(arguments)
    if backend.backend() != "tensorflow" or not all(is_concrete(x) for x in leaves if _tensor(x)):
        return function(*arguments)
    signature = tuple((str(x.dtype), tuple(x.shape)) if _tensor(x) else x for x in leaves)
    return _traced(function, signature)(*arguments)


def _tensor(x: Any) -> bool:
    return hasattr(x, "shape")


@functools.lru_cache(maxsize=_KEPT)
def _traced(function: Callable[..., Any], signature: tuple[Any, ...]) -> Callable[..., Any]:
    import tensorflow as tf

    del signature
    return tf.function(functools.partial(function), autograph=False)
