"""What the linear solvers share: one scaled problem per item of a batch, its loop, its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_robustseg.optimize._info import LinearInfo, Status, is_concrete

Matvec = Callable[[Any], Any]
TINY = 1e-37
# The residual is recomputed from the answer; rounding may leave it a little above the tolerance.
SLACK = 2.0


class System(NamedTuple):
    """A x = b with the items of the batch along the first axis and the right-hand side scaled.

    Attributes:
        matvec: A on (items, unknowns).
        b: right-hand side over its largest entry, (items, unknowns).
        x0: first iterate over the same number.
        size: ||b|| of the scaled right-hand side, (items, 1), at least `TINY`.
        tol: relative residual at which an item has converged.
        scale: largest entry of each right-hand side, (items, 1); 1 for 0.
        shape: shape that the answer must have.
        batch: shape of the batch axes.
    """

    matvec: Matvec
    b: Any
    x0: Any
    size: Any
    tol: float
    scale: Any
    shape: Any
    batch: Any


def dot(first: Any, second: Any) -> Any:
    """Return the inner product of each item, (items, 1)."""
    return ops.sum(first * second, axis=-1, keepdims=True)


def norm(x: Any) -> Any:
    """Return the Euclidean length of each item, (items, 1)."""
    return ops.sqrt(dot(x, x))


def epsilon(x: Any) -> float:
    """Return the rounding unit of the tensor's type."""
    return float(np.finfo(backend.standardize_dtype(x.dtype)).eps)


def default_tol(x: Any) -> float:
    """Return 1e-6 for float32 and 1e-12 for float64."""
    return 1e-12 if backend.standardize_dtype(x.dtype) == "float64" else 1e-6


def as_float(name: str, value: Any) -> Any:
    """Return a float32 or float64 tensor; half precision and whole numbers become float32."""
    tensor = ops.convert_to_tensor(value)
    if backend.standardize_dtype(tensor.dtype) not in ("float32", "float64"):
        if "complex" in backend.standardize_dtype(tensor.dtype):
            raise ValueError(f"`{name}` must be real. Received: dtype {tensor.dtype}.")
        tensor = ops.cast(tensor, "float32")
    return tensor


def check_positive(**numbers: float | None) -> None:
    """Raise ValueError for a number that is neither None nor positive."""
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {value!r}.")


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError for NaN or infinite entries, where they can be read."""
    if is_concrete(value) and not np.all(np.isfinite(ops.convert_to_numpy(value))):
        raise ValueError(f"`{name}` must be finite. Received NaN or infinite entries.")


def system(
    matvec: Matvec,
    b: Any,
    x0: Any,
    tol: float | None,
    max_iterations: int,
    batch_axes: int | None,
) -> System:
    """Check the input of a linear solver and return its scaled problem.

    Raises:
        ValueError: non-finite input, shapes or types that do not match, a tolerance or a bound
            that is not positive, more batch axes than axes.
    """
    b = as_float("b", b)
    start = ops.zeros_like(b) if x0 is None else as_float("x0", x0)
    check_positive(tol=tol, max_iterations=max_iterations)
    _check_alike("x0", start, b)
    check_finite("b", b)
    check_finite("x0", start)
    axes = _batch_axes(batch_axes, len(b.shape))
    shape, batch = ops.shape(b), ops.shape(b)[:axes]
    unknowns = int(np.prod(list(b.shape[axes:]), dtype=int))

    def flat(x: Any) -> Any:
        return ops.reshape(x, (-1, unknowns))

    def apply(x: Any) -> Any:
        image = ops.convert_to_tensor(matvec(ops.reshape(x, shape)))
        _check_alike("matvec(x)", image, b)
        return flat(image)

    scale = ops.max(ops.abs(flat(b)), axis=-1, keepdims=True)
    scale = ops.where(scale > 0, scale, ops.ones_like(scale))
    b_scaled, x_scaled = flat(b) / scale, flat(start) / scale
    size = ops.maximum(norm(b_scaled), TINY)
    tolerance = default_tol(b) if tol is None else float(tol)
    return System(apply, b_scaled, x_scaled, size, tolerance, scale, shape, batch)


def _check_alike(name: str, value: Any, b: Any) -> None:
    if tuple(value.shape) != tuple(b.shape) or value.dtype != b.dtype:
        raise ValueError(
            f"`{name}` must have the shape and type of `b`. Expected: {tuple(b.shape)}, {b.dtype}. "
            f"Received: {tuple(value.shape)}, {value.dtype}."
        )


def _batch_axes(asked: int | None, rank: int) -> int:
    axes = min(1, rank - 1) if asked is None else int(asked)
    if rank < 1 or not 0 <= axes < rank:
        raise ValueError(
            "`b` must have at least one axis that is not a batch axis. "
            f"Received: {rank} axes, `batch_axes={asked}`."
        )
    return axes


def loop(
    active: Callable[..., Any], step: Callable[..., Any], state: Any, max_iterations: int
) -> Any:
    """Repeat `step` on a tuple while an item is active, at most `max_iterations` times."""
    return ops.while_loop(
        lambda *now: ops.any(active(*now)), step, state, maximum_iterations=int(max_iterations)
    )


def finish(
    problem: System, x: Any, iterations: Any, broken: Any, best: Any | None = None
) -> tuple[Any, LinearInfo]:
    """Return the answer in the caller's shape and scale, with its certificate.

    Args:
        problem: what was solved.
        x: last iterate, scaled.
        iterations: int32 (items, 1).
        broken: bool (items, 1), the solver broke down.
        best: another candidate; of the two the one with the smaller residual is returned.
    """
    residual = norm(problem.b - problem.matvec(x))
    if best is not None:
        other = norm(problem.b - problem.matvec(best))
        better = ops.logical_not(residual <= other)
        x, residual = ops.where(better, best, x), ops.where(better, other, residual)
    relative = residual / problem.size
    none = residual == 0
    relative = ops.where(none, ops.zeros_like(relative), relative)
    solved = relative <= SLACK * problem.tol
    finite = ops.logical_and(ops.isfinite(residual), relative <= 1.0 / epsilon(x))
    status = ops.where(broken, int(Status.SINGULAR), int(Status.NOT_CONVERGED))
    status = ops.where(finite, status, int(Status.DIVERGED))
    status = ops.cast(ops.where(solved, int(Status.OK), status), "int32")
    info = LinearInfo(status, iterations, residual * problem.scale, relative)
    info = LinearInfo(*(ops.reshape(figure, problem.batch) for figure in info))
    return ops.reshape(x * problem.scale, problem.shape), info
