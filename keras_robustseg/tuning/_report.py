"""What a tuning did: trajectory, certificates, and the table with its baselines."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class OuterStep:
    """One outer step, with its certificate.

    Args:
        step: number, from 0.
        loss: validation loss.
        gradient_norm: greatest entry of the hypergradient to the free variables.
        tolerance: of the inner solve; None where the estimator has none.
        status: worst `optimize.Status` of fit and derivative, by name.
        residual: of the fit.
        adjoint_residual: of the derivative's linear system.
        iterations: of the fits.
        seconds: processor time since the tuning began.
        values: name -> value.
    """

    step: int
    loss: float
    gradient_norm: float
    tolerance: float | None
    status: str
    residual: float
    adjoint_residual: float
    iterations: int
    seconds: float
    values: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: "start", "tuned", "grid search", "random search" or "validation data alone".
        loss: validation loss.
        score: accuracy on the test data; None where there are none.
        solves: inner solves and linear systems.
        seconds: processor time.
        note: what a reader has to know.
        values: name -> value, None where there is no such training.
    """

    name: str
    loss: float
    score: float | None
    solves: int
    seconds: float
    note: str
    values: dict[str, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class TuningReport:
    """Trajectory and comparison of a tuning.

    Args:
        steps: the outer steps in order.
        rows: start, tuned, and the baselines.
        values: name -> tuned value.
        annotators: names of the annotators, in the order of their weights, or None.

    Example:
        `print(tuner.report().text())`
    """

    steps: tuple[OuterStep, ...]
    rows: tuple[Row, ...]
    values: dict[str, np.ndarray]
    annotators: tuple[Any, ...] | None

    @property
    def certified(self) -> bool:
        """Whether every outer step had the status OK."""
        return all(step.status == "OK" for step in self.steps)

    def row(self, name: str) -> Row:
        """Return one line of the table.

        Raises:
            KeyError: there is none of this name.
        """
        return {row.name: row for row in self.rows}[name]

    def text(self) -> str:
        """Return the table, the values and the certificates as lines of text."""
        return "\n".join([*self._table(), "", *self._values(), "", self._certificate()])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return _plain(dataclasses.asdict(self))

    def _table(self) -> list[str]:
        lines = [f"{'':<24}{'loss':>10}{'score':>8}{'solves':>8}{'seconds':>9}"]
        for row in self.rows:
            score = "-" if row.score is None else f"{row.score:.4f}"
            figures = f"{row.loss:>10.5f}{score:>8}{row.solves:>8}{row.seconds:>9.2f}"
            lines.append(f"{row.name:<24}{figures}  {row.note}".rstrip())
        return lines

    def _values(self) -> list[str]:
        return [f"{name}: {_show(value)}" for name, value in self.values.items()]

    def _certificate(self) -> str:
        statuses = [step.status for step in self.steps]
        counts = ", ".join(f"{name} {statuses.count(name)}" for name in sorted(set(statuses)))
        last = self.steps[-1]
        return (
            f"{len(self.steps)} outer steps: {counts}; last residual {last.residual:.1e}, "
            f"adjoint {last.adjoint_residual:.1e}, gradient {last.gradient_norm:.1e}"
        )


def _show(value: np.ndarray) -> str:
    if value.size > 20:
        low, middle, high = np.quantile(value, [0, 0.5, 1])
        return f"{value.size} values, {low:.3g} to {high:.3g}, median {middle:.3g}"
    return np.array2string(value, precision=4, max_line_width=88)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
