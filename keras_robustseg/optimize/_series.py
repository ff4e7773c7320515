"""Linear solvers that iterate x + (b - A x): the Neumann series and Anderson mixing of it."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._info import LinearInfo
from keras_robustseg.optimize._iterate import (
    AndersonIteration,
    FixedPointIteration,
    Iteration,
    iterate,
)
from keras_robustseg.optimize._linear import Matvec, System, finish, norm, system


def neumann(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    batch_axes: int | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve A x = b by the Neumann series x = sum_j (I - A)^j b.

    It converges only where the spectral radius of I - A is below 1; otherwise the item ends
    DIVERGED. With `max_iterations=k` and a small `tol` it is the series cut after k + 1 terms.

    Args, Returns and Raises are those of `cg`.

    Example:
        >>> x, info = neumann(lambda v: 0.5 * v, [1.0, 2.0])  # [2.0, 4.0]
    """
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    rule = FixedPointIteration(tol=problem.tol, max_iterations=max_iterations)
    return _richardson(problem, rule, ops.ones_like(problem.size))


def anderson(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    memory: int = 10,
    batch_axes: int | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve A x = b by Anderson mixing of the iteration x + h (b - A x).

    Walker and Ni 2011; close to GMRES with a moving window. The step h is ||r|| / ||A r|| of the
    first residual r.

    Args:
        matvec, b, x0, tol, max_iterations, batch_axes: as for `cg`.
        memory: how many points are mixed.

    Returns and Raises are those of `cg`.

    Example:
        >>> x, info = anderson(lambda v: v * [2.0, 4.0], [2.0, 2.0])  # [1.0, 0.5]
    """
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    rule = AndersonIteration(tol=problem.tol, max_iterations=max_iterations, memory=memory)
    r = problem.b - problem.matvec(problem.x0)
    image = norm(problem.matvec(r))
    known = ops.logical_and(image > 0, ops.isfinite(image))
    step = norm(r) / ops.where(known, image, ops.ones_like(image))
    return _richardson(problem, rule, ops.where(known, step, ops.ones_like(step)))


def _richardson(problem: System, rule: Iteration, step: Any) -> tuple[Any, LinearInfo]:
    def mapping(x: Any) -> Any:
        return x + step * (problem.b - problem.matvec(x))

    state = iterate(rule, mapping, problem.x0, size=step * problem.size)
    return finish(problem, state.x, state.k, state.k < 0, best=state.tx)
