"""Recipes that are not YAML files: packaged names, JSON, TOML."""

from __future__ import annotations

import pytest

from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import load_recipe


def test_unknown_packaged_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="no such recipe; did you mean `quickstart`"):
        load_recipe("quikstart")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"name": "x",}', "a.json:1: not valid JSON: "),
        ("a.json", '{\n"name": "x",\n"name": "y"}', "a.json: not valid JSON: duplicate key `name`"),
        ("a.json", "[" * 100_000, "a.json: not valid JSON: "),
        ("a.json", '{"name": "x", "seed": -1}', "a.json:1: seed: got -1, expected"),
        ("a.toml", "name = ", "a.toml: not valid TOML: "),
        ("a.toml", "name = 2020-01-01", "a.toml: name: got datetime.date(2020, 1, 1), expected"),
    ],
)
def test_json_and_toml_have_clear_errors_too(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert any(line.startswith(message) for line in str(caught.value).splitlines())
