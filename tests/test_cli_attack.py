"""`robustseg attack` on a small run and on its export."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import keras_robustseg
from keras_robustseg.cli import app
from keras_robustseg.errors import DataError, StateError
from keras_robustseg.recipes import load_recipe

RECIPE = """
name: small
data:
  source: {{kind: npz, path: {path}, test: 0.25, val: 0.0}}
pipeline: {{batch_size: 4}}
model: {{kind: unet, width: 4, depth: 2}}
method: {{kind: supervised, loss: {{kind: cross_entropy_dice}}}}
training:
  epochs: 2
  optimizer: {{kind: adam, learning_rate: 1e-2}}
  adversarial: {{attack: pgd, eps: 0.05, steps: 1, warmup: 0.0}}
evaluation:
  surface: false
  robustness: {{attacks: [pgd], eps: [0.05, 0.2], steps: 2}}
report: {{overlays: 0}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :20]
    centres = rng.uniform(5, 11, (12, 2, 1, 1))
    mask = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 16).astype("uint8")
    image = (100.0 * mask[..., None] + rng.normal(0, 10, (12, 16, 20, 1))).astype("float32")
    np.savez(folder / "discs.npz", image=image, mask=mask, classes=["background", "disc"])
    (folder / "small.yaml").write_text(RECIPE.format(path=folder / "discs.npz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        keras_robustseg.train(load_recipe(folder / "small.yaml"), folder / "run", verbose=0)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


def test_the_recipe_may_ask_for_the_report(run):
    figures = json.loads((run / "run" / "metrics.json").read_text())["robustness"]
    body = json.loads((run / "run" / "attack" / "report.json").read_text())
    worst = [row for row in body["rows"] if row["attack"] == "worst"]
    assert figures["worst_dice"] == [row["mean_dice"] for row in worst]
    assert figures["eps"] == body["eps"]


FEW = ("--attack", "pgd", "--eps", "0.05", "--eps", "0.2", "--steps", "2", "--examples", "1")


def test_a_run_and_its_export_fall_alike(run):
    answer = invoke(run / "run", *FEW, "--out", run / "of_run")
    assert answer.exit_code == 0, answer.output
    assert "gradients are not zero" in answer.output
    first = json.loads((run / "of_run" / "report.json").read_text())
    export = run / "saved_models" / "small"
    answer = invoke(export, *FEW, "--out", run / "of_export")
    assert answer.exit_code == 0, answer.output
    second = json.loads((run / "of_export" / "report.json").read_text())
    assert first["classes"] == second["classes"] == ["background", "disc"]
    accuracy = [[row["accuracy"] for row in found["rows"]] for found in (first, second)]
    np.testing.assert_allclose(*accuracy, atol=0.02)
    low, high = first["setting"]["bounds"]
    np.testing.assert_allclose(first["eps"], [0.05 * (high - low), 0.2 * (high - low)])
    answer = invoke(run / "run", *FEW)
    assert answer.exit_code == 2
    assert "new or empty directory" in answer.output


def test_objects_alone(run, tmp_path):
    found = keras_robustseg.attack(
        run / "run", tmp_path / "out", attacks=["pgd"], eps=[0.1], steps=1, ignore_label=0, limit=2
    )
    assert len(found.names) == 2
    counts = found.tallies["clean", 0.0].counts
    assert all(c[0].sum() == 0 and c[1].sum() > 0 for c in counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "nothing"], "unknown attack 'nothing'"),
        (["--attack", "pgd", "--eps", "2"], "at most 1"),
        (["--attack", "pgd", "--eps", "0.2", "--eps", "0.1"], "must be positive and increase"),
        (["--attack", "pgd", "--split", "val"], "has no samples"),
        (["--attack", "pgd", "--bounds", "0", "1"], "within `bounds`"),
        (["--attack", "pgd", "--bounds", "300", "-300"], "the lower one first"),
    ],
)
def test_bad_input_is_one_error(run, tmp_path, arguments, message):
    answer = invoke(run / "run", "--out", tmp_path / "out", *arguments)
    assert answer.exit_code == 2
    assert message in answer.output
    assert answer.output.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_attack(tmp_path):
    with pytest.raises(DataError, match="no such directory"):
        keras_robustseg.attack(tmp_path / "missing")
    with pytest.raises(DataError, match="neither a run"):
        keras_robustseg.attack(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(StateError, match="no trained network"):
        keras_robustseg.attack(tmp_path)
