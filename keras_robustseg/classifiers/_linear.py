"""Symmetric systems with Hessians, singular ones included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.sparse.linalg import LinearOperator, cg

# Below this reciprocal condition number, of the Hessian scaled to a unit diagonal, rounding alone
# decides the answer.
_RANK = 1e-13

Solve = Callable[[np.ndarray], np.ndarray]


def factor(matrix: np.ndarray) -> tuple[Solve, bool]:
    """Return the solution map of a positive semidefinite system, and whether it is singular.

    A singular system is solved in the sense of least squares, by the answer of least norm in the
    units of its diagonal.

    Args:
        matrix: (n, n) symmetric.

    Example:
        `solve, singular = factor(np.eye(3)); solve(np.ones(3))`
    """
    diagonal = np.diag(matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix * scale[:, None] * scale
    try:
        lower = cho_factor(scaled, lower=True)
        singular = lapack.dpocon(lower[0], np.abs(scaled).sum(axis=0).max(), uplo="L")[0] < _RANK
    except np.linalg.LinAlgError:
        singular = True
    if not singular:
        return lambda b: scale * cho_solve(lower, scale * b), False
    values, vectors = np.linalg.eigh(scaled)
    kept = values > 1e-12 * max(values[-1], 0.0)
    values, vectors = values[kept], vectors[:, kept]
    return lambda b: scale * (vectors @ ((vectors.T @ (scale * b)) / values)), True


def conjugate_gradients(
    matvec: Solve, b: np.ndarray, x0: np.ndarray | None, rtol: float, maxiter: int
) -> tuple[np.ndarray, float]:
    """Return the solution of a positive semidefinite system, and its relative residual.

    Args:
        matvec: the matrix times a vector (n,).
        b: right-hand side (n,).
        x0: where to begin, or None.
        rtol: relative residual at which to stop.
        maxiter: bound on the iterations.

    Example:
        `conjugate_gradients(lambda v: 2.0 * v, np.ones(3), None, 1e-10, 100)`
    """
    operator = LinearOperator((len(b), len(b)), matvec=matvec, dtype=np.float64)
    x, _ = cg(operator, b, x0=x0, rtol=rtol, maxiter=maxiter)
    size = np.linalg.norm(b)
    return x, float(np.linalg.norm(b - matvec(x)) / size) if size else 0.0
