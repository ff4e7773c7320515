"""The fit of a sparse precision matrix to a noisy covariance: value, derivatives, certificate.

    F(C) = -log det C + log det(I + s C) + tr((I + s C)^-1 C S) + n tr C + sum L |C|

All matrices are (batch, p, p) and symmetric, the numbers s and n are (batch, 1, 1). With s = 0 this
is the graphical lasso.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._spectral import transpose


class Problem(NamedTuple):
    """The data of F.

    Attributes:
        covariance: S.
        sigma2: s, variance of the noise, or None for 0, which saves its terms.
        nuclear: n, weight of the trace.
        l1: L, weights of the entries.
    """

    covariance: Any
    sigma2: Any
    nuclear: Any
    l1: Any


class Spectrum(NamedTuple):
    """Eigenvalues (batch, p) and eigenvectors of a matrix C."""

    values: Any
    vectors: Any


def spectrum(matrix: Any) -> Spectrum:
    """Return the eigendecomposition of a symmetric matrix."""
    return Spectrum(*ops.eigh((matrix + transpose(matrix)) / 2.0))


def rebuilt(values: Any, vectors: Any) -> Any:
    """Return the matrix with these eigenvalues and eigenvectors."""
    return ops.matmul(vectors * ops.expand_dims(values, -2), transpose(vectors))


def identity_like(matrix: Any) -> Any:
    """Return I, (p, p), in the type of a matrix."""
    return ops.eye(matrix.shape[-1], dtype=matrix.dtype)


def shrinkage(problem: Problem, of: Spectrum) -> Any:
    """Return M = (I + s C)^-1, or I where there is no noise."""
    if problem.sigma2 is None:
        return identity_like(of.vectors) + ops.zeros_like(of.vectors)
    return rebuilt(1.0 / (1.0 + problem.sigma2[..., 0] * of.values), of.vectors)


def linearized(problem: Problem, of: Spectrum) -> Any:
    """Return M S M, the gradient of the concave trace term."""
    if problem.sigma2 is None:
        return problem.covariance
    return rotated_by(shrinkage(problem, of), problem.covariance)


def rotated_by(outer: Any, inner: Any) -> Any:
    """Return A B A of symmetric matrices."""
    return ops.matmul(ops.matmul(outer, inner), outer)


def objective(problem: Problem, matrix: Any, of: Spectrum) -> Any:
    """Return F (batch,), infinite where C is not positive definite."""
    values = ops.where(of.values > 0, of.values, ops.ones_like(of.values))
    terms = -ops.log(values) + problem.nuclear[..., 0] * values
    fit = problem.covariance
    if problem.sigma2 is not None:
        terms = terms + ops.log(1.0 + problem.sigma2[..., 0] * values)
        fit = ops.matmul(shrinkage(problem, of), fit)
    value = ops.sum(terms, -1) + ops.sum(fit * matrix + problem.l1 * ops.abs(matrix), (-2, -1))
    outside = ops.any(of.values <= 0, axis=-1)
    return ops.where(outside, ops.full_like(value, float("inf")), value)


def smooth_gradient(problem: Problem, of: Spectrum) -> Any:
    """Return the gradient of F without its l1 term."""
    inverse = rebuilt(1.0 / of.values, of.vectors)
    gradient = linearized(problem, of) - inverse + problem.nuclear * identity_like(inverse)
    if problem.sigma2 is None:
        return gradient
    return gradient + problem.sigma2 * shrinkage(problem, of)


def subgradient_distance(problem: Problem, matrix: Any, gradient: Any) -> Any:
    """Return the distance of 0 from the subdifferential of F at C, entry by entry."""
    on_support = ops.abs(gradient + problem.l1 * ops.sign(matrix))
    beside = ops.maximum(ops.abs(gradient) - problem.l1, 0.0)
    return ops.where(ops.equal(matrix, 0.0), beside, on_support)


def curvature(problem: Problem, of: Spectrum, direction: Any) -> Any:
    """Return the second derivative of the smooth part of F along a symmetric direction."""
    inverse = rebuilt(1.0 / of.values, of.vectors)
    bent = rotated_by(inverse, direction)
    if problem.sigma2 is None:
        return bent
    shrink, s = shrinkage(problem, of), problem.sigma2
    fit = rotated_by(shrink, problem.covariance)
    turned = ops.matmul(ops.matmul(shrink, direction), fit)
    return bent - s * s * rotated_by(shrink, direction) - s * (turned + transpose(turned))


def pulled_back(problem: Problem, matrix: Any, of: Spectrum, w: Any) -> Problem:
    """Return the derivatives of -<w, gradient of F> to the data, w symmetric, C fixed.

    With w = H^-1 v on the support these are the derivatives of <v, C> (implicit function theorem).
    """
    shrink = shrinkage(problem, of)
    trace = ops.sum(w * identity_like(w), axis=(-2, -1), keepdims=True)
    if problem.sigma2 is None:
        return Problem(-w, None, -trace, -w * ops.sign(matrix))
    s, inner = problem.sigma2, rotated_by(shrink, matrix)
    fit = rotated_by(shrink, problem.covariance)
    across = 2.0 * ops.matmul(ops.matmul(shrink, matrix), fit)
    noise = ops.sum(w * (shrink - s * inner - across), axis=(-2, -1), keepdims=True)
    return Problem(-rotated_by(shrink, w), -noise, -trace, -w * ops.sign(matrix))


def dual_gap(problem: Problem, matrix: Any, of: Spectrum) -> Any:
    """Return the duality gap (batch,) of the graphical lasso at C; NaN with noise.

    The dual point is C^-1 moved into the box |W - S - n I| <= L; the gap is infinite where that is
    not positive definite.
    """
    if problem.sigma2 is not None:
        return ops.full_like(of.values[..., 0], float("nan"))
    centre = problem.covariance + problem.nuclear * identity_like(matrix)
    inverse = rebuilt(1.0 / of.values, of.vectors)
    dual = spectrum(centre + ops.clip(inverse - centre, -problem.l1, problem.l1)).values
    logs = ops.log(ops.where(dual > 0, dual, ops.ones_like(dual)))
    value = ops.sum(logs, axis=-1) + matrix.shape[-1]
    gap = objective(problem, matrix, of) - value
    return ops.where(ops.any(dual <= 0, axis=-1), ops.full_like(gap, float("inf")), gap)
