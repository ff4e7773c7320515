"""Total variation of images: solved in the dual, made exact on the active set, with certificate."""

from __future__ import annotations

from typing import Any

from keras import backend, ops

from keras_robustseg.optimize._first_order import with_derivative
from keras_robustseg.optimize._in_graph import in_graph
from keras_robustseg.optimize._info import SolveInfo, Status, warn_unless_ok
from keras_robustseg.optimize._linear import check_positive, epsilon
from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    parameter,
    per_group,
)
from keras_robustseg.optimize._tv_grid import (
    adjoint,
    differences,
    dual_solution,
    gap,
    is_flat,
    region_means,
    regions,
    sizes,
)
from keras_robustseg.optimize._tv_isotropic import pulled_back, refined

_TOLERANCES = {"float32": 1e-3, "float64": 1e-7}
_TINY = 1e-37
# A jump of so many rounding units is none.
_NEAR = 64.0


def prox_tv2d(
    y: Any,
    weight: Any = 1.0,
    *,
    isotropic: bool = False,
    edge_weights: Any = None,
    tol: float | None = None,
    max_iterations: int = 5000,
    return_info: bool = False,
) -> Any:
    """Return the total variation denoising of images (Rudin, Osher and Fatemi 1992).

        argmin over x of 1/2 ||x - y||^2 + weight sum over edges w_e |(D x)_e|
        argmin over x of 1/2 ||x - y||^2 + weight sum over pixels w_ij ||(D x)_ij||_2

    The first is anisotropic, the second isotropic. D are the differences to the pixel below and to
    the right, with none across the border. The dual is solved by accelerated projected gradients;
    it says where the image is constant and which way it jumps elsewhere, and on that active set the
    answer is exact: means of regions, or for the isotropic one a few Newton steps. The derivative
    is that of the active set: again means of regions, of any order, or conjugate gradients, of
    first order.

    Args:
        y: (..., h, w) float; all leading axes are a batch.
        weight: 0 or above: a number, or one for each image.
        isotropic: lengths of gradients instead of absolute differences.
        edge_weights: 0 or above. Anisotropic: a pair of arrays, for the edges down (h - 1, w) and
            to the right (h, w - 1). Isotropic: an array (h, w). Leading axes broadcast to the
            batch.
        tol: bound on the distance from the solution over ||y||, from the duality gap, at which the
            dual stops; 1e-7 for float64 and 1e-3 for float32. The isotropic one is always solved
            in float64 on TensorFlow: float32 does not tell the active set.
        max_iterations: bound on the gradient steps. The isotropic one finds its active set slowly
            on large images with large weights: read the status.
        return_info: whether to return the certificate too.

    Returns:
        x, the shape of y, differentiable in y, weight and edge_weights; with `return_info` also
        `SolveInfo` with one figure per image. `residual` bounds the distance of x from the
        solution, `active_set_changes` counts edges that changed sides at the end, `kink_margin` is
        the least of 1 - |dual| / weight on flat edges and of the jumps elsewhere. The status is
        NEAR_KINK where the jump between two regions, or the margin of a flat edge, is of the size
        of rounding.

    Raises:
        ValueError: y is not finite, a weight is negative, or shapes do not go together.

    Example:
        `x, info = prox_tv2d(image, 0.1, isotropic=True, return_info=True)`
    """
    y = as_float(y, "y")
    if len(y.shape) < 2:
        raise ValueError(f"`y` must be an image or a batch of them. Received: shape {y.shape}")
    check_positive(tol=tol, max_iterations=max_iterations)
    images = ops.reshape(y, (-1, *y.shape[-2:]))
    weights = _weights(y, weight, edge_weights, isotropic)
    if isotropic and backend.backend() == "tensorflow":
        images, weights = ops.cast(images, "float64"), ops.cast(weights, "float64")
    tol = tol or _TOLERANCES[backend.standardize_dtype(images.dtype)]
    fixed = (ops.stop_gradient(images), ops.stop_gradient(weights))
    dual, steps, changes = in_graph(dual_solution, *fixed, tol, max_iterations)
    dual = ops.stop_gradient(dual)
    solve = _isotropic if isotropic else _anisotropic
    number = ops.stop_gradient(in_graph(regions, is_flat(dual, fixed[1])))
    x = solve(images, weights, dual, number)
    info = _certificate(ops.stop_gradient(x), dual, *fixed, number, tol)
    info = info._replace(iterations=steps, active_set_changes=changes)
    info = SolveInfo(*(ops.reshape(each, tuple(y.shape[:-2])) for each in info))
    warn_unless_ok(info, "prox_tv2d")
    x = ops.cast(ops.reshape(x, ops.shape(y)), y.dtype)
    return (x, info) if return_info else x


def _weights(y: Any, weight: Any, edge_weights: Any, isotropic: bool) -> Any:
    """The product of the weights, (batch, h, w, 1) or (batch, h, w, 2) with 0 off the image."""
    batch, (height, width) = tuple(y.shape[:-2]), y.shape[-2:]
    weight = per_group(parameter(weight, y, "weight"), y, (-2, -1), "weight")

    def whole(values: Any, *shape: int) -> Any:
        values = parameter(values, y, "edge_weights")
        check_broadcast(values, (*batch, *shape), "edge_weights")
        values = ops.broadcast_to(values * weight, (*ops.shape(y)[:-2], *shape))
        return ops.reshape(values, (-1, *shape))

    if isotropic:
        return whole(1.0 if edge_weights is None else edge_weights, height, width)[..., None]
    down, right = _pair(edge_weights)
    down = ops.pad(whole(down, height - 1, width), ((0, 0), (0, 1), (0, 0)))
    right = ops.pad(whole(right, height, width - 1), ((0, 0), (0, 0), (0, 1)))
    return ops.stack([down, right], axis=-1)


def _pair(edge_weights: Any) -> tuple[Any, Any]:
    if edge_weights is None:
        return 1.0, 1.0
    if not isinstance(edge_weights, (tuple, list)) or len(edge_weights) != 2:
        raise ValueError(
            "`edge_weights` must be a pair of arrays, for the edges down (h - 1, w) and to the "
            f"right (h, w - 1). Received: {type(edge_weights).__name__}"
        )
    return edge_weights[0], edge_weights[1]


def _anisotropic(y: Any, weight: Any, dual: Any, number: Any) -> Any:
    """The image of the active set of the dual, a formula in y and the weights."""
    flat = is_flat(dual, ops.stop_gradient(weight))
    sign = ops.where(flat, ops.zeros_like(dual), ops.sign(dual))
    x = region_means(y - adjoint(weight * sign), number)
    return _unless_worse(x, y, weight, dual)


def _isotropic(y: Any, weight: Any, dual: Any, number: Any) -> Any:
    fixed_y, fixed = ops.stop_gradient(y), ops.stop_gradient(weight)
    flat = is_flat(dual, fixed)
    x = in_graph(refined, fixed_y - adjoint(dual), fixed_y, fixed, flat, number)
    x = ops.stop_gradient(_unless_worse(x, fixed_y, fixed, dual))

    def back(v: Any) -> tuple[Any, Any]:
        return in_graph(pulled_back, x, fixed, flat, number, v)

    return with_derivative(x, (y, weight), back)


def _unless_worse(x: Any, y: Any, weight: Any, dual: Any) -> Any:
    """x, or with the derivative of x the image of the dual where that is the better one."""
    y, weight = ops.stop_gradient(y), ops.stop_gradient(weight)
    other = y - adjoint(dual)
    worse = gap(ops.stop_gradient(x), dual, y, weight) > gap(other, dual, y, weight)
    change = ops.where(worse[:, None, None], other - ops.stop_gradient(x), ops.zeros_like(other))
    return x + ops.stop_gradient(change)


def _least_jump(x: Any, weight: Any, number: Any) -> Any:
    """The least difference between neighbouring regions, (batch,), or where there is none, inf.

    Inside a region an edge's dual may be at its bound, where edges close a circle, without a kink.
    """
    apart = differences(ops.reshape(number, ops.shape(x))) != 0
    apart = apart if weight.shape[-1] == 2 else ops.any(apart, axis=-1, keepdims=True)
    jumps = sizes(differences(x), weight)
    counts = ops.logical_and(apart, weight > 0)
    return ops.min(ops.where(counts, jumps, ops.full_like(jumps, float("inf"))), axis=(1, 2, 3))


def _certificate(x: Any, dual: Any, y: Any, weight: Any, number: Any, tol: float) -> SolveInfo:
    between = gap(x, dual, y, weight)
    distance = ops.sqrt(2.0 * between)
    relative = distance / ops.maximum(ops.sqrt(ops.sum(y * y, axis=(1, 2))), _TINY)
    size = sizes(dual, weight)
    room = 1.0 - size / ops.where(weight > 0, weight, ops.ones_like(weight))
    margins = ops.where(is_flat(dual, weight), room, sizes(differences(x), weight))
    margins = ops.where(weight > 0, margins, ops.full_like(margins, float("inf")))
    rounding = _NEAR * epsilon(x)
    merged = _least_jump(x, weight, number) <= rounding * ops.max(ops.abs(y), axis=(1, 2))
    tight = ops.logical_and(ops.logical_and(is_flat(dual, weight), room <= rounding), weight > 0)
    kink = ops.logical_or(merged, ops.any(tight, axis=(1, 2, 3)))
    near = ops.where(kink, int(Status.NEAR_KINK), int(Status.OK))
    status = ops.where(relative <= tol, near, int(Status.NOT_CONVERGED))
    unknown = ops.full_like(between, float("nan"))
    return SolveInfo(
        status=ops.cast(status, "int32"),
        residual=distance,
        relative_residual=relative,
        duality_gap=between,
        kink_margin=ops.min(margins, axis=(1, 2, 3)),
        contraction=unknown,
        adjoint_residual=unknown,
    )
