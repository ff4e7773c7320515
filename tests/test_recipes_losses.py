"""Every loss that a recipe can name: its fields are those of the class, and mistakes are told."""

from __future__ import annotations

from typing import get_args

import pytest

from keras_robustseg import _recipe_losses as blocks
from keras_robustseg import losses
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import load_recipe

BLOCKS = get_args(blocks.RobustLoss)
NEEDED = {"forward_correction": {"transition": 0.2}, "backward_correction": {"transition": 0.2}}


def kind_of(block):
    return block.model_fields["kind"].default


def with_loss(text):
    override = f"method={{kind: supervised, loss: {text}}}"
    return load_recipe("quickstart", overrides=[override]).method.loss


@pytest.mark.parametrize("block", BLOCKS, ids=kind_of)
def test_the_block_makes_its_loss_with_the_same_defaults(block):
    from keras_robustseg._run_method import LOSSES

    kind = kind_of(block)
    given = {"name": "a", **NEEDED.get(kind, {})}
    fields = {"name": "a", **block(**NEEDED.get(kind, {})).model_dump()}
    assert fields.pop("kind") == kind
    made, default = LOSSES[kind](fields, None), LOSSES[kind](given, None)
    assert made.get_config() == default.get_config()
    assert set(fields) <= set(made.get_config())


def test_every_kind_loads_from_a_recipe():
    for block in BLOCKS:
        kind = kind_of(block)
        options = "".join(f", {name}: {value}" for name, value in NEEDED.get(kind, {}).items())
        assert isinstance(with_loss(f"{{kind: {kind}{options}}}"), block)


def test_a_matrix_and_a_word_pass():
    loss = with_loss("{kind: forward_correction, transition: [[0.9, 0.1], [0.2, 0.8]]}")
    made = losses.ForwardCorrection(loss.transition)
    assert made.transition == [[0.9, 0.1], [0.2, 0.8]]
    assert with_loss("{kind: t_loss, nu: likeliest}").nu == "likeliest"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{kind: gce, q: 0}", "number"),
        ("{kind: gce, q: half}", "number"),
        ("{kind: t_loss, nu: best}", "a number above 0, or likeliest"),
        ("{kind: t_loss, nu: 0}", "a number above 0, or likeliest"),
        ("{kind: t_loss, dimension: 7}", "an even number"),
        ("{kind: sce, log_zero: 0}", "number"),
        ("{kind: noise_robust_dice, gamma: 3}", "number from 1 to 2"),
        ("{kind: bootstrapping, belief: firm}", "soft"),
        ("{kind: forward_correction}", "transition"),
        ("{kind: forward_correction, transition: 1}", "each sum to 1"),
        ("{kind: forward_correction, transition: [[0.9, 0.2], [0, 1]]}", "each sum to 1"),
        ("{kind: backward_correction, transition: [[0.5, 0.5]]}", "each sum to 1"),
        ("{kind: mae, q: 0.5}", "q"),
    ],
)
def test_mistakes_are_told(text, expected):
    with pytest.raises(RecipeError) as error:
        with_loss(text)
    assert expected in str(error.value)
