"""Krylov solvers with short recurrences: conjugate gradients, BiCGStab, normal equations.

Each item of the batch has its own step lengths and stops by itself: an item that has converged is
frozen, so that nothing divides zero by zero.
"""

from __future__ import annotations

from typing import Any

from keras import backend, ops

from keras_robustseg.optimize._info import LinearInfo
from keras_robustseg.optimize._linear import (
    TINY,
    Matvec,
    System,
    dot,
    epsilon,
    finish,
    loop,
    norm,
    system,
)


def _over(numerator: Any, denominator: Any, where: Any) -> Any:
    """Return a quotient where it is asked for, 0 elsewhere."""
    safe = ops.where(where, denominator, ops.ones_like(denominator))
    return ops.where(where, numerator / safe, ops.zeros_like(numerator))


def _unsolved(r: Any, problem: System) -> Any:
    return norm(r) > problem.tol * problem.size


def _counter(like: Any) -> Any:
    return ops.zeros_like(like, dtype="int32")


def cg(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    batch_axes: int | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve A x = b for symmetric positive (semi)definite A by conjugate gradients.

    Hestenes and Stiefel 1952. Where A is singular and b in its range, the answer from x0 = 0 has
    the smallest norm. Where b is not in its range, or A is not positive, the item ends SINGULAR
    with its last sound iterate; `normal_cg` gives the least squares answer.

    Args:
        matvec: x -> A x, of the shape of `b`, linear, items of the batch apart.
        b: right-hand sides, (n,) or (batch, ...), float32 or float64.
        x0: first iterate, of the shape of `b`; 0 by default.
        tol: relative residual ||b - A x|| / ||b|| to reach; 1e-6 in float32, 1e-12 in float64.
        max_iterations: bound on the number of steps.
        batch_axes: how many leading axes number separate systems; by default one, none for a
            vector. Give 0 where all of `b` is one system.

    Returns:
        The answer, of the shape of `b`, and `LinearInfo` with one figure per system.

    Raises:
        ValueError: input that is not finite, or whose shapes or types do not match.

    Example:
        >>> x, info = cg(lambda v: v * [2.0, 4.0], [2.0, 2.0])  # [1.0, 0.5]
    """
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    return _conjugate_gradients(problem, max_iterations)


def _conjugate_gradients(problem: System, max_iterations: int) -> tuple[Any, LinearInfo]:
    rounding = epsilon(problem.b)
    r = problem.b - problem.matvec(problem.x0)
    zero = ops.zeros_like(problem.size)
    false = zero > 0

    def active(x: Any, r: Any, p: Any, ap: Any, beta: Any, top: Any, broken: Any, k: Any) -> Any:
        return ops.logical_and(_unsolved(r, problem), ops.logical_not(broken))

    def step(
        x: Any, r: Any, p: Any, ap: Any, beta: Any, top: Any, broken: Any, k: Any
    ) -> tuple[Any, ...]:
        go = active(x, r, p, ap, beta, top, broken, k)
        ar_before = beta * ap
        p = ops.where(go, r + beta * p, p)
        ap = ops.where(go, problem.matvec(p), ap)
        rr, curvature, length = dot(r, r), dot(p, ap), dot(p, p)
        top = ops.maximum(top, ops.abs(curvature) / ops.maximum(length, TINY))
        flat = curvature <= 4.0 * rounding * top * length
        alpha = _over(rr, curvature, ops.logical_and(go, ops.logical_not(flat)))
        r_next = r - alpha * ap
        # A residual that A sends to 0, and that a step does not shrink, is outside the range of A.
        outside = norm(ap - ar_before) <= rounding**0.5 * top * norm(r)
        stuck = ops.logical_and(outside, dot(r_next, r_next) > 0.25 * rr)
        fails = ops.logical_and(go, ops.logical_or(flat, stuck))
        moves = ops.logical_and(go, ops.logical_not(fails))
        beta = ops.where(moves, _over(dot(r_next, r_next), rr, moves), beta)
        x = ops.where(moves, x + alpha * p, x)
        r = ops.where(moves, r_next, r)
        return x, r, p, ap, beta, top, ops.logical_or(broken, fails), k + ops.cast(go, "int32")

    nothing = ops.zeros_like(r)
    state = (problem.x0, r, nothing, nothing, zero, zero, false, _counter(zero))
    x, *_, broken, k = loop(active, step, state, max_iterations)
    return finish(problem, x, k, broken, best=problem.x0)


def bicgstab(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    batch_axes: int | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve A x = b for any invertible A, with the memory of a few vectors.

    Van der Vorst 1992. Two applications of A per step. A breakdown of the recurrence ends the item
    as SINGULAR with its best iterate; `gmres` breaks down only where A is singular.

    Args, Returns and Raises are those of `cg`.

    Example:
        >>> x, info = bicgstab(lambda v: ops.matmul(v, ops.transpose(a)), b)
    """
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    rounding = epsilon(problem.b)
    shadow = problem.b - problem.matvec(problem.x0)
    one = ops.ones_like(problem.size)

    def active(x: Any, r: Any, p: Any, v: Any, last: Any, best: Any, broken: Any, k: Any) -> Any:
        return ops.logical_and(_unsolved(r, problem), ops.logical_not(broken))

    def step(
        x: Any, r: Any, p: Any, v: Any, last: Any, best: Any, broken: Any, k: Any
    ) -> tuple[Any, ...]:
        go = active(x, r, p, v, last, best, broken, k)
        rho_before, alpha, omega = last[:, :1], last[:, 1:2], last[:, 2:]
        rho = dot(shadow, r)
        lost = ops.abs(rho) <= rounding * norm(shadow) * norm(r)
        beta = _over(rho * alpha, rho_before * omega, ops.logical_and(go, rho_before * omega != 0))
        p = ops.where(go, r + beta * (p - omega * v), p)
        v = ops.where(go, problem.matvec(p), v)
        along = dot(shadow, v)
        lost = ops.logical_or(lost, ops.abs(along) <= rounding * norm(shadow) * norm(v))
        sound = ops.logical_and(go, ops.logical_not(lost))
        alpha = _over(rho, along, sound)
        s = r - alpha * v
        t = problem.matvec(s)
        omega = _over(dot(t, s), dot(t, t), ops.logical_and(sound, dot(t, t) > 0))
        x = ops.where(sound, x + alpha * p + omega * s, x)
        r = ops.where(sound, s - omega * t, r)
        better = ops.logical_and(sound, norm(r) < 0.99 * best[:, :1])
        best = ops.where(better, ops.concatenate([norm(r), x], axis=1), best)
        dead = ops.logical_and(sound, ops.logical_and(omega == 0, _unsolved(r, problem)))
        broken = ops.logical_or(broken, ops.logical_or(ops.logical_and(go, lost), dead))
        last = ops.where(sound, ops.concatenate([rho, alpha, omega], axis=1), last)
        return x, r, p, v, last, best, broken, k + 2 * ops.cast(go, "int32")

    nothing = ops.zeros_like(shadow)
    best = ops.concatenate([norm(shadow), problem.x0], axis=1)
    last = ops.concatenate([one, one, one], axis=1)
    start = (problem.x0, shadow, nothing, nothing, last, best, one < 0, _counter(one))
    x, r, _, _, _, best, broken, k = loop(active, step, start, max_iterations)
    return finish(problem, ops.where(_unsolved(r, problem), best[:, 1:], x), k, broken)


def transposed(matvec: Matvec, like: Any) -> Matvec:
    """Return x -> A^T x of a linear x -> A x, by automatic differentiation (TensorFlow)."""
    if backend.backend() != "tensorflow":
        raise ValueError("`rmatvec`, x -> A^T x, must be given on backends other than TensorFlow.")
    import tensorflow as tf

    zero = tf.zeros_like(like)

    def rmatvec(y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(zero)
            image = matvec(zero)
        return tape.gradient(
            image, zero, output_gradients=y, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    return rmatvec


def normal_cg(
    matvec: Matvec,
    b: Any,
    x0: Any = None,
    tol: float | None = None,
    max_iterations: int = 1000,
    batch_axes: int | None = None,
    rmatvec: Matvec | None = None,
) -> tuple[Any, LinearInfo]:
    """Solve min_x ||A x - b|| by conjugate gradients on A^T A x = A^T b (CGLS).

    For any square A, singular or not; from x0 = 0 the answer has the smallest norm. The condition
    number is squared: prefer `gmres` where A is far from singular. An item whose residual does not
    vanish although its gradient A^T (b - A x) does has no solution: SINGULAR, with the least
    squares answer.

    Args:
        matvec, b, x0, tol, max_iterations, batch_axes: as for `cg`.
        rmatvec: x -> A^T x; by default found by automatic differentiation (TensorFlow only).

    Returns and Raises are those of `cg`.

    Example:
        >>> x, info = normal_cg(lambda v: ops.matmul(a, v), b)
    """
    problem = system(matvec, b, x0, tol, max_iterations, batch_axes)
    turn = transposed(matvec, ops.convert_to_tensor(b)) if rmatvec is None else rmatvec
    back = system(turn, b, x0, tol, max_iterations, batch_axes).matvec
    r = problem.b - problem.matvec(problem.x0)
    s = back(r)
    # The gradient cannot be told from rounding below these.
    floor = epsilon(r) * norm(back(problem.b)) * 4.0
    rounding = epsilon(r) ** 0.75

    def active(x: Any, r: Any, s: Any, p: Any, reach: Any, still: Any, k: Any) -> Any:
        return ops.logical_and(_unsolved(r, problem), ops.logical_not(still))

    def step(x: Any, r: Any, s: Any, p: Any, reach: Any, still: Any, k: Any) -> tuple[Any, ...]:
        go = active(x, r, s, p, reach, still, k)
        q = problem.matvec(p)
        ss, qq = dot(s, s), dot(q, q)
        sound = ops.logical_and(go, ops.logical_and(qq > 0, norm(s) > floor))
        alpha = _over(ss, qq, sound)
        x = x + alpha * p
        r = r - alpha * q
        s = ops.where(sound, back(r), s)
        reach = ops.maximum(reach, ops.sqrt(qq / ops.maximum(dot(p, p), TINY)))
        p = ops.where(sound, s + _over(dot(s, s), ss, sound) * p, p)
        quiet = norm(s) <= ops.maximum(floor, rounding * reach * norm(r))
        stops = ops.logical_or(ops.logical_and(go, ops.logical_not(sound)), quiet)
        return x, r, s, p, reach, ops.logical_or(still, stops), k + 2 * ops.cast(go, "int32")

    one = ops.ones_like(problem.size)
    state = (problem.x0, r, s, s, 0.0 * one, one < 0, _counter(one))
    x, *_, still, k = loop(active, step, state, max_iterations)
    return finish(problem, x, k, still)
