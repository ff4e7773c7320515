"""The derivative of a lasso or elastic net by its active set: exact, and it knows its kinks."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._info import SolveInfo, Status
from keras_robustseg.optimize._linear import as_float, check_finite


class ElasticNetGradients(NamedTuple):
    """Cotangents of y (n,), of l1 per feature (p,) (sum it for a single one), and of l2 ()."""

    y: Any
    l1: Any
    l2: Any


def elastic_net_vjp(
    X: Any, y: Any, w: Any, l1: Any, l2: Any, cotangent: Any
) -> tuple[ElasticNetGradients, SolveInfo]:
    """Return J^T v of w = argmin ||X w - y||^2 / (2 n) + sum_j l1_j |w_j| + l2 / 2 ||w||^2.

    The system is solved on the equicorrelation set E = {j: |x_j' (y - X w) / n - l2 w_j| = l1_j},
    by eigenvalues: w = (X_E' X_E / n + l2)^+ v_E. Invertibility on E, not on the support alone, is
    what the implicit function theorem asks for (Bolte et al., NeurIPS 2021).

    Args:
        X, y: data, (n, p) and (n,).
        w: the answer, (p,).
        l1, l2: weights, () or (p,), and ().
        cotangent: v, (p,).

    Returns:
        The cotangents, and a certificate: residual of the optimality conditions, `kink_margin` (the
        least of |w_j| on E and of l1_j minus the correlation outside), NEAR_KINK where it is within
        rounding, SINGULAR where columns of E depend on each other (the smallest answer is taken).

    Raises:
        ValueError: input that is not finite.

    Example:
        `grads, info = elastic_net_vjp(X, y, w, 0.1, 0.0, w_bar)`
    """
    w = as_float("w", w)
    X, y, l1, l2, v = (_of_type(a, w.dtype) for a in (X, y, l1, l2, cotangent))
    for name, value in (("X", X), ("y", y), ("w", w), ("cotangent", v)):
        check_finite(name, value)
    n = float(X.shape[0])
    slack = 1e-7 if w.dtype == "float64" else 1e-4
    l1_each = ops.broadcast_to(l1, ops.shape(w))
    correlation = ops.matmul(ops.transpose(X), y - ops.matmul(X, w)) / n - l2 * w
    gap = l1_each - ops.abs(correlation)
    inside = ops.logical_or(w != 0, gap <= slack * l1_each)
    mask = ops.cast(inside, w.dtype)
    eigenvalues, vectors = _spectrum(X, l2, mask, n)
    top = ops.max(eigenvalues)
    sound = eigenvalues > slack**1.5 * top
    inverse = ops.where(sound, 1.0 / ops.where(sound, eigenvalues, top), ops.zeros_like(top))
    u = ops.matmul(vectors, inverse * ops.matmul(ops.transpose(vectors), mask * v)) * mask
    sign = ops.where(w != 0, ops.sign(w), ops.sign(correlation)) * mask
    grads = ElasticNetGradients(ops.matmul(X, u) / n, -u * sign, -ops.sum(u * w))
    margin = ops.min(ops.where(inside, ops.abs(w), gap))
    near = ops.where(margin <= slack * ops.max(l1_each), int(Status.NEAR_KINK), int(Status.OK))
    status = ops.where(ops.all(sound), near, int(Status.SINGULAR))
    wrong = ops.where(w != 0, correlation - l1_each * ops.sign(w), ops.maximum(-gap, 0.0))
    residual = ops.sqrt(ops.sum(wrong * wrong))
    return grads, SolveInfo(ops.cast(status, "int32"), residual=residual, kink_margin=margin)


def _spectrum(X: Any, l2: Any, mask: Any, n: float) -> tuple[Any, Any]:
    """Return the eigenpairs of the Gram matrix on the set; off it, a multiple of the identity."""
    gram = ops.matmul(ops.transpose(X), X) / n
    size = ops.max(ops.diagonal(gram)) + l2
    eye = ops.eye(int(mask.shape[0]), dtype=mask.dtype)
    gram = gram * mask[:, None] * mask + eye * (l2 * mask + size * (1.0 - mask))
    return ops.eigh(gram)


def _of_type(value: Any, dtype: Any) -> Any:
    """A number of Python goes to the type at once: by way of float32 it would be rounded."""
    if isinstance(value, int | float):
        return ops.convert_to_tensor(value, dtype=dtype)
    return ops.cast(as_float("X", value), dtype)
