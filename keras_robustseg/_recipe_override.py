"""Overrides of single fields, as written after `--set`: `training.epochs=3`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from keras_robustseg._recipe_problems import field_name, show
from keras_robustseg._recipe_text import FieldPath, RecipeText, parse_value
from keras_robustseg.errors import RecipeError


def apply_overrides(
    recipe: RecipeText, overrides: Sequence[str], *, defaults: Mapping[str, Any]
) -> tuple[RecipeText, list[str]]:
    """Write overrides into a recipe; the place of what they wrote becomes `--set FIELD=VALUE`.

    Args:
        recipe: the recipe; it is not changed.
        overrides: each `field.name=value`. A number in the name is a position in a list; the
            value is YAML, so `data.noise=[]` sets a whole list.
        defaults: resolved values of a recipe that leaves out all it can. A block that the recipe
            does not write is opened with the `kind` that it has here.

    Returns:
        The changed recipe, and one line for each override that could not be applied: it has no
        `=`, is not YAML, or names a position that is not there.

    Example:
        `apply_overrides(parse("a: {b: 1}", name="x"), ["a.b=2"], defaults={})[0].values`
    """
    changed = RecipeText(copy.deepcopy(recipe.values), dict(recipe.places))
    problems = []
    for override in overrides:
        try:
            _apply(changed, override, defaults)
        except RecipeError as error:
            problems.append(str(error))
    return changed, problems


def _apply(recipe: RecipeText, override: str, defaults: Mapping[str, Any]) -> None:
    name, equals, text = override.partition("=")
    place = f"--set {override if len(override) <= 80 else override[:77] + '...'}"
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{place}: expected FIELD=VALUE, such as training.epochs=3")
    value = parse_value(text, name=place)
    _write(recipe, _Descent(place, defaults), parts, value)


class _Descent:
    """The way from the root of a recipe to the field that an override names."""

    def __init__(self, place: str, defaults: Any) -> None:
        self.place = place
        self.path: FieldPath = ()
        self._defaults = defaults

    def key(self, values: Any, part: str) -> str | int:
        """Check that `part` can be taken from `values`; return it as a key or a position."""
        if isinstance(values, dict):
            return part
        here = field_name(self.path)
        if not isinstance(values, list):
            raise RecipeError(f"{self.place}: {here} is {show(values)}, which has no `{part}`")
        if not part.isdecimal() or len(part) > 6 or int(part) >= len(values):
            some = f"positions 0 to {len(values) - 1}" if values else "no entries"
            raise RecipeError(f"{self.place}: {here} has {some}, got {part!r}")
        return int(part)

    def open(self, values: Any, part: str) -> Any:
        """Step into `part`, which becomes a block if the recipe does not have it."""
        key = self.key(values, part)
        self._defaults = self._defaults.get(key) if isinstance(self._defaults, Mapping) else None
        self.path = (*self.path, key)
        if isinstance(key, str) and values.get(key) is None:
            values[key] = self._new_block()
        return values[key]

    def _new_block(self) -> Any:
        if isinstance(self._defaults, list):
            return copy.deepcopy(self._defaults)
        kind = self._defaults.get("kind") if isinstance(self._defaults, Mapping) else None
        return {"kind": kind} if kind else {}


def _write(recipe: RecipeText, way: _Descent, parts: list[str], value: Any) -> None:
    values = recipe.values
    for part in parts[:-1]:
        values = way.open(values, part)
        recipe.places.setdefault(way.path, way.place)
    key = way.key(values, parts[-1])
    values[key] = value
    path = (*way.path, key)
    for old in [known for known in recipe.places if known[: len(path)] == path]:
        del recipe.places[old]
    recipe.places[path] = way.place
