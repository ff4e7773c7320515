"""A fixed number of iterations, differentiated as they are, with checkpoints on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_robustseg.optimize._adjoint import Unrolled
from keras_robustseg.optimize._iterate import FixedPointIteration, Iteration
from keras_robustseg.optimize._problem import Problem, Tensors, vjp

Chunk = Callable[..., Tensors]


def check_unrollable(rule: Iteration, adjoint: Unrolled) -> None:
    """Raise ValueError for an iteration whose derivative need not converge with it."""
    if rule.is_plain:
        return
    if not isinstance(rule, FixedPointIteration):
        raise ValueError(
            "Only `FixedPointIteration` can be unrolled; the theory of unrolled derivatives does "
            f"not cover mixing. Received: {rule!r}. Use `adjoint=Implicit()` with it."
        )
    if not adjoint.force_momentum:
        raise ValueError(
            "Momentum is not unrolled: the iterates can converge while their derivative diverges "
            "(heavy ball on a strongly convex piecewise quadratic; Bolte, Pauwels, Vaiter, NeurIPS "
            "2022, section 5). Use `adjoint=Implicit()` with it, or unroll `momentum=0.0`; "
            "`Unrolled(..., force_momentum=True)` does it all the same. "
            f"Received: {rule!r}."
        )


def unroll(
    problem: Problem, rule: FixedPointIteration, adjoint: Unrolled, xs: Tensors, ps: Tensors
) -> Tensors:
    """Return the iterate after `adjoint.steps` steps, differentiable to `xs` and `ps`."""
    start = problem.pack(xs)
    state = [start, *rule.begin(start)]

    def chunk(count: int) -> Chunk:
        def run(*tensors: Any) -> Tensors:
            points, parameters = list(tensors[: len(state)]), list(tensors[len(state) :])
            mapping = problem.mapping(xs, parameters)

            def body(k: Any, x: Any, *memory: Any) -> Any:
                x, memory = rule.propose(x, mapping(x), memory, k)
                return (k + 1, x, *memory)

            begin = (tf.constant(0), *points)
            done = tf.while_loop(lambda k, *_: k < count, body, begin, maximum_iterations=count)
            return list(done[1:])

        return run

    if adjoint.checkpoint is None:
        final = chunk(adjoint.steps)(*state, *ps)
    else:
        final = _in_chunks(chunk, state, ps, adjoint.steps, int(adjoint.checkpoint))
    return problem.unpack(final[0], xs)


def _in_chunks(
    chunk: Callable[[int], Chunk], state: Tensors, ps: Tensors, steps: int, size: int
) -> Tensors:
    whole, rest = divmod(steps, size)
    if whole:
        recomputed = _recomputed(chunk(size))
        begin = (tf.constant(0), *state)
        done = tf.while_loop(
            lambda k, *_: k < whole,
            lambda k, *now: (k + 1, *recomputed(*now, *ps)),
            begin,
            maximum_iterations=whole,
        )
        state = list(done[1:])
    return _recomputed(chunk(rest))(*state, *ps) if rest else state


def _recomputed(function: Chunk) -> Chunk:
    """Return the function with a backward pass that runs it again instead of remembering it."""

    @tf.custom_gradient
    def call(*tensors: Any) -> Any:
        def backward(*cotangents: Any) -> Tensors:
            return vjp(function, tensors, list(cotangents))

        return function(*tensors), backward

    return lambda *tensors: list(call(*tensors))
