"""The loss `robust` in a recipe: every block makes its part, mistakes are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest

from keras_robustseg import _recipe_robust as blocks
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import load_recipe

NEEDED = {
    "divergence": {"radius": 0.1},
    "divergence_penalty": {"weight": 0.5},
    "wasserstein": {"cost": "[[0, null], [1, 0]]", "radius": 0.1},
    "spatial": {"window": 1, "price": 0.5},
    "cvar": {"alpha": 0.2},
    "entropic": {"temperature": 0.5},
    "divergence_ball": {"radius": 0.1},
}
TWO_CLASSES = SimpleNamespace(classes=("background", "object"))


def kinds(union):
    return [block.model_fields["kind"].default for block in get_args(get_args(union)[0])]


def with_loss(text):
    override = f"method={{kind: supervised, loss: {{kind: robust{text}}}}}"
    return load_recipe("quickstart", overrides=[override])


def made(text):
    from keras_robustseg._run_method import LOSSES

    fields = with_loss(text).method.loss.model_dump()
    return LOSSES[fields.pop("kind")](fields, TWO_CLASSES)


def part(name, kind):
    options = "".join(f", {key}: {value}" for key, value in NEEDED.get(kind, {}).items())
    return f", {name}: {{kind: {kind}{options}}}"


@pytest.mark.parametrize("kind", kinds(blocks.LabelSet))
def test_every_set_of_labels(kind):
    from keras_robustseg._run_robust import LABEL_SETS

    model = made(part("label_model", kind)).label_model
    assert (type(model) if model else None) is LABEL_SETS.get(kind)


@pytest.mark.parametrize("kind", kinds(blocks.Risk))
@pytest.mark.parametrize("name", ["pixel_risk", "image_risk"])
def test_every_risk(name, kind):
    from keras_robustseg._run_robust import RISKS

    measure = getattr(made(part(name, kind)), name)
    assert (type(measure) if measure else None) is RISKS.get(kind)


def test_defaults_are_the_mean():
    from keras_robustseg.losses import RobustSegmentationLoss

    found, expected = (x.get_config() for x in (made(""), RobustSegmentationLoss()))
    assert {**found, "name": ""} == {**expected, "name": ""}


def test_settings_reach_the_loss():
    loss = made(
        ", cost: gce, gce_order: 0.5, pixel_pool: batch, scope: replica, pixel_risk: {kind: cvar, "
        "alpha: 0.3, smoothing: l2, temperature: 0.1, stance: optimistic}"
    )
    assert (loss.cost, loss.gce_order, loss.pixel_pool, loss.scope) == (
        "gce",
        0.5,
        "batch",
        "replica",
    )
    assert loss.pixel_risk.get_config() == {
        "alpha": 0.3,
        "smoothing": "l2",
        "temperature": 0.1,
        "stance": "optimistic",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (", image_risk: {kind: cvar}", "alpha: missing"),
        (", image_risk: {kind: cvar, alpha: 0}", "number"),
        (", image_risk: {kind: median}", "expected one of"),
        (", label_model: {kind: divergence, radius: -1}", "number"),
        (", label_model: {kind: wasserstein, cost: 3}", "square list"),
        (", label_model: {kind: spatial, window: 0}", "whole number"),
        (", cost: hinge", "expected"),
    ],
)
def test_mistakes_in_a_block(text, expected):
    with pytest.raises(RecipeError, match=expected):
        with_loss(text)


@pytest.mark.parametrize(
    "text",
    [
        ", label_model: {kind: wasserstein, cost: [[0, 1, 1], [1, 0, 1], [1, 1, 0]], radius: 0.1}",
        ", label_model: {kind: wasserstein, cost: [[0, 1], [1, 0]]}",
        ", label_model: {kind: spatial, window: 1, radius: 0.1, price: 1}",
        ", label_model: {kind: divergence, divergence: renyi, radius: 0.1}",
        ", pixel_pool: batch",
    ],
)
def test_parts_that_do_not_go_together(text):
    with pytest.raises(ValueError, match="Received"):
        made(text)
