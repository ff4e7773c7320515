"""Differences, projections and sums of the relaxed Potts problem, on tensors with classes first.

Inside the solver a field of labels is (C, B, *S): sums over classes run over the first axis and
whatever is computed per pixel runs over long rows. A field on edges is a tuple with one tensor of
that shape for each spatial axis; its entry at pixel i belongs to the edge from i to the next pixel
along the axis and is 0 at the far border, where there is none.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Edges = tuple[Any, ...]

LEAST = 1e-37


def classes_first(field: Any) -> Any:
    """(B, *S, C) to (C, B, *S)."""
    rank = len(field.shape)
    return ops.transpose(field, (rank - 1, *range(rank - 1)))


def classes_last(field: Any) -> Any:
    """(C, B, *S) to (B, *S, C)."""
    return ops.transpose(field, (*range(1, len(field.shape)), 0))


def item_sum(field: Any) -> Any:
    """Sum over all but the batch axis, (C, B, *S) to (B,)."""
    return ops.sum(field, axis=(0, *range(2, len(field.shape))))


def item_min(field: Any) -> Any:
    """Minimum over all but the batch axis, (C, B, *S) to (B,)."""
    return ops.min(field, axis=(0, *range(2, len(field.shape))))


def per_item(values: Any, field: Any) -> Any:
    """(B,) to (1, B, 1, ...), so that it meets a field."""
    return ops.reshape(values, (1, -1, *[1] * (len(field.shape) - 2)))


def edge_dot(first: Edges, second: Edges) -> Any:
    """Inner product of two fields on edges, item by item, (B,)."""
    return sum(item_sum(a * b) for a, b in zip(first, second, strict=True))


def differences(field: Any, weights: Edges | None = None) -> Edges:
    """Forward differences along each spatial axis, times the weights of the edges if there are."""
    found = tuple(_difference(field, axis) for axis in range(2, len(field.shape)))
    return found if weights is None else _times(weights, found)


def adjoint_differences(edges: Edges, weights: Edges | None = None) -> Any:
    """The transpose of `differences`; entries at the far border must be 0."""
    edges = edges if weights is None else _times(weights, edges)
    return sum(_shifted(edge, axis) - edge for axis, edge in enumerate(edges, 2))


def _times(weights: Edges, edges: Edges) -> Edges:
    return tuple(weight * edge for weight, edge in zip(weights, edges, strict=True))


def _part(field: Any, axis: int, part: slice) -> Any:
    return field[(*[slice(None)] * axis, part)]


def _padded(field: Any, axis: int, before: int, after: int) -> Any:
    widths = [(0, 0)] * len(field.shape)
    widths[axis] = (before, after)
    return ops.pad(field, widths)


def _difference(field: Any, axis: int) -> Any:
    steps = _part(field, axis, slice(1, None)) - _part(field, axis, slice(None, -1))
    return _padded(steps, axis, 0, 1)


def _shifted(edge: Any, axis: int) -> Any:
    return _padded(_part(edge, axis, slice(None, -1)), axis, 1, 0)


def without_border(edge: Any, axis: int) -> Any:
    """The field on edges along an axis with 0 at the far border."""
    return _padded(_part(edge, axis, slice(None, -1)), axis, 0, 1)


def project_simplex_classes(field: Any) -> Any:
    """Nearest point of the simplex along the first axis, without sorting (Michelot 1986).

    After subtracting the largest entry the threshold lies in [-1, 0), so entries below -1 are out
    at once; each pass drops those below the threshold of the rest, and C - 1 passes are enough.
    """
    field = field - ops.stop_gradient(ops.max(field, axis=0, keepdims=True))
    inside = field > -1.0
    threshold = _threshold(field, inside)
    for _ in range(field.shape[0] - 1):
        inside = ops.logical_and(inside, field > threshold)
        threshold = _threshold(field, inside)
    return ops.maximum(field - threshold, 0.0)


def _threshold(field: Any, inside: Any) -> Any:
    total = ops.sum(ops.where(inside, field, 0.0), axis=0, keepdims=True)
    count = ops.sum(ops.cast(inside, field.dtype), axis=0, keepdims=True)
    return (total - 1.0) / ops.maximum(count, 1.0)


def length(edges: Edges) -> Any:
    """Euclidean length over the axes, at each pixel."""
    return ops.sqrt(sum(ops.square(edge) for edge in edges))


def clip_dual(edges: Edges, bounds: Edges, isotropic: bool) -> Edges:
    """Project a dual field: each edge on [-bound, bound], or each pixel on a ball."""
    if not isotropic:
        pairs = zip(edges, bounds, strict=True)
        return tuple(ops.clip(edge, -bound, bound) for edge, bound in pairs)
    norm = length(edges)
    outside = norm > bounds[0]
    scale = ops.where(outside, bounds[0] / ops.maximum(norm, LEAST), 1.0)
    return tuple(edge * scale for edge in edges)
