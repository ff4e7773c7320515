"""Sparse inverse covariance matrices: the graphical lasso, and its robust form for noisy data."""

from __future__ import annotations

from typing import Any

from keras import backend, ops

from keras_robustseg.optimize._first_order import with_derivative
from keras_robustseg.optimize._in_graph import in_graph
from keras_robustseg.optimize._info import SolveInfo, Status, warn_unless_ok
from keras_robustseg.optimize._krylov import cg
from keras_robustseg.optimize._linear import check_positive
from keras_robustseg.optimize._precision_model import (
    Problem,
    curvature,
    dual_gap,
    identity_like,
    pulled_back,
    smooth_gradient,
    spectrum,
)
from keras_robustseg.optimize._precision_solve import minimised
from keras_robustseg.optimize._prox_input import (
    as_float,
    check_symmetric,
    check_where_read,
    parameter,
    per_group,
)
from keras_robustseg.optimize._spectral import transpose

# As the solvers can reach it in either precision.
_TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
_INNER_ITERATIONS = 2000
_ADJOINT_ITERATIONS = 4000


def robust_precision(
    S: Any,
    sigma2: Any,
    nuclear: Any,
    l1: Any,
    *,
    penalize_diagonal: bool = False,
    tol: float | None = None,
    max_iterations: int = 200,
) -> tuple[Any, SolveInfo]:
    """Estimate a sparse precision matrix C from the covariance S of data with noise sigma2 I.

        minimise over C > 0 of  log det(C^-1 + sigma2 I) + tr((I + sigma2 C)^-1 C S)
                                + nuclear tr C + sum of l1 |C_ij| over i != j

    Benfenati, Chouzenoux and Pesquet, Signal Processing 169 (2020). The trace term is concave: a
    majorise-minimise step replaces it by its tangent, and Douglas-Rachford solves the convex
    problem that is left. The objective falls with each step and the answer is a critical point;
    with sigma2 = 0 it is the graphical lasso.

    The derivative is implicit, on the support of C. It is of first order.

    Args:
        S: (..., p, p) covariance of the data as they were seen; all leading axes are a batch.
        sigma2: variance of the noise, 0 or above: a number, or one for each matrix.
        nuclear: weight of the trace (the nuclear norm), 0 or above: a number or one for each.
        l1: weight of the off-diagonal entries, 0 or above: a number, one for each matrix, or a
            symmetric matrix (..., p, p) of weights.
        penalize_diagonal: whether l1 is on the diagonal too.
        tol: distance of 0 from the subdifferential, over the mean variance, at which to stop; 1e-9
            for float64 and 1e-4 for float32.
        max_iterations: bound on the majorise-minimise steps.

    Returns:
        C (..., p, p), with exact zeros and symmetric, differentiable in S, sigma2, nuclear and l1;
        and `SolveInfo` with one figure per matrix: `residual` is the largest entry of the distance
        of 0 from the subdifferential, `duality_gap` is there for sigma2 = 0, `kink_margin` is the
        least of (l1 - |gradient|) / variance beside the support and |C_ij| / mean C_ii on it.

    Raises:
        ValueError: S is not finite, not symmetric or has a negative variance, a parameter is
            negative, or shapes do not go together.

    Example:
        `C, info = robust_precision(np.cov(features.T), sigma2=0.1, nuclear=0.0, l1=0.05)`
    """
    S = as_float(S, "S")
    check_symmetric(S, "S")
    variances = ops.diagonal(S, axis1=-2, axis2=-1)
    message = "`S` must be a covariance. Received: a negative number on the diagonal of S"
    check_where_read(variances >= 0, message)
    check_positive(tol=tol, max_iterations=max_iterations)
    problem = _problem(S, sigma2, nuclear, l1, penalize_diagonal)
    tol = tol or _TOLERANCES[backend.standardize_dtype(S.dtype)]
    answer, info = _solved(problem, tol, max_iterations)
    batch = tuple(S.shape[:-2])
    info = SolveInfo(*(ops.reshape(each, batch) for each in info))
    warn_unless_ok(info, "robust_precision")
    return ops.reshape(answer, ops.shape(S)), info


def graphical_lasso(
    S: Any,
    l1: Any,
    *,
    penalize_diagonal: bool = False,
    tol: float | None = None,
    max_iterations: int = 200,
) -> tuple[Any, SolveInfo]:
    """Estimate a sparse precision matrix C from a covariance S.

        minimise over C > 0 of  -log det C + tr(S C) + sum of l1 |C_ij| over i != j

    Friedman, Hastie and Tibshirani, Biostatistics 9 (2008): `robust_precision` without noise, which
    is convex, so the certificate has a duality gap.

    Args:
        S: (..., p, p) covariance; all leading axes are a batch.
        l1: weight of the off-diagonal entries, 0 or above: a number, one for each matrix, or a
            symmetric matrix (..., p, p) of weights.
        penalize_diagonal: whether l1 is on the diagonal too.
        tol: as for `robust_precision`.
        max_iterations: bound on the rounds of Douglas-Rachford steps.

    Returns:
        C (..., p, p), differentiable in S and l1, and `SolveInfo`; see `robust_precision`.

    Raises:
        ValueError: as for `robust_precision`.

    Example:
        `C, info = graphical_lasso(np.cov(features.T), l1=0.05)`
    """
    return robust_precision(
        S,
        0.0,
        0.0,
        l1,
        penalize_diagonal=penalize_diagonal,
        tol=tol,
        max_iterations=max_iterations,
    )


def _problem(S: Any, sigma2: Any, nuclear: Any, l1: Any, penalize_diagonal: bool) -> Problem:
    """The data of the model with one batch axis."""
    size = S.shape[-1]
    flat = ops.reshape((S + transpose(S)) / 2.0, (-1, size, size))
    noisy = not isinstance(sigma2, (int, float)) or sigma2 != 0

    def number(value: Any, name: str) -> Any:
        value = per_group(parameter(value, S, name), S, (-2, -1), name)
        return ops.reshape(ops.broadcast_to(value, (*S.shape[:-2], 1, 1)), (-1, 1, 1))

    weights = parameter(l1, S, "l1")
    if tuple(weights.shape[-2:]) == (size, size):
        check_symmetric(weights, "l1")
        weights = ops.reshape(ops.broadcast_to(weights, ops.shape(S)), ops.shape(flat))
    else:
        weights = number(l1, "l1") * ops.ones_like(flat)
    if not penalize_diagonal:
        weights = weights * (1.0 - identity_like(flat))
    noise = number(sigma2, "sigma2") if noisy else None
    return Problem(flat, noise, number(nuclear, "nuclear"), weights)


def _solved(problem: Problem, tol: float, max_iterations: int) -> tuple[Any, SolveInfo]:
    fixed = Problem(*(None if each is None else ops.stop_gradient(each) for each in problem))
    variances = ops.diagonal(fixed.covariance, axis1=-2, axis2=-1)
    scale = ops.mean(variances, axis=-1)[:, None, None]
    scale = ops.where(scale > 0, scale, ops.ones_like(scale))
    scaled = Problem(*(None if each is None else each / scale for each in fixed))
    answer, relative, steps = in_graph(minimised, scaled, tol, max_iterations, _INNER_ITERATIONS)
    relative, steps = ops.stop_gradient(relative), ops.stop_gradient(steps)
    answer = ops.stop_gradient(answer / scale)
    info = _certificate(fixed, answer, relative, steps, scale, tol)
    given = tuple(each for each in problem if each is not None)
    return with_derivative(answer, given, lambda v: _adjoint(fixed, answer, v)), info


def _certificate(
    problem: Problem, answer: Any, relative: Any, steps: Any, scale: Any, tol: float
) -> SolveInfo:
    of = spectrum(answer)
    scale = scale[:, 0, 0]
    beside = (problem.l1 - ops.abs(smooth_gradient(problem, of))) / scale[:, None, None]
    diagonal = ops.mean(ops.diagonal(answer, axis1=-2, axis2=-1), axis=-1)
    margins = ops.where(ops.equal(answer, 0.0), beside, ops.abs(answer) / diagonal[:, None, None])
    free = ops.full_like(margins, float("inf"))
    margin = ops.min(ops.where(problem.l1 > 0, margins, free), axis=(-2, -1))
    status = ops.where(margin < 10.0 * tol, int(Status.NEAR_KINK), int(Status.OK))
    status = ops.where(relative <= tol, status, int(Status.NOT_CONVERGED))
    status = ops.where(ops.isfinite(relative), status, int(Status.DIVERGED))
    return SolveInfo(
        status=ops.cast(status, "int32"),
        iterations=steps,
        residual=relative * scale,
        relative_residual=relative,
        duality_gap=dual_gap(problem, answer, of),
        active_set_changes=ops.full_like(steps, -1),
        kink_margin=margin,
        contraction=ops.full_like(relative, float("nan")),
        adjoint_residual=ops.full_like(relative, float("nan")),
    )


def _adjoint(problem: Problem, answer: Any, v: Any) -> tuple[Any, ...]:
    """J^T v: the Hessian on the support is solved, by conjugate gradients."""
    of = spectrum(answer)
    support = ops.cast(ops.not_equal(answer, 0.0), answer.dtype)
    right = support * (v + transpose(v)) / 2.0

    def hessian(direction: Any) -> Any:
        return support * curvature(problem, of, support * direction)

    w, _ = cg(hessian, right, max_iterations=_ADJOINT_ITERATIONS, batch_axes=1)
    derivatives = pulled_back(problem, answer, of, w)
    return tuple(each for each in derivatives if each is not None)
