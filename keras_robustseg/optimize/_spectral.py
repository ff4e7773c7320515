"""Functions of the eigenvalues of a matrix, with derivatives that repeated eigenvalues keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_robustseg.optimize._first_order import with_derivative
from keras_robustseg.optimize._prox_input import per_group

Values = Callable[[Any], Any]
Quotients = Callable[[Any, Any], Any]


def spectral_function(matrix: Any, values: Values, quotients: Quotients) -> Any:
    """Return U f(eigenvalues) U^T of a symmetric matrix U diag(eigenvalues) U^T.

    The derivative along H is U (Q * (U^T H U)) U^T with Q the divided differences of f (Daleckii
    and Krein 1965), which asks nothing of the eigenvectors and so holds where eigenvalues repeat.

    Args:
        matrix: (..., n, n) symmetric.
        values: from eigenvalues (..., n) to f of them; may depend on parameters, to which the
            gradient flows.
        quotients: from eigenvalues and values to Q (..., n, n), (f_i - f_j) / (l_i - l_j), and
            f' on equal ones, by a formula without cancellation.
    """
    matrix = (matrix + transpose(matrix)) / 2.0
    eigenvalues, vectors = ops.eigh(ops.stop_gradient(matrix))
    # The derivative of an eigendecomposition is not used, and is NaN where eigenvalues repeat.
    eigenvalues, vectors = ops.stop_gradient(eigenvalues), ops.stop_gradient(vectors)
    found = values(eigenvalues)
    kernel = ops.stop_gradient(quotients(eigenvalues, ops.stop_gradient(found)))

    def pull_back(v: Any) -> tuple[Any, ...]:
        turned = ops.matmul(ops.matmul(transpose(vectors), v), vectors)
        return (rotated(kernel * turned, vectors),)

    scaled = vectors * ops.expand_dims(found, -2)
    return with_derivative(ops.matmul(scaled, transpose(vectors)), (matrix,), pull_back)


def singular_function(matrix: Any, values: Values, quotients: Quotients) -> Any:
    """Return U f(singular values) V^T of a matrix U diag(singular values) V^T, f an odd function.

    By `spectral_function` of the symmetric matrix [[0, X], [X^T, 0]], whose eigenvalues are the
    singular values, their negatives, and 0.

    Args:
        matrix: (..., m, n).
        values: odd function of the eigenvalues (..., m + n).
        quotients: its divided differences, as in `spectral_function`.
    """
    rows = matrix.shape[-2]
    nothing = ops.zeros_like(ops.matmul(matrix, transpose(matrix)))
    nothing_too = ops.zeros_like(ops.matmul(transpose(matrix), matrix))
    upper = ops.concatenate([nothing, matrix], axis=-1)
    lower = ops.concatenate([transpose(matrix), nothing_too], axis=-1)
    doubled = spectral_function(ops.concatenate([upper, lower], axis=-2), values, quotients)
    return doubled[..., :rows, rows:]


def transpose(matrix: Any) -> Any:
    """Return the matrices with their last two axes exchanged."""
    return ops.swapaxes(matrix, -1, -2)


def rotated(inner: Any, vectors: Any) -> Any:
    """Return U inner U^T."""
    return ops.matmul(ops.matmul(vectors, inner), transpose(vectors))


def per_matrix(value: Any, matrix: Any, name: str) -> Any:
    """Return a parameter for each matrix of a batch, to go with eigenvalues (..., n).

    Raises:
        ValueError: not a number nor of the shape of the batch.
    """
    value = per_group(value, matrix, (-2, -1), name)
    return ops.squeeze(value, -1) if len(value.shape) else value


def quotients_of_positive_part(values: Any) -> Any:
    """Return the divided differences of max(s, 0), (..., n, n), for values s (..., n).

    (s_i^+ + s_j^+) / (|s_i| + |s_j|), which loses nothing; 1/2 where both are 0.
    """
    positive = pair_sum(ops.maximum(values, 0.0))
    size = pair_sum(ops.abs(values))
    is_zero = ops.equal(size, 0.0)
    quotient = positive / ops.where(is_zero, ops.ones_like(size), size)
    return ops.where(is_zero, 0.5 * ops.ones_like(size), quotient)


def pair_sum(values: Any) -> Any:
    """Return v_i + v_j, (..., n, n)."""
    return ops.expand_dims(values, -1) + ops.expand_dims(values, -2)
