"""GMRES with restarts, batched: every item has its own Krylov basis."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.optimize._info import LinearInfo
from keras_robustseg.optimize._linear import (
    TINY,
    Matvec,
    System,
    check_positive,
    epsilon,
    finish,
    loop,
    norm,
    system,
)


def gmres(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    restart: int = 30,
    batch_axes: int | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve A x = b for any invertible A by the generalised minimal residual method.

    Saad and Schultz 1986. The residual never grows. Where A is singular and b outside its range,
    the basis ends before the residual does: SINGULAR, with the best iterate.

    Args:
        matvec, b, x0, tol, batch_axes: as for `cg`.
        max_iterations: bound on applications of A, rounded up to a whole number of cycles.
        restart: size of the basis; with as many as there are unknowns, the answer is exact.

    Returns and Raises are those of `cg`.

    Example:
        >>> x, info = gmres(lambda v: ops.matmul(a, v), b, restart=20)
    """
    check_positive(restart=restart)
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    size = min(int(restart), int(problem.b.shape[-1]), int(max_iterations))
    cycles = -(-int(max_iterations) // size)

    def active(x: Any, length: Any, stuck: Any, singular: Any, k: Any) -> Any:
        return ops.logical_and(length > problem.tol * problem.size, ops.logical_not(stuck))

    def cycle(x: Any, length: Any, stuck: Any, singular: Any, k: Any) -> tuple[Any, ...]:
        go = active(x, length, stuck, singular, k)
        r = problem.b - problem.matvec(x)
        basis, h, ended, used = _arnoldi(problem, r, go, size)
        step = ops.einsum("jbn,bj->bn", basis[:-1], _least_squares(h, norm(r)))
        trial = ops.where(go, x + step, x)
        after = norm(problem.b - problem.matvec(trial))
        shrinks = after < length * (1.0 - 8.0 * epsilon(x))
        moves = ops.logical_and(go, shrinks)
        x, length = ops.where(moves, trial, x), ops.where(moves, after, length)
        stops = ops.logical_and(go, ops.logical_not(shrinks))
        singular = ops.logical_or(singular, ops.logical_and(go, ended))
        return x, length, ops.logical_or(stuck, stops), singular, k + used

    length = norm(problem.b - problem.matvec(problem.x0))
    false = problem.size < 0
    counter = ops.zeros_like(problem.size, dtype="int32")
    state = (problem.x0, length, false, false, counter)
    x, _, _, singular, k = loop(active, cycle, state, cycles)
    return finish(problem, x, k, singular)


def _arnoldi(problem: System, r: Any, go: Any, size: int) -> tuple[Any, Any, Any, Any]:
    """Return basis (size + 1, items, n), Hessenberg matrix (items, size + 1, size), and more.

    The third is whether the basis ended early (its space is mapped into itself), the fourth how
    many applications of A each item needed. Items that need no more get zero vectors.
    """
    items = ops.shape(r)[0]
    beta = ops.maximum(norm(r), TINY)
    first = ops.where(go, r / beta, ops.zeros_like(r))
    basis = ops.concatenate([first[None], ops.zeros((size, *ops.shape(r)), r.dtype)], axis=0)
    rows = ops.zeros((size, items, size + 1), r.dtype)
    # u is orthogonal to the columns of H: the residual is beta / ||u||, known before the solve.
    u = ops.one_hot(ops.zeros((items,), "int32"), size + 1, dtype=r.dtype)
    rounding = epsilon(r)

    def open_items(j: Any, basis: Any, rows: Any, u: Any, ended: Any, used: Any) -> Any:
        unsolved = beta / norm(u) > 0.5 * problem.tol * problem.size
        return ops.logical_and(ops.logical_and(go, unsolved), ops.logical_not(ended))

    def step(j: Any, basis: Any, rows: Any, u: Any, ended: Any, used: Any) -> tuple[Any, ...]:
        live = open_items(j, basis, rows, u, ended, used)
        v = ops.squeeze(ops.slice(basis, (j, 0, 0), (1, *ops.shape(r))), axis=0)
        w = ops.where(live, problem.matvec(v), ops.zeros_like(v))
        before = norm(w)
        h = ops.einsum("jbn,bn->bj", basis, w)
        w = w - ops.einsum("jbn,bj->bn", basis, h)
        again = ops.einsum("jbn,bn->bj", basis, w)
        w, h = w - ops.einsum("jbn,bj->bn", basis, again), h + again
        below = norm(w)
        ends = below <= 16.0 * rounding * before
        goes_on = ops.logical_and(live, ops.logical_not(ends))
        below_safe = ops.where(goes_on, below, ops.ones_like(below))
        new = ops.where(goes_on, w / below_safe, ops.zeros_like(w))
        at = ops.one_hot(j + 1, size + 1, dtype=r.dtype)
        basis = ops.slice_update(basis, (j + 1, 0, 0), new[None])
        following = ops.where(goes_on, -ops.sum(u * h, axis=-1, keepdims=True) / below_safe, 0.0)
        h = h + ops.where(goes_on, below, ops.zeros_like(below)) * at
        rows = ops.slice_update(rows, (j, 0, 0), ops.where(live, h, ops.zeros_like(h))[None])
        ended = ops.logical_or(ended, ops.logical_and(live, ends))
        return j + 1, basis, rows, u + following * at, ended, used + ops.cast(live, "int32")

    counter = ops.zeros_like(beta, dtype="int32")
    state = (ops.zeros((), "int32"), basis, rows, u, beta < 0, counter)
    _, basis, rows, _, ended, used = loop(open_items, step, state, size)
    return basis, ops.transpose(rows, (1, 2, 0)), ended, used


def _least_squares(h: Any, beta: Any) -> Any:
    """Return the y of least ||beta e1 - H y||, 0 in the directions that H does not see."""
    q, r = ops.qr(h)
    diagonal = ops.abs(ops.diagonal(r, axis1=-2, axis2=-1))
    rank_floor = 64.0 * epsilon(h) * ops.max(diagonal, axis=-1, keepdims=True)
    seen = diagonal > ops.maximum(rank_floor, TINY)
    right = ops.where(seen, beta * q[:, 0, :], ops.zeros_like(diagonal))
    mask = ops.cast(seen, h.dtype)
    eye = ops.eye(int(h.shape[-1]), dtype=h.dtype)
    r = r * mask[:, :, None] * mask[:, None, :] + eye * (1.0 - mask)[:, :, None]
    return ops.squeeze(ops.solve_triangular(r, right[..., None], lower=False), axis=-1)
