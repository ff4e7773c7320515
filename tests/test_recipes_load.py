"""Recipes that are right: what is read, defaults, overrides, names, copies, the JSON Schema."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_robustseg._recipe_text import parse
from keras_robustseg.data.noise._fields import FIELDS
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import (
    Recipe,
    copy_recipe,
    dump,
    json_schema,
    list_recipes,
    load_recipe,
    recipe_from_dict,
    recipe_text,
)

SHORT = {"name": "x", "data": {"source": {"kind": "lidc"}}, "method": {"kind": "supervised"}}


def _scalar(text):
    return parse(f"a: {text}", name="t").values["a"]


@pytest.mark.parametrize(
    "text",
    ["1e-3", "1.e3", "-2E5", ".5", "+.5e2", "7", "-7", "007", "true", "False", "null", "~", "3."],
)
def test_plain_words_are_read_as_yaml_1_2_reads_them(text):
    expected = {"true": True, "False": False, "null": None, "~": None}.get(text)
    value = _scalar(text)
    if text in ("true", "False", "null", "~"):
        assert value is expected
    else:
        assert value == float(text)
        assert isinstance(value, int) == text.lstrip("-").isdecimal()


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "y", "n", "1_000", "0x10", "1:30", "2020-01-01", "1e", "."]
)
def test_other_words_stay_texts(text):
    assert _scalar(text) == text


@pytest.mark.parametrize("text", ['"1e-3"', "'true'", '"null"', "'5'"])
def test_quoted_words_stay_texts(text):
    assert _scalar(text) == text[1:-1]


def test_every_value_has_the_line_on_which_it_stands():
    text = "a: 1\nb:\n  - x\n  - c: 2\n    d: [3,\n        4]\n"
    places = parse(text, name="f.yaml").places
    assert places[("a",)] == "f.yaml:1"
    assert places[("b",)] == "f.yaml:2"
    assert places[("b", 1, "d")] == "f.yaml:5"
    assert places[("b", 1, "d", 1)] == "f.yaml:6"


def test_yaml_json_and_toml_mean_the_same(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(SHORT, indent="\t"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(SHORT))
    (tmp_path / "r.toml").write_text(
        'name = "x"\n[data.source]\nkind = "lidc"\n[method]\nkind = "supervised"\n'
    )
    hashes = {load_recipe(tmp_path / f"r.{form}").recipe_hash for form in ("json", "yaml", "toml")}
    assert hashes == {recipe_from_dict(SHORT).recipe_hash}


def test_resolved_has_every_default_and_reads_back_to_the_same():
    recipe = recipe_from_dict(SHORT)
    resolved = recipe.resolved()
    assert resolved["training"]["optimizer"]["kind"] == "adam"
    assert resolved["pipeline"]["augment"]["affine"] is None
    again = recipe_from_dict(json.loads(json.dumps(resolved)))
    assert again == recipe
    assert again.recipe_hash == recipe.recipe_hash


def test_hash_tells_recipes_apart_and_ignores_what_is_not_said():
    first = recipe_from_dict(SHORT)
    assert recipe_from_dict(SHORT | {"seed": 0}).recipe_hash == first.recipe_hash
    assert recipe_from_dict(SHORT | {"seed": 1}).recipe_hash != first.recipe_hash


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_packaged_recipe_is_valid_and_survives_dump(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    path = tmp_path / "again.yaml"
    path.write_text(dump(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_packaged_recipe_has_the_header_that_readers_need(name):
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    assert list_recipes()[name] == header[0].lstrip("# ")
    text = "\n".join(header)
    assert all(f"# {word}:" in text for word in ("Expected", "Time", "Machine"))


def test_recipes_that_the_package_promises_are_there():
    promised = {
        "quickstart",
        "ce_baseline",
        "pencil_lidc",
        "pencil_icbm152",
        "folder_template",
        "nnunet_template",
    }
    assert promised <= set(list_recipes())


def test_baseline_differs_from_quickstart_in_method_and_name_only():
    differing = {
        key
        for key, value in load_recipe("quickstart").resolved().items()
        if load_recipe("ce_baseline").resolved()[key] != value
    }
    assert differing == {"name", "method"}


def test_overrides_reach_blocks_lists_and_whole_values():
    values = SHORT | {"data": {"source": {"kind": "lidc"}, "noise": [{"kind": "dilate"}]}}
    before = copy.deepcopy(values)
    recipe = recipe_from_dict(
        values,
        overrides=[
            "training.epochs=3",
            "training.optimizer.learning_rate=1e-4",
            "data.noise.0.radius=[1, 3]",
            "export.formats.0=onnx",
            "evaluation={surface: false}",
            "name=other",
        ],
    )
    assert recipe.training.epochs == 3
    assert recipe.training.optimizer.kind == "adam"
    assert recipe.training.optimizer.learning_rate == 1e-4
    assert recipe.data.noise[0].level()["radius"] == (1.0, 3.0)
    assert recipe.export.formats == ("onnx",)
    assert recipe.evaluation.surface is False
    assert recipe.name == "other"
    assert values == before


def test_later_override_wins():
    recipe = recipe_from_dict(SHORT, overrides=["training={epochs: 5}", "training.epochs=7"])
    assert recipe.training.epochs == 7


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_noise_block_has_the_fields_and_defaults_of_its_function(kind):
    values = SHORT | {"data": {"source": {"kind": "lidc"}, "noise": [{"kind": kind}]}}
    block = recipe_from_dict(values).data.noise[0]
    assert block.level() == {name: field.default for name, field in FIELDS[kind].items()}


def test_noise_that_its_function_would_refuse_is_a_recipe_error():
    noise = [{"kind": "dilate", "radius": [4, 1]}]
    with pytest.raises(RecipeError, match=r"^recipe: data\.noise\.0: .*lo <= hi"):
        recipe_from_dict(SHORT | {"data": {"source": {"kind": "lidc"}, "noise": noise}})


def test_copy_starts_ones_own_recipe_and_never_overwrites(tmp_path):
    path = copy_recipe("quickstart", tmp_path / "my.yaml")
    assert path.read_text() == recipe_text("quickstart")
    assert load_recipe(path) == load_recipe("quickstart")
    with pytest.raises(RecipeError, match="exists already"):
        copy_recipe("quickstart", path)
    assert copy_recipe("quickstart", tmp_path) == tmp_path / "quickstart.yaml"
    with pytest.raises(RecipeError, match=r"ends in \.yaml"):
        copy_recipe("quickstart", tmp_path / "my.txt")
    with pytest.raises(RecipeError, match="cannot be written"):
        copy_recipe("quickstart", tmp_path / "none" / "my.yaml")
    with pytest.raises(RecipeError, match="no such recipe"):
        copy_recipe("../quickstart", tmp_path / "other.yaml")


def test_schema_closes_every_block_and_describes_unions():
    schema = json_schema()
    blocks = [schema, *schema["$defs"].values()]
    assert all(block["additionalProperties"] is False for block in blocks)
    assert set(schema["properties"]) == set(Recipe.model_fields)
    kinds = schema["$defs"]["DataBlock"]["properties"]["noise"]["items"]["discriminator"]
    assert set(kinds["mapping"]) == set(FIELDS)
    json.dumps(schema)


# Mutation: whatever is done to a valid recipe, the answer is a recipe or a RecipeError.

_EXAMPLES = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["kind", "lidc", "pencil", 10**400, -(10**400), "é\u0000", "1e999", 0, 1]),
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def _paths(values, prefix=()):
    yield prefix
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items if isinstance(values, dict | list) else ():
        yield from (
            _paths(value, (*prefix, key)) if isinstance(value, dict | list) else [(*prefix, key)]
        )


def _parent(values, path):
    for key in path[:-1]:
        values = values[key]
    return values


@_EXAMPLES
@given(st.data())
def test_mutated_recipe_is_valid_or_a_recipe_error(data):
    values = load_recipe("pencil_icbm152").resolved()
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(filter(None, _paths(values)), key=repr)))
        parent = _parent(values, path)
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "replace":
            parent[path[-1]] = data.draw(_VALUES)
        elif action == "delete":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[data.draw(st.text(max_size=8))] = data.draw(_VALUES)
    _valid_or_recipe_error(lambda: recipe_from_dict(values))


@_EXAMPLES
@given(data=st.data())
def test_mutated_text_is_valid_or_a_recipe_error(data, tmp_path_factory):
    text = recipe_text("quickstart")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 12)))
        piece = data.draw(st.text(alphabet="{}[]:,-&*!|>'\"#%@`\t\n ab1.\x00é", max_size=6))
        text = text[:start] + piece + text[stop:]
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(text, encoding="utf-8")
    _valid_or_recipe_error(lambda: load_recipe(path))


@_EXAMPLES
@given(
    st.text(max_size=20),
    st.sampled_from(["", "training.epochs", "data.noise.0", "data.source.kind", "a.b.c", "name"]),
)
def test_any_override_is_valid_or_a_recipe_error(text, field):
    _valid_or_recipe_error(lambda: recipe_from_dict(SHORT, overrides=[f"{field}{text}"]))
    _valid_or_recipe_error(lambda: recipe_from_dict(SHORT, overrides=[f"{field}={text}"]))


def _valid_or_recipe_error(load):
    try:
        recipe = load()
    except RecipeError:
        return
    assert recipe_from_dict(recipe.resolved()) == recipe
