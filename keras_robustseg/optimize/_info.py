"""What a solver says about its answer: a status and the figures of a certificate."""

from __future__ import annotations

import enum
import warnings
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_robustseg.errors import SolverError


class Status(enum.IntEnum):
    """How far an answer, and a derivative at it, can be trusted. Larger is worse.

    Attributes:
        OK: solved to the tolerance.
        NEAR_KINK: solved, but so close to a kink that the derivative is one of several. What is
            returned is an element of the conservative Jacobian (Bolte et al., NeurIPS 2021).
        NOT_CONVERGED: the iterations ran out; a derivative may have the wrong active set.
        SINGULAR: the linear system has no unique answer; the last sound iterate is returned.
        DIVERGED: the iteration expands or is not finite.
        FORBIDDEN_MOMENTUM: the derivative was unrolled through momentum, by force; it may diverge
            although the iterates converge (Bolte, Pauwels, Vaiter, NeurIPS 2022).

    Example:
        `Status(int(info.status)) is Status.OK`
    """

    OK = 0
    NEAR_KINK = 1
    NOT_CONVERGED = 2
    SINGULAR = 3
    DIVERGED = 4
    FORBIDDEN_MOMENTUM = 5


NOT_MEASURED = float("nan")


class LinearInfo(NamedTuple):
    """Certificate of a linear solve A x = b, one figure per item of the batch.

    Attributes:
        status: int32, a `Status`.
        iterations: int32, applications of A that the item needed.
        residual: ||b - A x||, recomputed from the answer.
        relative_residual: the residual over ||b||; 0 for b = 0.

    Example:
        `x, info = optimize.cg(matvec, b); bool(info.status == optimize.Status.OK)`
    """

    status: Any
    iterations: Any
    residual: Any
    relative_residual: Any


class SolveInfo(NamedTuple):
    """Certificate of a nonlinear solve, one figure per item of the batch.

    What was not measured is NaN, or -1 where it is a count. A small residual alone does not
    certify a derivative of a nonsmooth problem: that needs an active set that has come to rest
    (`active_set_changes` 0) away from a kink (`kink_margin` above 0).

    Attributes:
        status: int32, a `Status`.
        iterations: int32, iterations that the item needed.
        residual: ||x - T(x)||, or ||F(x)|| for a root.
        relative_residual: the residual over max(||x||, 1e-37), or over the scale that the solver
            states.
        duality_gap: primal minus dual value.
        active_set_changes: changes of the active set over the last iterations.
        kink_margin: distance of the answer from the nearest kink (strict complementarity).
        contraction: ratio of the last two residuals, an estimate of the rate.
        adjoint_residual: ||(I - J^T) w - v|| / ||v|| of an adjoint solve.

    Example:
        `x, info = optimize.fixed_point(T, x0, params); print(optimize.describe(info))`
    """

    status: Any
    iterations: Any = -1
    residual: Any = NOT_MEASURED
    relative_residual: Any = NOT_MEASURED
    duality_gap: Any = NOT_MEASURED
    active_set_changes: Any = -1
    kink_margin: Any = NOT_MEASURED
    contraction: Any = NOT_MEASURED
    adjoint_residual: Any = NOT_MEASURED


def worse(first: Any, second: Any) -> Any:
    """Return the worse of two statuses, item by item, as int32."""
    return ops.maximum(ops.cast(first, "int32"), ops.cast(second, "int32"))


def worst_status(info: SolveInfo | LinearInfo) -> Status:
    """Return the worst status of a batch. Not inside a compiled function.

    Example:
        `optimize.worst_status(info) is optimize.Status.OK`
    """
    return Status(int(np.max(ops.convert_to_numpy(info.status))))


def describe(info: SolveInfo | LinearInfo) -> str:
    """Return one line: the worst status and the worst of each figure that was measured.

    Example:
        `describe(info)` -> `"OK: iterations 41, residual 3.1e-09, relative_residual 2.2e-09"`
    """
    figures = []
    for name in info._fields[1:]:
        values = np.asarray(ops.convert_to_numpy(getattr(info, name)))
        if name in ("iterations", "active_set_changes"):
            if values.size and values.max() >= 0:
                figures.append(f"{name} {int(values.max())}")
        elif values.size and not np.all(np.isnan(values)):
            worst = np.nanmin(values) if name == "kink_margin" else np.nanmax(values)
            figures.append(f"{name} {worst:.2g}")
    return f"{worst_status(info).name}: {', '.join(figures)}"


def is_concrete(tensor: Any) -> bool:
    """Whether the value of a tensor can be read now: not while a function is being compiled."""
    if backend.backend() == "tensorflow":
        return hasattr(tensor, "numpy") or isinstance(tensor, (int, float, np.ndarray, np.generic))
    return "Tracer" not in type(tensor).__mro__[0].__name__


def warn_unless_ok(info: SolveInfo | LinearInfo, what: str, stacklevel: int = 3) -> None:
    """Warn when a status is not OK and can be read; inside a compiled function do nothing.

    There, read the status that the function returns, or put `optimize.SolveMonitor` in `fit`.
    """
    if is_concrete(info.status) and worst_status(info) is not Status.OK:
        warnings.warn(f"{what}: {describe(info)}.", RuntimeWarning, stacklevel=stacklevel)


def require_ok(info: SolveInfo | LinearInfo, what: str = "The solver") -> None:
    """Raise where a status is not OK. Not inside a compiled function.

    Raises:
        SolverError: the answer, or a derivative at it, cannot be trusted.

    Example:
        `optimize.require_ok(info)`
    """
    if worst_status(info) is not Status.OK:
        raise SolverError(f"{what} did not end OK. {describe(info)}.")
