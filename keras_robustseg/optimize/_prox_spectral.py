"""Proximal operators of functions of singular values and eigenvalues, with signed eigenvalues."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._prox_input import (
    as_float,
    check_broadcast,
    check_symmetric,
    finite,
    matching,
    parameter,
)
from keras_robustseg.optimize._prox_log import negative_log, negative_log_quotients
from keras_robustseg.optimize._spectral import (
    per_matrix,
    quotients_of_positive_part,
    singular_function,
    spectral_function,
)


def prox_nuclear(x: Any, penalty: Any = 1.0) -> Any:
    """Return the proximal operator of penalty ||Z||_*, the sum of singular values.

    U max(S - penalty, 0) V^T of the singular value decomposition U S V^T (Cai, Candès and Shen
    2010).

    Args:
        x: (..., m, n) float.
        penalty: 0 or above: a number, or one for each matrix.

    Returns:
        The shape of x. Differentiable in x and penalty, repeated singular values included.

    Raises:
        ValueError: x is not finite or no matrix, or penalty is negative.

    Example:
        `prox_nuclear([[3.0, 0.0], [0.0, 0.5]], 1.0)  # [[2, 0], [0, 0]]`
    """
    x = _matrices(x)
    penalty = per_matrix(parameter(penalty, x, "penalty"), x, "penalty")

    def values(eigenvalues: Any) -> Any:
        size = ops.maximum(ops.abs(eigenvalues) - penalty, 0.0)
        return ops.sign(eigenvalues) * size

    def quotients(eigenvalues: Any, found: Any) -> Any:
        upper = quotients_of_positive_part(eigenvalues - penalty)
        return upper + quotients_of_positive_part(-eigenvalues - penalty)

    return singular_function(x, values, quotients)


def prox_rank(x: Any, penalty: Any = 1.0) -> Any:
    """Return a proximal point of penalty rank(Z): singular values up to sqrt(2 penalty) become 0.

    The problem is not convex; where a singular value is sqrt(2 penalty) there are two solutions,
    of which this is the one of lower rank. The derivative in the penalty is 0.

    Args:
        x: (..., m, n) float.
        penalty: 0 or above: a number, or one for each matrix.

    Returns:
        The shape of x. Differentiable in x.

    Raises:
        ValueError: x is not finite or no matrix, or penalty is negative.

    Example:
        `prox_rank([[3.0, 0.0], [0.0, 0.5]], 1.0)  # [[3, 0], [0, 0]]`
    """
    x = _matrices(x)
    penalty = per_matrix(parameter(penalty, x, "penalty"), x, "penalty")

    def kept(eigenvalues: Any) -> Any:
        return ops.abs(eigenvalues) > ops.sqrt(2.0 * ops.stop_gradient(penalty))

    def values(eigenvalues: Any) -> Any:
        return ops.where(kept(eigenvalues), eigenvalues, 0.0 * penalty)

    def quotients(eigenvalues: Any, found: Any) -> Any:
        rows, columns = ops.expand_dims(eigenvalues, -1), ops.expand_dims(eigenvalues, -2)
        in_rows, in_columns = ops.expand_dims(found, -1), ops.expand_dims(found, -2)
        equal = ops.equal(rows, columns)
        distance = ops.where(equal, ops.ones_like(rows - columns), rows - columns)
        keep = kept(eigenvalues)
        both = ops.logical_and(ops.expand_dims(keep, -1), ops.expand_dims(keep, -2))
        quotient = (in_rows - in_columns) / distance
        return ops.where(both, ops.ones_like(quotient), quotient)

    return singular_function(x, values, quotients)


def project_psd(x: Any) -> Any:
    """Return the positive semidefinite matrix that is nearest to a symmetric one.

    Negative eigenvalues become 0.

    Args:
        x: (..., n, n) float, symmetric.

    Returns:
        The shape of x. Differentiable, repeated eigenvalues included.

    Raises:
        ValueError: x is not finite, not square or not symmetric.

    Example:
        `project_psd([[1.0, 0.0], [0.0, -2.0]])  # [[1, 0], [0, 0]]`
    """
    x = as_float(x)
    check_symmetric(x)
    return spectral_function(
        x,
        lambda eigenvalues: ops.maximum(eigenvalues, 0.0),
        lambda eigenvalues, found: quotients_of_positive_part(eigenvalues),
    )


def prox_neg_logdet(
    x: Any,
    step: Any = 1.0,
    *,
    trace: Any = None,
    nuclear: Any = 0.0,
    frobenius: Any = 0.0,
    sigma2: Any = 0.0,
) -> Any:
    """Return the proximal operator of -log det C and the terms that come with it.

        argmin over C > 0 of 1/2 ||C - X||^2 + step (
            -log det C + log det(I + sigma2 C) - tr(T C) + nuclear tr C + frobenius/2 ||C||^2)

    Benfenati, Chouzenoux and Pesquet, Signal Processing 169 (2020): the eigenvectors of X + step T,
    and for each eigenvalue, of either sign, the positive root of a quadratic, or of a cubic where
    sigma2 > 0. On positive matrices the nuclear norm is the trace.

    Args:
        x: (..., n, n) float, symmetric.
        step: above 0: a number, or one for each matrix, as for the other numbers.
        trace: T, symmetric, broadcast to x; for a covariance S, T = -S. None for 0.
        nuclear: 0 or above.
        frobenius: 0 or above.
        sigma2: variance of the noise, 0 or above.

    Returns:
        Positive definite, the shape of x. Differentiable in all arguments, repeated eigenvalues
        included.

    Raises:
        ValueError: something is not finite, negative or not symmetric, or shapes do not go
            together.

    Example:
        `prox_neg_logdet([[0.0, 0.0], [0.0, 1.5]], 1.0)  # [[1, 0], [0, 2]]`
    """
    x = as_float(x)
    check_symmetric(x)
    step = parameter(step, x, "step", positive=True)
    step_of_values = per_matrix(step, x, "step")
    if trace is not None:
        trace = finite(matching(trace, x, "trace"), "trace")
        check_symmetric(trace, "trace")
        check_broadcast(trace, tuple(x.shape), "trace")
        wide = ops.expand_dims(step_of_values, -1) if len(step_of_values.shape) else step_of_values
        x = x + wide * trace
    numbers = {"nuclear": nuclear, "frobenius": frobenius, "sigma2": sigma2}
    more = {k: per_matrix(parameter(v, x, k), x, k) for k, v in numbers.items()}
    noisy = not isinstance(sigma2, (int, float)) or sigma2 > 0
    terms = (step_of_values, more["nuclear"], more["frobenius"], more["sigma2"] if noisy else None)
    return spectral_function(
        x,
        lambda eigenvalues: negative_log(eigenvalues, *terms),
        lambda eigenvalues, found: negative_log_quotients(found, *terms),
    )


def _matrices(x: Any) -> Any:
    x = as_float(x)
    if len(x.shape) < 2:
        raise ValueError(f"`x` must be a matrix or a batch of them. Received: shape {x.shape}")
    return x
