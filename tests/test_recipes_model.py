"""The block `model` in a recipe: every kind makes its network, mistakes are told."""

from __future__ import annotations

import numpy as np
import pytest

from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import load_recipe

HEAD = "{kind: tv_segmentation, initial_weight: 0.2, iterations: 100}"
KINDS = {
    "unet": f"{{kind: unet, width: 2, depth: 2, head: {HEAD}}}",
    "deep": f"{{kind: unet, width: 2, depth: 3, deep_supervision: true, head: {HEAD}}}",
    "equilibrium": "{kind: equilibrium, units: 3}",
    "unrolled": f"{{kind: unrolled_proximal, channels: 4, kernel_size: 3, steps: 2, head: {HEAD}}}",
}


def recipe(model, *overrides):
    return load_recipe("quickstart", overrides=[f"model={model}", *overrides])


def network(model, shape=(None, None, 1), classes=3):
    from keras_robustseg._run_model import make_network

    return make_network(recipe(model), shape, classes, ([0.0], [1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_logits_of_the_size_of_the_image(kind, rng):
    made = network(KINDS[kind])
    outputs = made(rng.normal(size=(2, 9, 7, 1)).astype("float32"))
    logits = outputs[0] if kind == "deep" else outputs
    assert logits.shape == (2, 9, 7, 3)
    assert np.isfinite(np.asarray(logits)).all()
    assert isinstance(outputs, list) is (kind == "deep")


def test_volumes_too(rng):
    made = network(KINDS["unrolled"], (None, None, None, 1), 2)
    assert made(rng.normal(size=(1, 4, 5, 3, 1)).astype("float32")).shape == (1, 4, 5, 3, 2)


def test_the_head_gives_labels_of_less_perimeter(rng):
    import keras

    image = rng.normal(size=(1, 16, 16, 1)).astype("float32")
    cut = []
    for head in ("null", HEAD.replace("0.2", "2.0")):
        keras.utils.set_random_seed(1)
        made = network(f"{{kind: unrolled_proximal, channels: 4, steps: 2, head: {head}}}")
        labels = np.asarray(made(image)).argmax(-1)[0]
        cut.append(np.sum(labels[1:] != labels[:-1]) + np.sum(labels[:, 1:] != labels[:, :-1]))
    assert cut[1] < cut[0] / 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "{kind: unet, head: {kind: tv}}",
            "model.head.kind: got 'tv', expected one of tv_segmentation",
        ),
        (
            "{kind: unet, head: {kind: tv_segmentation, weight: -1}}",
            "model.head.weight: got -1, expected a number of at least 0, or learned",
        ),
        (
            "{kind: unet, head: {kind: tv_segmentation, epsilonn: 1}}",
            "model.head.epsilonn: unknown field; did you mean `epsilon`?",
        ),
        (
            "{kind: equilibrium, kernel_size: 4}",
            "model.kernel_size: got 4, expected an odd number from 1 to 31",
        ),
        (
            "{kind: unrolled_proximal, penalty: l2}",
            "model.penalty: got 'l2', expected one of l1, nonnegative_l1, simplex",
        ),
        (
            "{kind: equilibium}",
            "model.kind: got 'equilibium', expected one of unet, hub, equilibrium, "
            "unrolled_proximal; did you mean `equilibrium`?",
        ),
    ],
)
def test_mistakes_are_told(model, message):
    with pytest.raises(RecipeError) as error:
        recipe(model)
    assert message in str(error.value)
