"""What is wrong with a recipe, one line for each problem.

A line is `WHERE: FIELD: got ..., expected ...`. WHERE is the file and line, or the `--set` that
wrote the value. Names that are nearly right are answered with the name that was meant.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from keras_robustseg._recipe_text import FieldPath, RecipeText

_PLAIN = {
    "missing": "missing, and it has no default",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "model_type": "expected a mapping of fields",
    "too_long": "expected fewer entries",
}


_YES_AND_NO = ("yes", "no", "on", "off", "y", "n")


def describe(error: ValidationError, recipe: RecipeText, schema: type[BaseModel]) -> list[str]:
    """Turn a validation error into lines of text.

    Args:
        error: what pydantic found.
        recipe: the values that were validated, and their places.
        schema: the model that they were validated against.

    Returns:
        One line for each problem, in the order of the file.
    """
    tree = _tree_of(schema)
    lines = [_line(problem, recipe, tree) for problem in error.errors(include_url=False)]
    return sorted(lines, key=_line_number)


def place_of(path: FieldPath, places: Mapping[FieldPath, str]) -> str:
    """Return where a field was written, or the nearest block around it that was."""
    return next(places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in places)


def field_name(path: FieldPath) -> str:
    """Return `training.epochs` for `("training", "epochs")`."""
    return ".".join(map(str, path)) or "recipe"


def suggest(name: Any, names: Iterable[str]) -> str:
    """Return `; did you mean ...?` when one of `names` is near, else nothing."""
    near = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def show(value: Any) -> str:
    """Return a value in few words, as a recipe would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line_number(line: str) -> float:
    """Line of the file that a message starts with; those without one come last."""
    number = line.partition(": ")[0].rpartition(":")[2]
    return int(number) if number.isdecimal() else float("inf")


def _line(problem: Mapping[str, Any], recipe: RecipeText, tree: _SchemaTree) -> str:
    location, value, kind = problem["loc"], problem["input"], problem["type"]
    path = _without_kinds(location, recipe.values)
    if kind in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
        path = (*path, "kind") if isinstance(value, dict) else path
        message = _wrong_kind(value, tree.kinds(location))
    elif kind == "extra_forbidden":
        names = tree.fields(location[:-1])
        near = suggest(path[-1], names)
        message = "unknown field" + (near or f"; the fields here are {', '.join(names)}")
    elif kind in ("rule", "sibling_rule"):
        path, message = path[: -1 if kind == "sibling_rule" else None], problem["msg"]
    elif kind == "missing":
        message = _PLAIN[kind]
    else:
        message = f"got {show(value)}, {_expectation(problem)}"
    return f"{place_of(path, recipe.places)}: {field_name(path)}: {message}"


def _expectation(problem: Mapping[str, Any]) -> str:
    message = _PLAIN.get(problem["type"], problem["msg"])
    if problem["type"] == "literal_error":
        choices = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        message = f"expected one of {choices}"
    if message.startswith("expected one of "):
        message += suggest(problem["input"], message[16:].split(", "))
    elif isinstance(problem["input"], str) and problem["input"].lower() in _YES_AND_NO:
        message += "; write true or false" if "true" in message else ""
    return message


def _wrong_kind(value: Any, kinds: list[str]) -> str:
    expected = f"expected one of {', '.join(kinds)}"
    if not isinstance(value, dict):
        return f"got {show(value)}, expected a mapping with the field `kind`, {expected[9:]}"
    if "kind" not in value:
        return f"missing, {expected}"
    return f"got {show(value['kind'])}, {expected}{suggest(value['kind'], kinds)}"


def _without_kinds(location: FieldPath, values: Any) -> FieldPath:
    """Drop the names of union members that pydantic adds to the path of a field."""
    path: list[str | int] = []
    chosen = False
    for part in location:
        if not chosen and isinstance(values, dict) and values.get("kind") == part:
            chosen = True
            continue
        path.append(part)
        values, chosen = _child(values, part), False
    return tuple(path)


def _child(values: Any, part: str | int) -> Any:
    if isinstance(values, dict):
        return values.get(part)
    if isinstance(values, list) and isinstance(part, int) and part < len(values):
        return values[part]
    return None


class _SchemaTree:
    """Looks up in the JSON Schema which fields, or which kinds, are allowed at a location."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def fields(self, location: FieldPath) -> list[str]:
        """Names of the fields of the block at `location`."""
        return list(self._at(location).get("properties", {}))

    def kinds(self, location: FieldPath) -> list[str]:
        """Names of the forms that the block at `location` may have."""
        forms = (self._open(form) for form in self._at(location).get("oneOf", ()))
        return [form["properties"]["kind"]["const"] for form in forms]

    def _at(self, location: FieldPath) -> dict[str, Any]:
        node = self._root
        for part in location:
            node = self._open(self._step(self._open(node), part))
        return self._open(node)

    def _step(self, node: dict[str, Any], part: str | int) -> dict[str, Any]:
        if isinstance(part, int):
            return node.get("items", {})
        if "discriminator" in node:
            return {"$ref": node["discriminator"]["mapping"].get(part, "#")}
        others = node.get("additionalProperties")
        return node.get("properties", {}).get(part, others if isinstance(others, dict) else {})

    def _open(self, node: dict[str, Any]) -> dict[str, Any]:
        """Follow a reference, and the one form besides null of an optional block."""
        while True:
            if "anyOf" in node:
                node = next(form for form in node["anyOf"] if form.get("type") != "null")
            elif "$ref" in node:
                node = self._root["$defs"].get(node["$ref"].removeprefix("#/$defs/"), {})
            else:
                return node


@functools.cache
def _tree_of(schema: type[BaseModel]) -> _SchemaTree:
    return _SchemaTree(schema.model_json_schema())
