"""Fixed-point iterations on a batch: plain, relaxed, with momentum, Anderson mixing.

They work on one tensor (items, unknowns); `fixed_point` packs structures of tensors into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_robustseg.optimize._info import SolveInfo, Status
from keras_robustseg.optimize._linear import TINY, check_positive, default_tol, dot, epsilon, norm

Map = Callable[[Any], Any]
# Iterations over which changes of the active set are counted.
WINDOW = 10


class State(NamedTuple):
    """Where an iteration stands, each figure (items, 1), points (items, unknowns).

    Attributes:
        x: point.
        tx: T(x), the better point of the two.
        residual: ||x - T(x)||.
        ratio: the residual over the one before.
        first: the first residual.
        k: int32, iterations.
        changes: int32 (items, WINDOW), how many entries of the active set changed lately.
        memory: what the rule of the iteration remembers.
    """

    x: Any
    tx: Any
    residual: Any
    ratio: Any
    first: Any
    k: Any
    changes: Any
    memory: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPointIteration:
    """x <- (1 - relaxation) x + relaxation T(x), with momentum on request.

    Args:
        tol: stop at ||x - T(x)|| <= tol * max(||x||, first residual); by default 1e-6 in
            float32 and 1e-12 in float64.
        max_iterations: bound on the iterations.
        relaxation: in (0, 2); above 1 only for maps that are averaged.
        momentum: 0 for none; a number b adds b (x - x_before) (heavy ball); "nesterov"
            extrapolates and restarts when it overshoots (Beck and Teboulle 2009; O'Donoghue and
            Candès 2015). Derivatives are not unrolled through momentum unless forced.

    Raises:
        ValueError: a number out of its range.

    Example:
        `fixed_point(T, x0, params, solver=FixedPointIteration(tol=1e-8, max_iterations=200))`
    """

    tol: float | None = None
    max_iterations: int = 1000
    relaxation: float = 1.0
    momentum: float | str = 0.0

    def __post_init__(self) -> None:
        check_positive(tol=self.tol, max_iterations=self.max_iterations)
        if not 0 < self.relaxation < 2:
            raise ValueError(f"`relaxation` must be in (0, 2). Received: {self.relaxation!r}.")
        if self.momentum != "nesterov" and (
            isinstance(self.momentum, str) or not 0 <= self.momentum < 1
        ):
            raise ValueError(
                f'`momentum` must be in [0, 1) or "nesterov". Received: {self.momentum!r}.'
            )

    @property
    def is_plain(self) -> bool:
        """Whether an iterate depends on the one before only: then it may be unrolled."""
        return self.momentum == 0.0

    def begin(self, x: Any) -> tuple[Any, ...]:
        """Return the memory that goes with the first point."""
        return () if self.is_plain else (x, ops.ones_like(x[:, :1]))

    def propose(self, x: Any, tx: Any, memory: tuple[Any, ...], k: Any) -> tuple[Any, Any]:
        """Return the next point and memory."""
        moved = x + self.relaxation * (tx - x)
        if self.is_plain:
            return moved, ()
        before, t = memory
        if self.momentum != "nesterov":
            return moved + float(self.momentum) * (x - before), (x, t)
        overshoots = dot(x - moved, moved - before) > 0
        t = ops.where(overshoots, ops.ones_like(t), t)
        grown = 0.5 + ops.sqrt(0.25 + t * t)
        return moved + (t - 1.0) / grown * (moved - before), (moved, grown)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AndersonIteration:
    """Mixes the last points so that the mixture of their residuals is smallest (Anderson 1965).

    Args:
        tol, max_iterations: as for `FixedPointIteration`.
        memory: how many points are mixed.
        regularization: ridge on the normal equations of the mixture, relative; by default the
            rounding unit of the type times 10.

    Raises:
        ValueError: a number out of its range.

    Example:
        `fixed_point(T, x0, params, solver=AndersonIteration(memory=5))`
    """

    tol: float | None = None
    max_iterations: int = 1000
    memory: int = 5
    regularization: float | None = None

    def __post_init__(self) -> None:
        check_positive(
            tol=self.tol,
            max_iterations=self.max_iterations,
            memory=self.memory,
            regularization=self.regularization,
        )

    is_plain = False

    def begin(self, x: Any) -> tuple[Any, ...]:
        """Return the empty history of residuals and images."""
        empty = ops.zeros((self.memory, *ops.shape(x)), x.dtype)
        return empty, empty

    def propose(self, x: Any, tx: Any, memory: tuple[Any, ...], k: Any) -> tuple[Any, Any]:
        """Return the next point and history."""
        residuals, images = (
            ops.concatenate([old[1:], new[None]], axis=0)
            for old, new in zip(memory, (tx - x, tx), strict=True)
        )
        scale = ops.maximum(ops.max(ops.abs(residuals), axis=(0, 2)), TINY)[None, :, None]
        gram = ops.einsum("ibn,jbn->bij", residuals / scale, residuals / scale)
        filled = ops.cast(ops.arange(self.memory) >= self.memory - ops.max(k), x.dtype)
        gram = gram * filled[:, None] * filled
        ridge = 10.0 * epsilon(x) if self.regularization is None else self.regularization
        top = ops.max(ops.diagonal(gram, axis1=1, axis2=2), axis=-1)[:, None, None]
        gram = gram / ops.where(top > 0, top, ops.ones_like(top))
        gram = gram + ops.eye(self.memory, dtype=x.dtype) * (ridge + 1.0 - filled)
        right = ops.broadcast_to(filled[:, None], ops.shape(gram[..., :1]))
        mixture = ops.squeeze(ops.solve(gram, right), axis=-1)
        mixture = mixture / ops.sum(mixture, axis=-1, keepdims=True)
        return ops.einsum("jbn,bj->bn", images, mixture), (residuals, images)


Iteration = FixedPointIteration | AndersonIteration


def iterate(
    rule: Iteration, mapping: Map, x: Any, pattern: Map | None = None, size: Any | None = None
) -> State:
    """Iterate until every item is at rest, gone to infinity, or out of iterations.

    Args:
        rule: how the next point is chosen.
        mapping: T on (items, unknowns).
        x: first point.
        pattern: point -> bool (items, anything), its active set.
        size: (items, 1), what a residual is held against; by default max(||x||, first residual).
    """
    tol = default_tol(x) if rule.tol is None else rule.tol
    state = _begin(rule, mapping, x)
    flags = pattern or (lambda point: ops.zeros_like(point[:, :1], dtype="bool"))

    def unfinished(now: State) -> Any:
        against = ops.maximum(norm(now.x), now.first) if size is None else size
        open_ = now.residual > tol * against
        return ops.logical_and(open_, now.residual <= now.first / epsilon(x))

    def cond(*now: Any) -> Any:
        return ops.any(unfinished(State(*now)))

    def body(*now: Any) -> tuple[Any, ...]:
        at = State(*now)
        go = unfinished(at)
        point, memory = rule.propose(at.x, at.tx, at.memory, at.k)
        point = ops.where(go, point, at.x)
        image = ops.where(go, mapping(point), at.tx)
        residual = norm(image - point)
        ratio = ops.where(go, residual / ops.maximum(at.residual, TINY), at.ratio)
        changed = ops.not_equal(flags(image), flags(at.tx))
        changed = ops.sum(ops.cast(changed, "int32"), axis=-1, keepdims=True)
        changes = ops.concatenate([at.changes[:, 1:], changed], axis=1)
        changes = ops.where(go, changes, at.changes)
        k = at.k + ops.cast(go, "int32")
        return tuple(State(point, image, residual, ratio, at.first, k, changes, memory))

    done = ops.while_loop(cond, body, tuple(state), maximum_iterations=rule.max_iterations)
    return State(*done)


def _begin(rule: Iteration, mapping: Map, x: Any) -> State:
    image = mapping(x)
    residual = norm(image - x)
    counter = ops.ones_like(residual, dtype="int32")
    changes = ops.zeros((ops.shape(x)[0], WINDOW), "int32")
    ratio = residual * float("nan")
    return State(x, image, residual, ratio, residual, counter, changes, rule.begin(x))


def report(rule: Iteration, state: State, counts_changes: bool) -> SolveInfo:
    """Return the certificate of an iteration, each figure (items, 1)."""
    tol = default_tol(state.x) if rule.tol is None else rule.tol
    relative = state.residual / ops.maximum(ops.maximum(norm(state.x), state.first), TINY)
    solved = relative <= tol
    expands = ops.logical_and(state.ratio > 1.0, state.residual > 10.0 * state.first)
    lost = ops.logical_or(ops.logical_not(ops.isfinite(state.residual)), expands)
    status = ops.where(lost, int(Status.DIVERGED), int(Status.NOT_CONVERGED))
    status = ops.cast(ops.where(solved, int(Status.OK), status), "int32")
    changes = ops.sum(state.changes, axis=-1, keepdims=True)
    changes = changes if counts_changes else ops.full_like(changes, -1)
    return SolveInfo(
        status,
        iterations=state.k,
        residual=state.residual,
        relative_residual=relative,
        active_set_changes=changes,
        contraction=state.ratio,
    )
