"""Certificates inside a network: a record that a layer keeps, and a callback that shows it."""

from __future__ import annotations

import warnings
from typing import Any

import keras
from keras import ops

from keras_robustseg.optimize._info import SolveInfo, Status

NAN_AS = {"residual": -1.0, "contraction": -1.0, "iterations": -1.0, "margin": float("inf")}


@keras.saving.register_keras_serializable("keras_robustseg")
class SolveRecord(keras.layers.Layer):
    """Keeps the worst figures of the solves of a layer since the last reset.

    A layer that solves something owns one and gives it each `SolveInfo`; the figures are weights
    that are not trained, so they live through `fit`, XLA and saving.

    Example:
        `self.solve_record = optimize.SolveRecord()` in `__init__`, `self.solve_record.update(info)`
        in `call`, `layer.solve_record.summary()` afterwards.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        self.counts = self._figure("counts", 0.0, (len(Status),))
        for name, start in NAN_AS.items():
            setattr(self, name, self._figure(name, start))
        self.built = True

    def _figure(self, name: str, start: float, shape: tuple[int, ...] = ()) -> Any:
        initializer = keras.initializers.Constant(start)
        return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

    def update(self, info: SolveInfo) -> None:
        """Add one certificate."""
        status = ops.reshape(ops.cast(info.status, "int32"), (-1,))
        self.counts.assign_add(ops.sum(ops.one_hot(status, len(Status), dtype="float32"), axis=0))
        figures = {
            "residual": info.relative_residual,
            "contraction": info.contraction,
            "iterations": info.iterations,
            "margin": info.kink_margin,
        }
        for name, value in figures.items():
            weight, missing = getattr(self, name), NAN_AS[name]
            value = ops.cast(value, "float32")
            value = ops.where(ops.isnan(value), ops.full_like(value, missing), value)
            worst = ops.min(value) if name == "margin" else ops.max(value)
            meet = ops.minimum if name == "margin" else ops.maximum
            weight.assign(meet(ops.convert_to_tensor(weight), worst))

    def reset(self) -> None:
        """Forget everything."""
        self.counts.assign(ops.zeros_like(self.counts))
        for name, start in NAN_AS.items():
            getattr(self, name).assign(ops.full((), start, dtype="float32"))

    def summary(self) -> dict[str, Any]:
        """Return `{"counts": {status: solves}, "residual": ..., ...}`; unmeasured figures left out.

        `residual`, `contraction` and `iterations` are the largest, `margin` the smallest seen.
        """
        counts = ops.convert_to_numpy(self.counts)
        seen = {Status(i).name: int(count) for i, count in enumerate(counts) if count}
        figures = {name: float(ops.convert_to_numpy(getattr(self, name))) for name in NAN_AS}
        return {"counts": seen} | {n: v for n, v in figures.items() if v != NAN_AS[n]}


class SolveMonitor(keras.callbacks.Callback):
    """Shows after each epoch what the solvers inside a model reported, and warns of failures.

    The share of solves that were not OK joins the logs as `solve_failures`, so that other
    callbacks can watch it.

    Args:
        verbose: print a line per layer and epoch.

    Example:
        `model.fit(x, y, callbacks=[optimize.SolveMonitor()])`
    """

    def __init__(self, verbose: bool = True) -> None:
        super().__init__()
        self.verbose = verbose

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start afresh."""
        for _, record in solve_records(self.model):
            record.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the figures of the epoch, add them to the logs, warn of failures."""
        failed = total = 0
        for name, record in solve_records(self.model):
            summary = record.summary()
            counts = summary["counts"]
            bad = {status: count for status, count in counts.items() if status != Status.OK.name}
            failed, total = failed + sum(bad.values()), total + sum(counts.values())
            if self.verbose:
                print(f"{name}: {summary}")
            if bad:
                message = f"{name}: solves that did not end OK in epoch {epoch + 1}: {bad}."
                warnings.warn(message, RuntimeWarning, stacklevel=2)
        if logs is not None and total:
            logs["solve_failures"] = failed / total


def solve_records(model: keras.Model) -> list[tuple[str, SolveRecord]]:
    """Return the names of the layers inside a model that solve something, and their records."""
    return [
        (layer.name, record)
        for layer in model._flatten_layers(recursive=True, include_self=True)
        for record in layer._flatten_layers(recursive=False, include_self=False)
        if isinstance(record, SolveRecord)
    ]


def describe_solves(model: keras.Model) -> str:
    """Return a sentence on what the solvers inside a model reported, or "" where there are none."""
    reports = [f"{name}: {record.summary()}" for name, record in solve_records(model)]
    if not reports:
        return ""
    return (
        " A derivative that a solver did not find is NaN; if that is the cause, give the layer more"
        f" iterations, forward or adjoint. The layers that solve something reported "
        f"{'; '.join(reports)}."
    )
