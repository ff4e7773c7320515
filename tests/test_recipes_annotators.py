"""Several readers in recipes: fused before training, or told apart by the method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from toy import ToySource

from keras_robustseg import RecipeError, load_recipe
from keras_robustseg._run_method import make_method
from keras_robustseg.data._ingest import Ingest, choose_reader
from keras_robustseg.labels import ConfusionMatrices, staple

QUICKSTART = Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml"


def recipe(tmp_path, readers, **method):
    fields = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    fields["data"]["readers"] = readers
    fields["method"] = method or fields["method"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return load_recipe(path)


def test_staple_fuses_each_sample_by_itself(tmp_path):
    source = ToySource(6, shape=(12, 10), readers=4)
    ingest = Ingest(source, [0, 1, 2], readers=recipe(tmp_path, "staple").data.readers)
    for number in range(3):
        _, mask = ingest.load(number)
        np.testing.assert_array_equal(mask, staple(source.load(number).mask).labels)


def test_staple_of_absent_readers():
    mask = np.full((4, 3, 3), -1, "int16")
    assert (choose_reader(mask, "staple", seed=0, sample_id="") == -1).all()
    mask[..., 1] = 1
    fused = choose_reader(mask, "staple", seed=0, sample_id="")
    assert fused.dtype == "int16"
    assert (fused == 1).all()


@pytest.mark.parametrize("kind", ["global", "pixel"])
def test_method_has_a_matrix_for_each_place_of_the_masks(kind, tmp_path):
    source = ToySource(6, shape=(12, 10), readers=4, classes=3)
    settings = {"kind": "confusion_matrices", "matrices": kind, "rank": 2, "region_weight": 0.5}
    method = make_method(recipe(tmp_path, "all", **settings), source)
    model = method.label_model
    assert isinstance(model, ConfusionMatrices)
    assert (model.num_annotators, model.num_classes, model.kind, model.rank) == (4, 3, kind, 2)
    assert method.region_weight == 0.5
    assert method.loss is None


@pytest.mark.parametrize("readers", ["random", "majority", "staple"])
def test_fused_masks_do_not_tell_annotators_apart(readers, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.readers " + readers):
        recipe(tmp_path, readers, kind="confusion_matrices")


def test_recipe_and_class_have_the_same_defaults(tmp_path):
    method = make_method(recipe(tmp_path, "all", kind="confusion_matrices"), ToySource(6))
    plain = ConfusionMatrices(method.label_model.num_annotators, 2)
    assert method.label_model.get_config() == plain.get_config()
