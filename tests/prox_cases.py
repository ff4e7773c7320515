"""A table of proximal operators and projections, and what every one of them is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_robustseg import optimize

GOLDEN = Path(__file__).parent / "golden" / "implicit"
Array = np.ndarray
Random = np.random.Generator


def golden(name: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"dev_{name}.npz") as file:
        return {key: file[key] for key in file.files}


@dataclass(frozen=True)
class Operator:
    """One operator with a maker of its tensors: x first, then the parameters.

    convex: it is the proximal operator of a convex function, so firmly nonexpansive.
    """

    name: str
    call: Callable[..., Any]
    parameters: Callable[[Random, Array], tuple[Array, ...]]
    shape: tuple[int, ...] = (3, 2, 5)
    make: Callable[[Random, tuple[int, ...]], Array] = lambda rng, shape: rng.normal(0, 2, shape)
    convex: bool = True

    def draw(self, rng: Random) -> tuple[Array, ...]:
        x = self.make(rng, self.shape)
        return (x, *(np.asarray(p, "float64") for p in self.parameters(rng, x)))

    def __str__(self) -> str:
        return self.name


def number(low: float, high: float) -> Callable[[Random, Array], tuple[Array, ...]]:
    return lambda rng, x: (rng.uniform(low, high),)


def symmetric(rng: Random, shape: tuple[int, ...]) -> Array:
    x = rng.normal(0, 2, shape)
    return x + np.swapaxes(x, -1, -2)


def symmetrized(call: Callable[..., Any]) -> Callable[..., Any]:
    """The operator of (X + X^T) / 2, so that differences may leave the symmetric matrices."""
    return lambda x, *more: call((x + ops.swapaxes(x, -1, -2)) / 2, *more)


OPERATORS = [
    Operator("prox_l1", optimize.prox_l1, lambda rng, x: (rng.uniform(0.2, 2, x.shape[-1]),)),
    Operator(
        "prox_elastic_net",
        optimize.prox_elastic_net,
        lambda rng, x: (rng.uniform(0.2, 2, x.shape[-1]), 0.7, rng.uniform(0.5, 2, x.shape)),
    ),
    Operator(
        "prox_group_l2", optimize.prox_group_l2, lambda rng, x: (rng.uniform(2, 4, x.shape[:-1]),)
    ),
    Operator(
        "prox_group_l2 of axes",
        lambda x, penalty: optimize.prox_group_l2(x, penalty, axis=(0, 2)),
        lambda rng, x: (rng.uniform(2, 9, 2),),
    ),
    Operator(
        "prox_sparse_group",
        optimize.prox_sparse_group,
        lambda rng, x: (rng.uniform(0.1, 1, x.shape[-1]), 1.5),
    ),
    Operator("prox_linf", optimize.prox_linf, number(1, 4)),
    Operator(
        "prox_linf of axis 0",
        lambda x, penalty: optimize.prox_linf(x, penalty, axis=0),
        lambda rng, x: (rng.uniform(1, 4, x.shape[1:]),),
    ),
    Operator("project_simplex", optimize.project_simplex, lambda rng, x: ()),
    Operator(
        "project_simplex of axis 1",
        lambda x, radius: optimize.project_simplex(x, axis=1, radius=radius),
        lambda rng, x: (rng.uniform(0.5, 3, (3, 5)),),
    ),
    Operator("project_l1_ball", optimize.project_l1_ball, number(1, 4)),
    Operator("project_l2_ball", optimize.project_l2_ball, number(1, 4)),
    Operator(
        "project_box",
        optimize.project_box,
        lambda rng, x: (rng.uniform(-2, 0, 5), rng.uniform(0, 2, x.shape)),
    ),
    Operator(
        "project_capped_simplex",
        lambda x, cap, radius: optimize.project_capped_simplex(x, cap, radius=radius),
        lambda rng, x: (rng.uniform(0.2, 1, x.shape), rng.uniform(0.1, 0.9, x.shape[:-1])),
    ),
    Operator(
        "prox_kl",
        optimize.prox_kl,
        lambda rng, x: (rng.uniform(0.5, 2, 5), rng.uniform(0.5, 3, x.shape)),
    ),
    Operator("prox_nuclear", optimize.prox_nuclear, number(1, 3), shape=(2, 3, 5)),
    Operator(
        "prox_nuclear of tall ones",
        optimize.prox_nuclear,
        lambda rng, x: (rng.uniform(0.5, 2, 2),),
        shape=(2, 4, 3),
    ),
    Operator("prox_rank", optimize.prox_rank, number(1, 3), shape=(2, 3, 4), convex=False),
    Operator("project_psd", optimize.project_psd, lambda rng, x: (), (2, 4, 4), symmetric),
    Operator("prox_neg_logdet", optimize.prox_neg_logdet, number(0.3, 2), (2, 4, 4), symmetric),
    Operator(
        "prox_neg_logdet with a trace, norms and noise",
        lambda x, step, trace, nuclear, frobenius, sigma2: optimize.prox_neg_logdet(
            x,
            step,
            trace=(trace + ops.swapaxes(trace, -1, -2)) / 2,
            nuclear=nuclear,
            frobenius=frobenius,
            sigma2=sigma2,
        ),
        lambda rng, x: (
            rng.uniform(0.3, 2, 2),
            rng.normal(size=(4, 4)),
            rng.uniform(0, 1, 2),
            0.4,
            rng.uniform(0.1, 1, 2),
        ),
        (2, 4, 4),
        symmetric,
    ),
]


def pulled_back(call: Callable[..., Any], inputs: tuple[Array, ...], v: Array) -> list[Array]:
    """The value, and J^T v to every input."""
    tensors = [tf.constant(each) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = call(*tensors)
        total = tf.reduce_sum(value * tf.constant(v, value.dtype))
    return [value.numpy(), *(g.numpy() for g in tape.gradient(total, tensors))]


def differences(
    call: Callable[..., Any], inputs: tuple[Array, ...], v: Array, rng: Random, step: float = 1e-6
) -> tuple[Array, list[Array]]:
    """Central differences of <v, value> along one random direction of each input, and those."""
    found, directions = [], []
    for i, each in enumerate(inputs):
        direction = rng.normal(size=each.shape)
        ends = []
        for sign in (1, -1):
            moved = [*inputs[:i], each + sign * step * direction, *inputs[i + 1 :]]
            ends.append(np.sum(v * np.asarray(call(*moved))))
        found.append((ends[0] - ends[1]) / (2 * step))
        directions.append(direction)
    return np.array(found), directions


def has_exact_derivative(operator: Operator, rng: Random) -> None:
    """J^T v, to x and to every parameter, is what central differences say."""
    inputs = operator.draw(rng)
    v = rng.normal(size=inputs[0].shape)
    call = symmetrized(operator.call) if operator.make is symmetric else operator.call
    value, *gradients = pulled_back(call, inputs, v)
    assert value.shape == inputs[0].shape
    expected, directions = differences(call, inputs, v, rng)
    along = [np.sum(g * d) for g, d in zip(gradients, directions, strict=True)]
    np.testing.assert_allclose(along, expected, rtol=1e-6, atol=1e-7)


def is_firmly_nonexpansive(operator: Operator, rng: Random) -> None:
    """||P a - P b||^2 <= <P a - P b, a - b>, and so the derivative lies between 0 and 1."""
    for scale in (0.1, 1.0, 1e4):
        a, *parameters = operator.draw(rng)
        b = a + scale * operator.make(rng, a.shape)
        moved = np.asarray(operator.call(a, *parameters)) - operator.call(b, *parameters)
        assert np.sum(moved**2) <= np.sum(moved * (a - b)) + 1e-10 * np.sum((a - b) ** 2)


def is_the_same_compiled(operator: Operator, rng: Random, dtype: str) -> None:
    """A graph, and XLA, give the value and the derivatives of eager mode."""
    inputs = tuple(each.astype(dtype) for each in operator.draw(rng))
    v = rng.normal(size=inputs[0].shape)
    eager = pulled_back(operator.call, inputs, v)

    def traced(*tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = operator.call(*tensors)
            total = tf.reduce_sum(value * tf.constant(v, value.dtype))
        return [value, *tape.gradient(total, tensors)]

    for xla in (False, True):
        # XLA's own eigendecomposition leaves an error of about 1e-8 in float64.
        spectral = xla and len(operator.shape) == 3 and operator.shape != Operator.shape
        tolerance = (1e-6 if spectral else 1e-9) if dtype == "float64" else 2e-4
        found = tf.function(traced, jit_compile=xla)(*(tf.constant(each) for each in inputs))
        for ours, theirs in zip(found, eager, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def is_finite_at_extremes(operator: Operator, rng: Random, dtype: str) -> None:
    """Zero and values of 1e8 give finite values and derivatives."""
    drawn = operator.draw(rng)
    for x in (np.zeros_like(drawn[0]), 1e8 * drawn[0]):
        inputs = tuple(each.astype(dtype) for each in (x, *drawn[1:]))
        for found in pulled_back(operator.call, inputs, rng.normal(size=x.shape)):
            assert found.dtype == dtype
            assert np.isfinite(found).all()
