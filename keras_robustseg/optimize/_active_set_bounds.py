"""Derivatives of smooth problems on a box and on the simplex, by their active sets."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._info import SolveInfo, Status
from keras_robustseg.optimize._linear import as_float, check_finite
from keras_robustseg.optimize._project_simplex import project_simplex


class BoxGradients(NamedTuple):
    """Cotangents of a linear term (n,), of the Hessian (n, n), and of both bounds (n,)."""

    linear: Any
    hessian: Any
    low: Any
    high: Any


class SimplexGradients(NamedTuple):
    """Cotangents of a linear term (n,), of the Hessian (n, n), and of the radius ()."""

    linear: Any
    hessian: Any
    radius: Any


def box_vjp(
    hessian: Any, gradient: Any, x: Any, low: Any, high: Any, cotangent: Any
) -> tuple[BoxGradients, SolveInfo]:
    """Return J^T v of x = argmin f(x) over low <= x <= high, f smooth and convex.

    With F the entries off their bounds and H the Hessian of f at x, H_FF w_F = v_F and w = 0
    elsewhere: a linear term of f gets -w, a bound that holds an entry gets v - H w there. A
    parameter theta of f gets -<w, d(grad f)/d theta>. An entry at its bound without a multiplier
    counts as free, as invertibility for every active set asks (Bolte et al., NeurIPS 2021).

    Args:
        hessian: H (n, n), symmetric; of 1/2 x'Qx + c'x it is Q.
        gradient: of f at x, (n,), such as Q x + c.
        x: the answer, (n,), exactly at its bounds where it is there.
        low, high: bounds, () or (n,), possibly infinite.
        cotangent: v, (n,).

    Returns:
        The cotangents, and a certificate: `residual` ||x - P(x - grad f)||, `kink_margin` (the
        least distance of free entries from their bounds and multiplier of the others), NEAR_KINK
        where that is within rounding, SINGULAR where H_FF is (the smallest answer is taken).

    Raises:
        ValueError: input that is not finite, or shapes that do not fit.

    Example:
        `grads, info = box_vjp(Q, Q @ x + c, x, 0.0, 1.0, x_bar)`
    """
    H, g, x, v = _checked(hessian, gradient, x, cotangent)
    low, high = (ops.broadcast_to(ops.cast(b, x.dtype), x.shape) for b in (low, high))
    slack, size = _slack(x), _size(g)
    held_low = ops.logical_and(x <= low, g > slack * size)
    held_high = ops.logical_and(x >= high, -g > slack * size)
    free = ops.cast(ops.logical_not(ops.logical_or(held_low, held_high)), x.dtype)
    w, sound = _solved(H, ops.diag(free), v)
    rest = v - ops.matmul(H, w)
    zero = ops.zeros_like(x)
    grads = BoxGradients(
        -w,
        -_symmetric(w, x),
        ops.where(held_low, rest, zero),
        ops.where(held_high, rest, zero),
    )
    distance = ops.minimum(x - low, high - x)
    margin = ops.min(ops.where(free > 0, distance, ops.abs(g)))
    return grads, _certificate(x - ops.clip(x - g, low, high), margin, sound, slack, x)


def simplex_vjp(
    hessian: Any, gradient: Any, x: Any, cotangent: Any
) -> tuple[SimplexGradients, SolveInfo]:
    """Return J^T v of x = argmin f(x) over x >= 0 with sum x = r, f smooth and convex.

    With F the positive entries and m the multiplier of the sum, H_FF w_F + m 1 = v_F and
    1'w_F = 0: a linear term of f gets -w, the radius m.

    Args:
        hessian: H (n, n), symmetric, of f at x.
        gradient: of f at x, (n,).
        x: the answer, (n,), exactly 0 where it is 0; its sum is the radius.
        cotangent: v, (n,).

    Returns and Raises are those of `box_vjp`; `kink_margin` is the least positive entry and the
    least multiplier of the others.

    Example:
        `grads, info = simplex_vjp(Q, Q @ x + c, x, x_bar)`
    """
    H, g, x, v = _checked(hessian, gradient, x, cotangent)
    slack = _slack(x)
    support = ops.cast(x > 0, x.dtype)
    level = ops.sum(support * g) / ops.maximum(ops.sum(support), 1.0)
    above = g - level
    free = ops.cast(ops.logical_or(x > 0, above <= slack * _size(g)), x.dtype)
    count = ops.maximum(ops.sum(free), 1.0)
    w, sound = _solved(H, ops.diag(free) - free[:, None] * free / count, v)
    radius = ops.sum(free * (v - ops.matmul(H, w))) / count
    margin = ops.min(ops.where(x > 0, x, above))
    moved = x - project_simplex(x - g, radius=ops.sum(x))
    info = _certificate(moved, margin, sound, slack, x)
    return SimplexGradients(-w, -_symmetric(w, x), radius), info


def _checked(hessian: Any, gradient: Any, x: Any, cotangent: Any) -> tuple[Any, ...]:
    x = as_float("x", x)
    size = x.shape[0] if len(x.shape) == 1 else None
    given = {"hessian": hessian, "gradient": gradient, "x": x, "cotangent": cotangent}
    found = {name: ops.cast(as_float(name, value), x.dtype) for name, value in given.items()}
    for name, value in found.items():
        expected = (size, size) if name == "hessian" else (size,)
        if size is None or tuple(value.shape) != expected:
            raise ValueError(f"`{name}` must have shape {expected}. Received: {value.shape}.")
        check_finite(name, value)
    return tuple(found[name] for name in ("hessian", "gradient", "x", "cotangent"))


def _slack(x: Any) -> float:
    return 1e-7 if x.dtype == "float64" else 1e-4


def _size(field: Any) -> Any:
    return ops.maximum(ops.max(ops.abs(field)), 1e-37)


def _symmetric(w: Any, x: Any) -> Any:
    outer = w[:, None] * x
    return 0.5 * (outer + ops.transpose(outer))


def _solved(H: Any, projector: Any, v: Any) -> tuple[Any, Any]:
    """w = P (P H P)^+ P v, and whether P H P is invertible on the range of P."""
    inner = ops.matmul(ops.matmul(projector, H), projector)
    size = ops.maximum(ops.max(ops.abs(ops.diagonal(H))), 1e-37)
    eye = ops.eye(int(H.shape[0]), dtype=H.dtype)
    eigenvalues, vectors = ops.eigh(inner + size * (eye - projector))
    sound = eigenvalues > _slack(H) ** 1.5 * ops.max(eigenvalues)
    inverse = ops.where(sound, 1.0 / ops.where(sound, eigenvalues, 1.0), 0.0)
    right = ops.matmul(ops.transpose(vectors), ops.matmul(projector, v))
    return ops.matmul(projector, ops.matmul(vectors, inverse * right)), ops.all(sound)


def _certificate(moved: Any, margin: Any, sound: Any, slack: float, x: Any) -> SolveInfo:
    near = ops.where(margin <= slack * _size(x), int(Status.NEAR_KINK), int(Status.OK))
    status = ops.where(sound, near, int(Status.SINGULAR))
    residual = ops.sqrt(ops.sum(moved * moved))
    return SolveInfo(ops.cast(status, "int32"), residual=residual, kink_margin=margin)
