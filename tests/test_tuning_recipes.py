"""`robustseg tune` and the recipes of pixel classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import keras_robustseg
from keras_robustseg import RecipeError
from keras_robustseg.cli import app
from keras_robustseg.recipes import PixelRecipe, dump, load_recipe, recipe_from_dict

SMALL = """
name: small
data:
  source: {{kind: npz, path: {path}, classes: [ground, square, bar]}}
features: {{sigmas: [1], hessian: false, structure_tensor: false}}
pixels: {{train: 300, val: 60, test: 200}}
classifier: {{kind: logistic_regression, l2: 0.1, formulation: multinomial}}
annotators: {{count: 4, bad: 2, flips: 0.9}}
tuning:
  hyperparameters:
    - {{name: annotator_weights}}
    - {{name: l2, per: class, bounds: [1e-5, 10]}}
  steps: 15
evaluation: {{surface: false}}
"""


def invoke(*arguments):
    return CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A recipe on an archive of 10 images, of discs and squares."""
    folder = tmp_path_factory.mktemp("pixels")
    rng = np.random.default_rng(0)
    masks = np.zeros((10, 16, 14), "int32")
    for mask in masks:
        top, left = rng.integers(1, 6, 2)
        mask[top : top + 6, left : left + 5] = 1
        mask[top + 7 : top + 9, left:] = 2
    images = masks + rng.normal(0, 0.35, masks.shape)
    split = np.array(["train"] * 5 + ["val"] * 2 + ["test"] * 3)
    arrays = {"image": images.astype("float32")[..., None], "mask": masks, "split": split}
    np.savez(folder / "data.npz", **arrays)
    (folder / "small.yaml").write_text(SMALL.format(path=folder / "data.npz"))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def tuned(small) -> Path:
    out = small.parent / "tuned"
    done = invoke("tune", small, "--out", out)
    assert done.exit_code == 0, done.output
    for line in ("start", "tuned", "grid search", "random search", "validation data alone"):
        assert line in done.output
    return out


def test_tune_writes_recipe_report_and_trajectory(tuned, small):
    report = json.loads((tuned / "report.json").read_text())
    assert [row["name"] for row in report["rows"]][:2] == ["start", "tuned"]
    assert report["rows"][1]["loss"] < report["rows"][0]["loss"]
    rows = (tuned / "trajectory.csv").read_text().splitlines()
    assert len(rows) == 16
    assert rows[0].startswith("step,loss,gradient_norm,")
    assert rows[0].endswith("sample_weight.3,l2.0,l2.1,l2.2")
    metrics = json.loads((tuned / "metrics.json").read_text())
    assert metrics["tuning"]["tuned"]["loss"] == report["rows"][1]["loss"]
    found, given = load_recipe(tuned / "tuned.yaml"), load_recipe(small)
    assert found.tuning is None
    assert found.annotators.weights == tuple(report["values"]["sample_weight"])
    assert found.classifier.l2 == tuple(report["values"]["l2"])
    assert max(found.annotators.weights[:2]) < min(found.annotators.weights[2:])
    assert found.data == given.data


def test_a_tuned_recipe_is_run_and_better(tuned, small):
    for name, recipe in (("before", small), ("after", tuned / "tuned.yaml")):
        done = invoke("train", recipe, "--out", small.parent / name)
        assert done.exit_code == 0, done.output
    before, after = (
        json.loads((small.parent / name / "metrics.json").read_text())["test"]["accuracy"]
        for name in ("before", "after")
    )
    assert after >= before
    run = small.parent / "after"
    assert len(list((run / "predictions").iterdir())) == 3
    model = keras.saving.load_model(run / "classifier.keras")
    assert model(np.zeros((2, 2), "float32")).shape == (2, 3)
    report = json.loads((tuned / "report.json").read_text())
    assert report["rows"][1]["score"] == pytest.approx(after, abs=0.1)


@pytest.mark.slow
def test_spatial_recipe_tunes_and_trains(small, tmp_path):
    values = yaml.safe_load(small.read_text())
    values |= {"spatial": {"weight": 0.1}, "annotators": None}
    values["tuning"] = {"hyperparameters": [{"name": "weight"}, {"name": "l2"}], "steps": 2}
    recipe = recipe_from_dict(values)
    report = keras_robustseg.tune(recipe, tmp_path / "tuned")
    assert set(report.values) == {"weight", "estimator__l2"}
    found = load_recipe(tmp_path / "tuned" / "tuned.yaml")
    assert found.spatial.weight == report.values["weight"]
    result = keras_robustseg.train(found, tmp_path / "run")
    assert 0.5 < result["test"]["accuracy"] <= 1
    model = keras.saving.load_model(tmp_path / "run" / "classifier.keras")
    assert model(np.zeros((1, 6, 5, 2), "float32")).shape == (1, 6, 5, 3)


def test_nothing_is_overwritten(tuned, small):
    before = (tuned / "tuned.yaml").read_text()
    done = invoke("tune", small, "--out", tuned)
    assert done.exit_code == 2
    assert "not an empty directory" in done.output
    with pytest.raises(keras_robustseg.StateError, match="empty"):
        keras_robustseg.tune(small, tuned)
    assert (tuned / "tuned.yaml").read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tuning.steps=0", "tuning.steps: got 0, expected a whole number from 1 to"),
        ("classifier.l2=-1", "classifier.l2: got -1, expected a number of at least 0, or a list"),
        ("classifier.kind=forest", "classifier.kind: got 'forest', expected one of"),
        (
            "tuning.hyperparameters=[{name: sigma2}]",
            "tuning: got 'sigma2', expected one of l2, l1,",
        ),
        ("tuning.hyperparameters=[]", "tuning.hyperparameters"),
        ("annotators.bad=9", "annotators.bad"),
        ("training.epochs=3", "unknown field"),
        ("features.sigmas=[-1]", "features.sigmas"),
        ("data.readers=all", "readers all"),
    ],
)
def test_a_wrong_field_is_one_line_with_its_name(small, change, message):
    done = invoke("tune", small, "--set", change)
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert message in done.output


def test_a_wrong_line_of_the_file_is_named(small, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(small.read_text().replace("steps: 15", "steps: many"))
    number = bad.read_text().splitlines().index("  steps: many") + 1
    done = invoke("tune", bad)
    assert f"bad.yaml:{number}: tuning.steps: got 'many'" in done.output


@pytest.mark.parametrize("command", ["tune quickstart", "tune {small} --set tuning=null"])
def test_a_recipe_without_anything_to_tune(small, tmp_path, command):
    done = invoke(*command.format(small=small).split(), "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "tune_annotator_weights" in done.output
    assert not (tmp_path / "out").exists()


def test_data_that_do_not_fit_leave_nothing_behind(small, tmp_path):
    for command in ("tune", "train"):
        out = tmp_path / command
        done = invoke(command, small, "--out", out, "--set", "classifier.l2=[1, 2]")
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
        assert not out.exists()


def test_commands_for_networks_say_what_they_want(tuned, small, tmp_path):
    run = tmp_path / "run"
    assert invoke("train", small, "--out", run).exit_code == 0
    for command in ("resume", "evaluate", "audit"):
        done = invoke(command, run)
        assert done.exit_code == 2, (command, done.output)


@pytest.mark.parametrize("name", ["pixel_svm_tv", "tune_annotator_weights"])
def test_packaged_recipes_of_pixel_classifiers(name):
    recipe = load_recipe(name)
    assert isinstance(recipe, PixelRecipe)
    assert recipe.tuning is not None
    assert recipe_from_dict(yaml.safe_load(dump(recipe))) == recipe


def test_a_network_is_asked_for():
    from keras_robustseg.recipes import load_network_recipe

    assert load_network_recipe("quickstart").name == "quickstart"
    with pytest.raises(RecipeError, match="of a pixel classifier"):
        load_network_recipe("pixel_svm_tv")
