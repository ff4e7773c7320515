"""Exact resume: a run that was killed goes on as if it had never been stopped, bit for bit."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.errors import StateError, TrainingError
from keras_robustseg.labels import DiskLabelStore
from keras_robustseg.optimize._monitor import describe_solves
from keras_robustseg.training._history import History
from keras_robustseg.training._state import StateStore
from keras_robustseg.training._state_files import State
from keras_robustseg.training._stop import StopRequested, StopSignals

_ROWS = "label_rows/"  # arrays of a state that lead to label rows on a disk


class ExactResume(keras.callbacks.Callback):
    """Save everything a training is made of, and go on from it.

    A state holds every variable of the model (weights, statistics, label rows, seeds, running
    metrics), of the optimizer, the position (epoch, batch) and the history. Label rows on a disk
    stay in their file, as they were when the state was saved. The data have to be a
    `Pipeline`, whose order and augmentation are functions of the position. Called on a directory
    that holds a state, `fit` continues from it, in the middle of an epoch too, and ends with the
    same bits as a training that was never stopped (same machine, same number of threads). The
    state of other callbacks is not kept.

    Args:
        directory: run directory; states go to `directory/state`, rows to `history.csv`.
        pipeline: the `Pipeline` whose `dataset()` is given to `fit`.
        every_seconds: save when this long has passed since the last save; `None` for never.
        every_steps: save when this many steps have passed; `None` for never.
        identity: what must not differ between the runs, such as a hash of the recipe.
        max_skipped_steps: stop when more steps than this were not finite.
        stop: signals that end the training; by default SIGTERM and SIGINT.

    Raises:
        StateError: the saved state is damaged or belongs to another model, recipe or data set.
        TrainingError: more than `max_skipped_steps` steps were not finite.
        StopRequested: a signal asked for the end; the state was saved.

    Example:
        ```python
        resume = ExactResume("runs/mine", pipeline, every_seconds=60)
        model.fit(pipeline.dataset(), epochs=40, callbacks=[resume])   # run it again after a crash
        ```
    """

    def __init__(
        self,
        directory: str | Path,
        pipeline: Any,
        *,
        every_seconds: float | None = 60.0,
        every_steps: int | None = None,
        identity: dict[str, Any] | None = None,
        max_skipped_steps: int = 10,
        stop: StopSignals | None = None,
    ) -> None:
        super().__init__()
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.store = StateStore(directory)
        self.history = History(Path(directory) / "history.csv")
        self.pipeline, self.identity = pipeline, identity or {}
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self.max_skipped_steps = max_skipped_steps
        self._stop = stop or StopSignals()
        self._owns_stop = stop is None
        self._epoch = self._batch = self._first = self._since = 0
        self._saved_at = time.monotonic()
        self._running: State | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Build every variable, then restore the newest state there is."""
        if self._owns_stop:
            self._stop.__enter__()
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.pipeline.start_at(0)
        model._symbolic_build(data_batch=next(iter(self.pipeline.dataset())))
        state = self.store.load()
        if state is None:
            self.history.restore([])
            return
        self._check_identity(state)
        self._restore(state, self._variables())
        self._restore_disk_rows(state)
        self._epoch, self._first = state.meta["epoch"], state.meta["batch"]
        self.history.restore(state.meta["history"])
        self._running = state
        model._initial_epoch = self._epoch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Point the pipeline at this epoch; in the middle of one, take its metrics up again."""
        first = self._first if epoch == self._epoch else 0
        self._epoch, self._batch, self._first = epoch, first, first
        self.pipeline.start_at(epoch, first)
        if self._running is not None and first:
            # `fit` has reset the metrics; the epoch's averages go on where they stood.
            metrics = {id(v) for v in self.model.metrics_variables}
            running = {k: v for k, v in self._variables().items() if id(v) in metrics}
            self._restore(self._running, running)
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        self._running = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count the step, save when it is time, and stop when asked to."""
        whole = self.pipeline.steps_per_epoch
        done = min(self._first + batch + 1, whole)
        self._since += done - self._batch
        self._batch = done
        if done == whole:
            if self._first:
                # Keras expects a whole epoch and would ask for a batch more than there is. That
                # step fails, but by then it has moved the seeds: end the epoch before it.
                raise StopIteration
        elif self._stop.requested:
            self._save_and_stop()
        elif self._due():
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write the epoch's row; the position is now the start of the next epoch."""
        skipped = int(ops.convert_to_numpy(self.model.skipped_steps))
        row = {"epoch": epoch, **(logs or {}), "skipped_steps": skipped}
        self.history.append({**row, "phase": self.model.phase})
        self._epoch, self._batch, self._first = epoch + 1, 0, 0
        if skipped > self.max_skipped_steps:
            raise TrainingError(
                f"{skipped} training steps were not finite (epoch {epoch}), more than "
                f"max_skipped_steps={self.max_skipped_steps}. They were skipped and the weights "
                "are intact. Lower training.optimizer.learning_rate, or run `robustseg check`."
                + describe_solves(self.model)
            )
        if self._stop.requested:
            self._save_and_stop()
        elif self._due():
            self._save()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Save the end of the training, so that nothing is trained twice."""
        self.model._initial_epoch = None
        self._save()
        if self._owns_stop:
            self._stop.__exit__()

    def _due(self) -> bool:
        late = self.every_seconds is not None
        late = late and time.monotonic() - self._saved_at >= (self.every_seconds or 0)
        return late or (self.every_steps is not None and self._since >= self.every_steps)

    def _save_and_stop(self) -> None:
        self._save()
        if self._owns_stop:
            self._stop.__exit__()
        raise StopRequested(
            f"stopped on request at epoch {self._epoch}, step {self._batch}; the state is saved"
        )

    def _save(self) -> None:
        meta = {
            "epoch": self._epoch,
            "batch": self._batch,
            "identity": self.identity,
            "history": self.history.rows,
        }
        steps = self._epoch * self.pipeline.steps_per_epoch + self._batch
        rows = self._disk_rows
        arrays = {} if rows is None else rows.snapshot()
        values = {**self._variables(), **{_ROWS + name: v for name, v in arrays.items()}}
        self.store.save(_Values(values), meta, step=steps)
        if rows is not None:
            rows.committed()
        self._saved_at, self._since = time.monotonic(), 0

    @property
    def _disk_rows(self) -> DiskLabelStore | None:
        """Label rows that a state refers to and does not hold."""
        rows = self.model.label_store
        return rows if isinstance(rows, DiskLabelStore) else None

    def _restore_disk_rows(self, state: State) -> None:
        arrays = {k[len(_ROWS) :]: v for k, v in state.arrays.items() if k.startswith(_ROWS)}
        if (self._disk_rows is None) != (not arrays):
            raise StateError(
                f"{self.store.directory}: the saved state is of a model with another label store."
            )
        if self._disk_rows is not None:
            self._disk_rows.restore(arrays)

    def _variables(self) -> dict[str, Any]:
        """Everything that a step reads: weights, seeds, rows, running metrics, optimizer."""
        model = self.model
        every = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        unique = list({id(v): v for v in every}.values())
        return {f"{n:04d}/{_lasting_name(v.path)}": v for n, v in enumerate(unique)}

    def _restore(self, state: State, variables: dict[str, Any]) -> None:
        missing = sorted(set(variables) - set(state.arrays))
        if missing:
            raise StateError(
                f"{self.store.directory}: the saved state is of another model: it has no "
                f"{missing[0]!r}. Start a new run, or resume with the model that was trained."
            )
        for name, variable in variables.items():
            value = state.arrays[name]
            if tuple(value.shape) != tuple(variable.shape):
                raise StateError(
                    f"{self.store.directory}: {name!r} has shape {value.shape} in the saved state "
                    f"and {tuple(variable.shape)} in this model. Start a new run."
                )
            variable.assign(value)

    def _check_identity(self, state: State) -> None:
        saved = state.meta["identity"]
        differing = [k for k in {*saved, *self.identity} if saved.get(k) != self.identity.get(k)]
        if differing:
            key = sorted(differing)[0]
            raise StateError(
                f"{self.store.directory}: this run was started with another {key} (saved "
                f"{saved.get(key)!r}, now {self.identity.get(key)!r}). Start a new run instead."
            )


def _lasting_name(path: str) -> str:
    """What of a variable's path is the same when its model is built again in the same process.

    Keras numbers unnamed layers through the life of a process, and an optimizer joins the whole
    path of a weight to the name of what it keeps for it (`conv2d_6_kernel_momentum`).
    """
    return re.sub(r"_\d+(?=_|$)", "", path.rsplit("/", 1)[-1])


class _Values(dict):
    """Variables as arrays, converted one at a time: a label store need not exist twice."""

    def __getitem__(self, name: str) -> np.ndarray:
        return ops.convert_to_numpy(super().__getitem__(name))

    def items(self) -> Any:
        return ((name, self[name]) for name in self)

    def values(self) -> Any:
        return (self[name] for name in self)
