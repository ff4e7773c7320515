"""Total variation along one axis, exactly: level by level, all segments of all signals at once.

At its mean level t a segment asks which of its points lie above t: a problem on a chain with two
states, solved by one pass of clipped sums forwards and one pass of decisions backwards. If the
answer is all alike the segment is a constant piece of the solution. If not, it is cut where the
answer changes, and from then on the sign of that jump is known (Chambolle and Darbon, Int. J.
Comput. Vision 84, 2009). Each round cuts or ends, so it is exact; both passes are scans of log n
steps, so nothing is sequential in the signal.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._in_graph import in_graph
from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    checked_axis,
    parameter,
)


def prox_tv1d(y: Any, weight: Any = 1.0, axis: int = -1) -> Any:
    """Return the total variation denoising of signals, exactly.

        argmin over x of 1/2 ||x - y||^2 + sum over i of weight_i |x_{i+1} - x_i|

    Its derivative is that of the formula which holds on its constant pieces: each is the mean of y
    there, raised or lowered by the weights of its ends. It is exact, of any order, wherever the
    pieces stay as they are.

    Args:
        y: (..., n) float; the signals lie along `axis`.
        weight: 0 or above, broadcast to the differences of y along `axis`: a number, (n - 1,) for
            weights of edges, (batch, 1) for one of each signal, and so on.
        axis: the axis of the signals.

    Returns:
        x, the shape of y. Differentiable in y and weight.

    Raises:
        ValueError: y is not finite, weight is negative, or shapes do not go together.

    Example:
        `prox_tv1d([0.0, 0.2, 3.0, 3.2], 0.5)  # [0.35, 0.35, 2.85, 2.85]`
    """
    y = as_float(y, "y")
    checked_axis(y, axis)
    weight = parameter(weight, y, "weight")
    axis, size = axis % len(y.shape), y.shape[axis]
    edges = (*y.shape[:axis], size - 1, *y.shape[axis + 1 :])
    check_broadcast(weight, edges, "weight")
    if size == 1:
        return y
    weight = weight + ops.zeros_like(ops.take(y, ops.arange(size - 1), axis=axis))
    moved = ops.moveaxis(y, axis, -1)
    rows = ops.reshape(moved, (-1, size))
    weights = ops.reshape(ops.moveaxis(weight, axis, -1), (-1, size - 1))
    jumps = in_graph(signs_of_jumps, ops.stop_gradient(rows), ops.stop_gradient(weights))
    pieces = means_of_pieces(rows, weights, ops.stop_gradient(jumps))
    return ops.moveaxis(ops.reshape(pieces, ops.shape(moved)), -1, axis)


def signs_of_jumps(y: Any, weight: Any) -> Any:
    """Return for each edge (batch, n - 1) the sign of the jump of the solution there, 0 for none.

    Args:
        y: (batch, n).
        weight: (batch, n - 1).
    """

    def update(jumps: Any, new: Any) -> tuple[Any, Any]:
        level = means_of_pieces(y, weight, jumps)
        open_weight = ops.where(ops.equal(jumps, 0.0), weight, ops.zeros_like(weight))
        above = _above(level - _tilted(y, weight, jumps), open_weight)
        change = above[:, 1:] - above[:, :-1]
        new = ops.where(ops.equal(jumps, 0.0), change, ops.zeros_like(change))
        return jumps + new, new

    none = ops.zeros_like(weight)
    return ops.while_loop(
        lambda jumps, new: ops.any(ops.not_equal(new, 0.0)),
        update,
        update(none, none),
        maximum_iterations=y.shape[-1],
    )[0]


def means_of_pieces(y: Any, weight: Any, jumps: Any) -> Any:
    """Return the solution (batch, n) whose jumps have these signs: the means of tilted pieces."""
    tilted = _tilted(y, weight, jumps)
    batch, size = ops.shape(y)[0], y.shape[-1]
    cut = ops.cast(ops.not_equal(jumps, 0.0), "int32")
    first = ops.cast(ops.arange(batch), "int32")[:, None] * size
    pieces = first + ops.pad(ops.cumsum(cut, axis=-1), ((0, 0), (1, 0)))
    flat = ops.reshape(pieces, (-1,))
    total = ops.segment_sum(ops.reshape(tilted, (-1,)), flat, num_segments=batch * size)
    count = ops.segment_sum(ops.ones_like(flat), flat, num_segments=batch * size)
    mean = total / ops.cast(ops.maximum(count, 1), y.dtype)
    return ops.reshape(ops.take(mean, flat), ops.shape(y))


def _tilted(y: Any, weight: Any, jumps: Any) -> Any:
    """The data moved by what the known jumps pull: y - D^T (weight * jumps)."""
    pull = weight * jumps
    return y + ops.pad(pull, ((0, 0), (0, 1))) - ops.pad(pull, ((0, 0), (1, 0)))


def _above(cost: Any, weight: Any) -> Any:
    """The s in {0, 1}^n, as floats, that minimises <cost, s> + sum weight_i |s_{i+1} - s_i|."""
    gain = _clipped_sums(cost, weight)
    reach = ops.pad(weight, ((0, 0), (0, 1)))
    size = gain.shape[-1]
    sure = ops.abs(gain) > reach
    place = ops.where(sure, ops.arange(size), size - 1)
    nearest = -_running_maximum(ops.flip(-place, axis=-1))
    decided = ops.cast(gain < 0, cost.dtype)
    return ops.take_along_axis(decided, ops.flip(nearest, axis=-1), axis=-1)


def _clipped_sums(cost: Any, weight: Any) -> Any:
    """m_i = cost_i + clip(m_{i-1}, -weight_{i-1}, weight_{i-1}), by a parallel scan.

    The maps x -> clip(x + shift, low, high) are closed under composition.
    """
    reach = ops.pad(weight, ((0, 0), (1, 0)))
    shift, low, high = cost, cost - reach, cost + reach
    step, size = 1, cost.shape[-1]
    while step < size:
        # Where nothing comes before, low and high have met and any x will do.
        earlier = [ops.pad(each[:, :-step], ((0, 0), (step, 0))) for each in (shift, low, high)]
        head = [each[:, :step] for each in (low, high)]
        new_low = ops.clip(earlier[1] + shift, low, high)[:, step:]
        new_high = ops.clip(earlier[2] + shift, low, high)[:, step:]
        shift = shift + earlier[0]
        low = ops.concatenate([head[0], new_low], axis=-1)
        high = ops.concatenate([head[1], new_high], axis=-1)
        step *= 2
    return low


def _running_maximum(values: Any) -> Any:
    step, size = 1, values.shape[-1]
    while step < size:
        moved = ops.concatenate([values[:, :step], values[:, :-step]], axis=-1)
        values, step = ops.maximum(values, moved), step * 2
    return values
