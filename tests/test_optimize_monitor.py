"""Statuses, certificates as text, and what a callback shows of the solves inside a network."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robustseg import optimize
from keras_robustseg.optimize import SolveInfo, Status


class Solving(keras.layers.Layer):
    """A layer that says of every negative input that its solve failed."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.solve_record = optimize.SolveRecord()

    def call(self, inputs):
        first = inputs[:, 0]
        status = tf.where(first < 0, int(Status.NOT_CONVERGED), int(Status.OK))
        self.solve_record.update(SolveInfo(status, relative_residual=tf.abs(first)))
        return inputs


def fitted(x: np.ndarray, jit: bool, epochs: int = 1):
    model = keras.Sequential([keras.Input((2,)), Solving(name="solving"), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=jit)
    monitor = optimize.SolveMonitor()
    history = model.fit(
        x, np.zeros((len(x), 1)), batch_size=2, epochs=epochs, callbacks=[monitor], verbose=0
    )
    return model, history


def test_the_worst_of_a_batch_is_described() -> None:
    info = SolveInfo(np.array([0, 2]), np.array([3, 50]), relative_residual=np.array([1e-9, 0.5]))
    assert optimize.worst_status(info) is Status.NOT_CONVERGED
    assert optimize.describe(info) == "NOT_CONVERGED: iterations 50, relative_residual 0.5"


def test_monitor_counts_each_epoch_afresh_and_warns(capsys) -> None:
    x = np.array([[1.0, 0], [-3.0, 0], [2.0, 0], [0.5, 0]], "float32")
    with pytest.warns(RuntimeWarning, match=r"did not end OK in epoch 2: .*NOT_CONVERGED.: 1"):
        model, history = fitted(x, jit=False, epochs=2)
    assert history.history["solve_failures"] == [0.25, 0.25]
    summary = model.get_layer("solving").solve_record.summary()
    assert summary == {"counts": {"OK": 3, "NOT_CONVERGED": 1}, "residual": 3.0}
    assert "solving: {'counts': {'OK': 3, 'NOT_CONVERGED': 1}" in capsys.readouterr().out


@pytest.mark.slow
def test_monitor_sees_what_xla_compiled() -> None:
    _, history = fitted(np.ones((4, 2), "float32"), jit=True)
    assert history.history["solve_failures"] == [0.0]
