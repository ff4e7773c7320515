"""Recipes: a whole training written down in one YAML, JSON or TOML file.

A recipe is data. It is read safely, checked field by field, and names things only out of closed
lists: nothing in it is evaluated or imported.

Example:
    ```python
    from keras_robustseg.recipes import load_recipe

    recipe = load_recipe("quickstart", overrides=["training.epochs=3"])
    recipe.training.epochs, recipe.recipe_hash
    ```
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from keras_robustseg._recipe_override import apply_overrides
from keras_robustseg._recipe_pixels import PixelRecipe
from keras_robustseg._recipe_problems import describe, show, suggest
from keras_robustseg._recipe_schema import Recipe
from keras_robustseg._recipe_text import RecipeText, parse, read_text
from keras_robustseg.errors import RecipeError

__all__ = [
    "PixelRecipe",
    "Recipe",
    "copy_recipe",
    "dump",
    "json_schema",
    "list_recipes",
    "load_network_recipe",
    "load_recipe",
    "recipe_from_dict",
    "recipe_text",
    "require_network",
]

_FORMS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}


def load_recipe(source: str | Path, *, overrides: Sequence[str] = ()) -> Recipe | PixelRecipe:
    """Read and check a recipe.

    Args:
        source: a file (`.yaml`, `.yml`, `.json` or `.toml`), or the name of a recipe that comes
            with the package, such as `"quickstart"`.
        overrides: changes, each `field.name=value` as after `--set`.

    Returns:
        The recipe; a `PixelRecipe` where it has the block `classifier`. Paths in it are relative to
        the current directory.

    Raises:
        RecipeError: there is no such recipe, or something is wrong with it. Every problem has a
            line of its own that names the file, the line and the field.

    Example:
        `load_recipe("quickstart", overrides=["data.noise=[]"]).data.noise` gives `()`.
    """
    path = _find(source)
    return _validate(parse(read_text(path), name=str(path), form=_FORMS[path.suffix]), overrides)


def load_network_recipe(source: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe that trains a network; the same as `load_recipe` else.

    Raises:
        RecipeError: also for the recipe of a pixel classifier.

    Example:
        `load_network_recipe("quickstart").training.epochs`
    """
    return require_network(load_recipe(source, overrides=overrides), source)


def require_network(recipe: Recipe | PixelRecipe, name: str | Path = "recipe") -> Recipe:
    """Return the recipe if it trains a network.

    Raises:
        RecipeError: it is of a pixel classifier; `name` is how the message calls it.
    """
    if isinstance(recipe, PixelRecipe):
        raise RecipeError(f"{name}: is of a pixel classifier, expected a recipe of a network")
    return recipe


def recipe_from_dict(
    values: Mapping[str, Any], *, name: str = "recipe", overrides: Sequence[str] = ()
) -> Recipe | PixelRecipe:
    """Check a recipe that is given as plain values, such as what `Recipe.resolved` returns.

    Args:
        values: the fields.
        name: how messages call it.
        overrides: changes, as for `load_recipe`.

    Returns:
        The recipe.

    Raises:
        RecipeError: something is wrong with it; all problems are listed.

    Example:
        `recipe_from_dict(recipe.resolved()) == recipe`
    """
    return _validate(RecipeText(dict(values), {(): name}), overrides)


def dump(recipe: Recipe | PixelRecipe) -> str:
    """Return a recipe as YAML text with every default written out.

    Example:
        `Path("resolved.yaml").write_text(dump(recipe))`
    """
    # Sharing one object twice would write an alias; plain values from JSON share nothing.
    return yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=100)


def json_schema(*, pixels: bool = False) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe, for editors that complete and check.

    Args:
        pixels: of the recipe of a pixel classifier, instead of a network.

    Example:
        `json_schema()["properties"]["training"]`
    """
    schema = (PixelRecipe if pixels else Recipe).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def list_recipes() -> dict[str, str]:
    """Return the recipes that come with the package: name -> first line of its header."""
    return {path.stem: _headline(path) for path in sorted(packaged_folder().glob("*.yaml"))}


def recipe_text(name: str) -> str:
    """Return the text of a recipe that comes with the package, comments included.

    Raises:
        RecipeError: there is none of this name.
    """
    return read_text(_packaged(name))


def copy_recipe(name: str, path: str | Path) -> Path:
    """Copy a recipe that comes with the package, to start one's own from.

    Args:
        name: its name.
        path: the file to write; a folder means `NAME.yaml` in it. Never overwritten.

    Returns:
        The file that was written.

    Raises:
        RecipeError: there is no such recipe, or the file exists or cannot be written.

    Example:
        `copy_recipe("quickstart", "my.yaml")`
    """
    text = recipe_text(name)
    target = Path(path)
    target = target / f"{name}.yaml" if target.is_dir() else target
    if target.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{target}: expected a file name that ends in .yaml")
    try:
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{target}: exists already; choose another name") from error
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


def _validate(recipe: RecipeText, overrides: Sequence[str]) -> Recipe | PixelRecipe:
    if not isinstance(recipe.values, dict):
        got = "nothing" if recipe.values is None else show(recipe.values)
        raise RecipeError(f"{recipe.places[()]}: got {got}, expected the fields of a recipe")
    problems: list[str] = []
    pixels = "classifier" in recipe.values
    schema: type[Recipe | PixelRecipe] = PixelRecipe if pixels else Recipe
    if overrides:
        recipe, problems = apply_overrides(recipe, overrides, defaults=_defaults(pixels))
    try:
        checked = schema.model_validate(recipe.values)
    except ValidationError as error:
        problems += describe(error, recipe, schema)
    if problems:
        raise RecipeError("\n".join(problems))
    return checked


@functools.cache
def _defaults(pixels: bool) -> dict[str, Any]:
    """Resolved values of the shortest recipe, to learn what a block left out would be."""
    shortest: dict[str, Any] = {"name": "x", "data": {"source": {"kind": "lidc"}}}
    if pixels:
        own = {"classifier": {"kind": "logistic_regression"}}
        return PixelRecipe.model_validate({**shortest, **own}).resolved()
    return Recipe.model_validate({**shortest, "method": {"kind": "supervised"}}).resolved()


def _find(source: str | Path) -> Path:
    path = Path(source)
    return path if path.suffix in _FORMS else _packaged(str(source))


def _packaged(name: str) -> Path:
    known = {path.stem: path for path in packaged_folder().glob("*.yaml")}
    if name not in known:
        raise RecipeError(
            f"{name}: no such recipe{suggest(name, known)}; "
            f"the package has {', '.join(sorted(known))}; a file has to end in {', '.join(_FORMS)}"
        )
    return known[name]


@functools.cache
def packaged_folder() -> Path:
    """Return the folder of the recipes: in the installed package, or in the repository."""
    package = Path(str(importlib.resources.files("keras_robustseg")))
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def _headline(path: Path) -> str:
    first = read_text(path).partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
