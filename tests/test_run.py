"""From a recipe to a run directory and back, end to end, on small data."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from toy import ToySource

from keras_robustseg import run
from keras_robustseg.errors import DataError, StateError
from keras_robustseg.recipes import load_recipe

RECIPE = """
name: toy
data:
  source: {{kind: npz, path: {path}}}
  readers: {readers}
pipeline: {{batch_size: 4, crop: {crop}, augment: {{flip: true}}}}
model: {{kind: unet, width: 4, depth: 2}}
method: {method}
training: {{epochs: 2, save_every_steps: 2}}
report: {{overlays: 2}}
"""
PENCIL = "{kind: pencil, flip_margin: 0.2, warmup: 0.5}"


def write(
    tmp_path, *, shape=(24, 20), classes=2, readers=1, crop="null", method=PENCIL, use="first"
):
    """A recipe on an archive of toy images that all have one size."""
    source = ToySource(18, shape=shape, classes=classes, readers=readers)
    examples = [source.load(i) for i in range(18)]
    np.savez(
        tmp_path / "toy.npz",
        image=np.stack([e.image for e in examples]),
        mask=np.stack([e.mask for e in examples]),
        truth=np.stack([e.truth for e in examples]),
        split=np.array([s.split for s in source.samples]),
        classes=np.array(source.classes),
    )
    recipe = tmp_path / "toy.yaml"
    values = {"path": tmp_path / "toy.npz", "readers": use, "crop": crop, "method": method}
    recipe.write_text(RECIPE.format(**values))
    return recipe


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_leaves_everything_and_its_export_answers(tmp_path):
    metrics = run.train(write(tmp_path, classes=3), tmp_path / "run", verbose=0)
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics
    for part in ("given", "corrected"):
        assert 0 <= metrics["labels"][part]["dice"] <= 1
    assert 0 <= metrics["test"]["dice"] <= 1
    assert 0 <= metrics["test"]["iou"] <= metrics["test"]["dice"]
    for name in ("recipe.yaml", "environment.json", "history.csv", "network.keras", "state"):
        assert (tmp_path / "run" / name).exists()
    assert len(list((tmp_path / "run/corrected_masks").iterdir())) == 12
    assert {p.name for p in (tmp_path / "run/figures").iterdir()} == {"curves.png", "overlays.png"}
    assert not (tmp_path / "run/cache").exists()
    export = tmp_path / metrics["export"]["path"]
    assert (export / "saved_model.pb").exists() or list(export.rglob("saved_model.pb"))
    again = run.resume(tmp_path / "run", verbose=0)
    assert again == metrics
    assert run.evaluate(tmp_path / "run")["test"] == metrics["test"]


def test_a_used_directory_a_file_and_a_missing_run_are_refused(tmp_path):
    recipe = write(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/recipe.json").write_text("{}")
    with pytest.raises(StateError, match="holds a run"):
        run.train(recipe, tmp_path / "used")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="is a file"):
        run.train(recipe, tmp_path / "file")
    with pytest.raises(StateError, match="no run"):
        run.resume(tmp_path / "nothing")


def test_bad_data_leave_nothing_behind(tmp_path):
    recipe = write(tmp_path)
    archive = dict(np.load(tmp_path / "toy.npz"))
    archive["mask"][3, 4, 5] = 7
    np.savez(tmp_path / "toy.npz", **archive)
    with pytest.raises(DataError, match="7"):
        run.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_by_a_crash_of_the_ending_is_finished_by_resume(tmp_path, monkeypatch):
    recipe = load_recipe(write(tmp_path, method="{kind: supervised}"))
    monkeypatch.setattr(run, "figures", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        run.train(recipe, tmp_path / "run", verbose=0)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    history = (tmp_path / "run/history.csv").read_bytes()
    assert run.resume(tmp_path / "run", verbose=0)["test"]["dice"] is not None
    assert (tmp_path / "run/history.csv").read_bytes() == history


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (10, 18, 17), "crop": "[8, 16, 16]"},
        {"readers": 3, "use": "all"},
        {"crop": "[16, 16]"},
        {"method": "{kind: pencil, flip_margin: 0.2, store: none}"},
        {"method": "{kind: supervised, loss: {kind: gjs, trust: 0.3}}"},
    ],
)
def test_volumes_patches_readers_and_other_methods(tmp_path, changes):
    metrics = run.train(write(tmp_path, **changes), tmp_path / "run", verbose=0)
    assert metrics["test"]["dice"] is not None
    assert metrics["training"]["skipped_steps"] == 0


def child(tmp_path, backend, out):
    code = (
        "import sys; from keras_robustseg import run; from keras_robustseg.recipes import "
        "load_recipe; run.train(load_recipe(sys.argv[1]), sys.argv[2], verbose=0)"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", code, str(tmp_path / "toy.yaml"), str(tmp_path / out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / out / "history.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]


@pytest.mark.slow
def test_jax_trains_the_same_recipe_to_the_same_losses(tmp_path):
    pytest.importorskip("jax")
    write(tmp_path, method="{kind: pencil, flip_margin: 0.2, warmup: 0.25}")
    rows = zip(child(tmp_path, "tensorflow", "tf"), child(tmp_path, "jax", "jax"), strict=True)
    for tensorflow, jax in rows:
        for name in ("loss", "val_loss", "dice", "val_dice"):
            assert float(tensorflow[name]) == pytest.approx(float(jax[name]), rel=1e-4), name
