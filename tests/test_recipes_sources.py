"""A recipe's source block has the fields and defaults of the class that it stands for."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from keras_robustseg import _recipe_data
from keras_robustseg.data._registry import SOURCES, source_class, source_from_config
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import recipe_from_dict

_BLOCKS = {
    block.model_fields["kind"].default: block
    for block in get_args(get_args(_recipe_data.Source)[0])
}
_KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind == "tfds" else ()) for kind in SOURCES]


def _recipe(source):
    return recipe_from_dict(
        {"name": "x", "data": {"source": source}, "method": {"kind": "supervised"}}
    )


def test_every_kind_of_source_has_a_block():
    assert set(_BLOCKS) == set(SOURCES)


@pytest.mark.parametrize("kind", _KINDS)
def test_block_has_the_arguments_of_the_constructor(kind):
    parameters = inspect.signature(source_class(kind)).parameters
    fields = {name: f for name, f in _BLOCKS[kind].model_fields.items() if name != "kind"}
    assert set(fields) == set(parameters)
    for name, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert fields[name].is_required() == required, name
        if not required:
            assert fields[name].default == parameter.default, name


def test_embedded_source_is_built_from_its_block():
    source = source_from_config(_recipe({"kind": "lidc", "size": 48}).data.source.model_dump())
    assert source.load(0).image.shape == (48, 48, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "folder", "classes": ["a", "b"]}, "root: missing, and it has no default"),
        ({"kind": "folder", "root": "r", "classes": ["a"]}, "classes: got a list of 1, expected a "
         "list of 2 or more different names, background first"),
        ({"kind": "folder", "root": "r", "classes": ["a", "a"]}, "classes: got a list of 2, "
         "expected a list of 2 or more different names, background first"),
        ({"kind": "nnunet", "root": "r", "group": "("}, "group: got '(', expected a regular "
         "expression, or null"),
        ({"kind": "npz", "path": "p", "values": {"x": 1}}, "values: got a mapping, expected a "
         "mapping such as {0: 0, 255: 1}, or null"),
        ({"kind": "npz", "path": "p", "dims": 4}, "dims: got 4, expected a whole number from 2 to "
         "3, or null"),
        ({"kind": "nnunet", "root": ""}, "root: got '', expected a text"),
        ({"kind": "lidc", "size": 16}, "size: got 16, expected a whole number from 32 to 256"),
    ],
)  # fmt: skip
def test_wrong_field_of_a_source_is_named(source, message):
    with pytest.raises(RecipeError) as caught:
        _recipe(source)
    assert str(caught.value) == f"recipe: data.source.{message}"


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(RecipeError) as caught:
        _recipe({"kind": "nnunet", "root": "r", "val": 0.5, "test": 0.5})
    assert str(caught.value) == (
        "recipe: data.source: got val 0.5 and test 0.5, expected a sum below 1"
    )
