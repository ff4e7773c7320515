"""Exact resume: stopped anywhere, a training ends as if it had not been, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from resume_child import build, digest, fit

from keras_robustseg.errors import StateError, TrainingError
from keras_robustseg.training import ExactResume, StopRequested, StopSignals

CHILD = Path(__file__).with_name("resume_child.py")


def child(directory, kill, method):
    command = [sys.executable, str(CHILD), str(directory), str(kill), method]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Stop(keras.callbacks.Callback):
    """Raises in the middle of an epoch, as a crash of the process would."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise RuntimeError("crash")


def whole(method, directory, **changes):
    model, *data = build(method, **changes)
    fit(model, *data, directory)
    return digest(model), (directory / "history.csv").read_bytes()


def test_a_run_killed_three_times_equals_one_that_was_not(tmp_path):
    straight = child(tmp_path / "straight", 0, "PENCIL")
    assert straight.returncode == 0, straight.stderr
    for kill in (3, 4, 6):  # in epoch 0, across its end, and in epoch 2
        assert child(tmp_path / "killed", kill, "PENCIL").returncode == -signal.SIGKILL
    resumed = child(tmp_path / "killed", 0, "PENCIL")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == straight.stdout
    assert straight.stdout.startswith("digest ")
    tables = [(tmp_path / name / "history.csv").read_bytes() for name in ("straight", "killed")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("CE", {}),
        pytest.param("PENCIL", {"steps_per_execution": 2}, marks=pytest.mark.slow),
        pytest.param("PENCIL", {"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_a_good_moment_to_stop(tmp_path, method, changes):
    expected = whole(method, tmp_path / "straight", **changes)
    directory = tmp_path / "stopped"
    for steps in (2, 3, 7):
        with pytest.raises(RuntimeError, match="crash"):
            fit(*build(method, **changes), directory, Stop(steps), every_steps=1)
    model, *data = build(method, **changes)
    fit(model, *data, directory, every_steps=1)
    assert (digest(model), (directory / "history.csv").read_bytes()) == expected


def test_a_finished_run_is_not_trained_again(tmp_path):
    expected = whole("CE", tmp_path)
    assert whole("CE", tmp_path) == expected


def test_a_signal_saves_and_stops_and_the_run_goes_on(tmp_path):
    expected = whole("PENCIL", tmp_path / "straight")
    model, pipeline, validation = build("PENCIL")
    with StopSignals() as stop:

        class Signal(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if int(self.model.step) == 7:
                    signal.raise_signal(signal.SIGTERM)

        saver = ExactResume(tmp_path / "stopped", pipeline, every_seconds=None, stop=stop)
        with pytest.raises(StopRequested, match="epoch 1, step 2"):
            model.fit(
                pipeline.dataset(),
                epochs=4,
                validation_data=validation.dataset(),
                shuffle=False,
                verbose=0,
                callbacks=[Signal(), saver],
            )
    model, *data = build("PENCIL")
    fit(model, *data, tmp_path / "stopped")
    found = (digest(model), (tmp_path / "stopped" / "history.csv").read_bytes())
    assert found == expected


def test_another_model_recipe_or_data_set_is_refused(tmp_path):
    model, pipeline, validation = build("PENCIL")
    fit(model, pipeline, validation, tmp_path, epochs=1)
    other = build("CE")
    with pytest.raises(StateError, match="another model"):
        fit(*other, tmp_path)
    model, pipeline, _ = build("PENCIL")
    changed = ExactResume(tmp_path, pipeline, identity={"recipe": "b"})
    with pytest.raises(StateError, match="another recipe"):
        model.fit(pipeline.dataset(), epochs=1, verbose=0, shuffle=False, callbacks=[changed])


def test_too_many_broken_steps_stop_the_training(tmp_path):
    model, pipeline, _ = build("CE")
    load = pipeline.ingest.load

    def broken(number):
        image, mask = load(number)
        return np.full_like(image, np.nan), mask

    pipeline.ingest.load = broken
    saver = ExactResume(tmp_path, pipeline, max_skipped_steps=2)
    with pytest.raises(TrainingError, match="not finite"):
        model.fit(pipeline.dataset(), epochs=3, verbose=0, shuffle=False, callbacks=[saver])
    assert np.isfinite(keras.ops.convert_to_numpy(model.weights[0])).all()


def test_order_and_augmentation_depend_on_the_position_alone():
    _, pipeline, _ = build("PENCIL")
    pipeline.start_at(2)
    whole_epoch = list(pipeline.dataset().as_numpy_iterator())
    pipeline.start_at(2, 3)
    rest = list(pipeline.dataset().as_numpy_iterator())
    assert len(whole_epoch) == pipeline.steps_per_epoch == 5
    assert len(rest) == 2
    for one, other in zip(whole_epoch[3:], rest, strict=True):
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            np.testing.assert_array_equal(a, b)
    orders = {tuple(pipeline.order(epoch)) for epoch in range(6)}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(16)) for order in orders)
