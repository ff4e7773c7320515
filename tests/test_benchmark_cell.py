"""The figures of one cell, with predictions and corrections whose figures are known."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from test_benchmark_file import TOY

from keras_robustseg._run_build import build_source, compiled_segmenter
from keras_robustseg.benchmark import run_cell
from keras_robustseg.benchmark._epochs import network_argmax, predicted
from keras_robustseg.benchmark._memory import RememberedSource, remembered_source
from keras_robustseg.metrics import evaluate_masks
from keras_robustseg.recipes import Recipe, recipe_from_dict
from keras_robustseg.training import RobustSegmenter


def toy(method: str = "ce", cell: str = "readers", **training: Any) -> Recipe:
    parts = {**TOY["base"], **TOY["cells"][cell]}
    parts["training"] = {"epochs": 1, **training}
    return recipe_from_dict(
        {**parts, "method": TOY["methods"][method]["method"], "name": "toy", "seed": 3}
    )


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """A network that says "nodule" everywhere in odd epochs and nowhere in even ones."""
    epoch = [0]

    def predict(model: Any, images: np.ndarray) -> np.ndarray:
        return np.full(images.shape[:-1], epoch[0] % 2)

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, number: int, logs: Any = None) -> None:
            epoch[0] = number + 1

    return run_cell(toy(epochs=4), predict=predict, callbacks=[Count()])


def test_dice_is_that_of_the_predictions(figures: dict[str, Any]) -> None:
    source = build_source(toy())
    indices = source.split("test")
    drawn = np.random.default_rng([3, 1]).permutation(len(indices))[:3]
    truth = [source.load(indices[i]).truth for i in sorted(drawn)]
    ones = [np.ones_like(mask) for mask in truth]
    everywhere = evaluate_masks(ones, truth, 2, surface=False)
    assert figures["test"]["oracle"]["dice"] == pytest.approx(everywhere.mean("dice"))
    assert figures["test"]["oracle"]["epoch"] == 1
    found = np.array(figures["test"]["oracle"]["images"], float)[:, 0]
    np.testing.assert_allclose(found, everywhere.values["dice"][:, 1], atol=1e-5)
    assert figures["test"]["last"] == {"epoch": 4, "dice": 0.0, "images": [[0.0]] * 3}


def test_the_epoch_of_the_best_validation(figures: dict[str, Any]) -> None:
    assert figures["test"]["noisy_validation"]["epoch"] == 1
    assert figures["test"]["clean_validation"]["epoch"] == 1
    curve = figures["curve"]
    assert curve["epoch"] == [1, 2, 3, 4]
    assert curve["given_validation"][1] == curve["given_validation"][3] == 0.0


def test_a_class_that_is_never_predicted_has_collapsed(figures: dict[str, Any]) -> None:
    assert figures["volume"] == [0.0]
    assert figures["collapsed"] is True


def test_seeds_are_told_apart(figures: dict[str, Any]) -> None:
    assert figures["seeds"] == {"init": 3, "data": 3}
    recipe = toy().resolved()
    recipe["data"]["seed"] = 11
    recipe = recipe_from_dict(recipe)
    assert (recipe.seed, recipe.data_seed) == (3, 11)


class Corrected(RobustSegmenter):
    """Turns one pixel of every mask."""

    has_belief = True

    def corrected_labels(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        turned = np.array(mask)
        turned[0, 0] = 1 - turned[0, 0]
        return np.eye(2)[turned]


def test_corrections_are_counted() -> None:
    def build(recipe: Recipe, network: Any, train: Any) -> RobustSegmenter:
        model = Corrected(network)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    recipe = toy()
    labels = run_cell(recipe, build=build)["labels"]
    source = build_source(recipe)
    # Corners of the patches are background, and no reader says otherwise.
    assert all(source.load(i).mask[0, 0].max() <= 0 for i in source.split("train"))
    assert (labels["fixed"], labels["broken"], labels["net"]) == (0, 8, -8)
    assert labels["corrected"] < labels["given"]


def test_a_method_without_labels_corrects_nothing(figures: dict[str, Any]) -> None:
    assert set(figures["labels"]) == {"given", "validation"}
    assert 0.0 < figures["labels"]["given"] < 1.0


def test_the_same_recipe_gives_the_same_figures() -> None:
    first, second = (run_cell(toy("ours", epochs=2)) for _ in range(2))
    for figures in (first, second):
        figures.pop("seconds")
    assert first == second


def test_looking_less_often_changes_nothing_that_is_looked_at() -> None:
    often = run_cell(toy(epochs=3))
    rarely = run_cell(toy(epochs=3), every=2)
    assert rarely["curve"]["epoch"] == [2, 3]
    assert rarely["test"]["last"] == often["test"]["last"]
    assert rarely["curve"]["test"] == often["curve"]["test"][1:]


def test_build_gets_the_recipes_parts() -> None:
    seen = []

    def build(recipe: Recipe, network: Any, train: Any) -> RobustSegmenter:
        seen.append((recipe.name, train.steps_per_epoch))
        return compiled_segmenter(recipe, network, train)

    run_cell(toy(), build=build)
    assert seen == [("toy", 2)]


@pytest.mark.parametrize("sizes", [[(4, 4)] * 5, [(4, 4), (6, 4), (4, 4)]])
def test_predictions_come_in_order_whatever_the_batch(sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 2, (*size, 1)).astype("float32") for size in sizes]
    found = predicted(None, images, lambda model, batch: batch[..., 0].astype(int), 2)
    for image, mask in zip(images, found, strict=True):
        np.testing.assert_array_equal(mask, image[..., 0])


def test_a_binary_logit_is_cut_at_zero() -> None:
    inputs = keras.Input((2, 2, 1))
    model = RobustSegmenter(keras.Model(inputs, keras.layers.Activation("linear")(inputs)))
    images = np.array([[[-1.0, 2.0], [0.5, -3.0]]], "float32")[..., None]
    np.testing.assert_array_equal(network_argmax(model, images), [[[0, 1], [1, 0]]])


def test_samples_are_loaded_once_and_shared() -> None:
    recipe = toy()
    one, other = remembered_source(recipe), remembered_source(recipe)
    assert one.load(0) is one.load(0)
    assert one.load(0) is other.load(0)
    assert isinstance(one, RememberedSource)
    assert one.samples == build_source(recipe).samples
