"""Recipe text (YAML, JSON or TOML) to plain values, and the line on which each value stands.

The reader builds mappings, lists, texts, numbers, booleans and nulls, and nothing else: tags are
refused, and so are duplicate keys, files above 1 MB, deep nesting and aliases that multiply.
Plain words follow YAML 1.2: `1e-3` is a number, while `no`, `on` and `yes` stay texts.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from keras_robustseg.errors import RecipeError

FieldPath: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 20_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN"), float("nan")),
}


@dataclasses.dataclass(frozen=True)
class RecipeText:
    """Plain values of a recipe, and where each of them was written.

    Attributes:
        values: what the text says, as dicts, lists, str, int, float, bool and None.
        places: path of a value, such as `("training", "epochs")` -> `"my.yaml:12"`. The root `()`
            is always there; TOML has no other entry, since its parser keeps no lines.
    """

    values: Any
    places: dict[FieldPath, str]


def read_text(path: Path) -> str:
    """Return the text of a recipe file, refusing what is too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than 1 MB, which no recipe is; is this a recipe?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text; is this a recipe?") from error


def parse(text: str, *, name: str, form: str = "yaml") -> RecipeText:
    """Parse recipe text.

    Args:
        text: the text.
        name: how messages call it, usually the file's name.
        form: "yaml", "json" or "toml".

    Returns:
        The values and their places.

    Raises:
        RecipeError: the text is not well-formed, or not harmless.

    Example:
        `parse("training: {epochs: 3}", name="my.yaml").values["training"]["epochs"]` gives `3`.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{name}: longer than 1 MB, which no recipe is")
    reader = {"yaml": _parse_yaml, "json": _parse_json, "toml": _parse_toml}[form]
    return reader(text, name)


def parse_value(text: str, *, name: str) -> Any:
    """Return one value written in YAML, as on the right of `--set field=value`."""
    try:
        return _parse_yaml(text, name).values
    except RecipeError as error:
        problem = str(error).removeprefix(name).partition(": ")[2]  # a value has no lines
        raise RecipeError(f"{name}: {problem}") from None


# YAML


def _parse_yaml(text: str, name: str) -> RecipeText:
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = error.problem or error.context or "not well-formed"
        raise RecipeError(f"{place}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise RecipeError(f"{name}: not valid YAML: {problem}") from error
    reader = _NodeReader(name)
    return RecipeText(reader.read(node, ()), reader.places)


def _check_events(text: str, name: str) -> None:
    """Refuse tags and deep nesting before a recursive composer sees them."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        place = f"{name}:{line}"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            _check_depth(depth, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if tag := getattr(event, "tag", None):
            raise RecipeError(f"{place}: got the tag {tag!r}; a recipe has no YAML tags")


def _check_depth(depth: int, place: str) -> None:
    if depth > MAX_DEPTH:
        raise RecipeError(f"{place}: nested more than {MAX_DEPTH} deep, which no recipe is")


class _NodeReader:
    """Turns composed nodes into plain values; aliased nodes are counted each time they are used."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[FieldPath, str] = {(): name}
        self._values = 0

    def read(self, node: yaml.Node | None, path: FieldPath) -> Any:
        if node is None:
            return None
        place = self._place(node)
        self.places.setdefault(path, place)
        self._values += 1
        if self._values > MAX_VALUES:
            raise RecipeError(f"{place}: more than {MAX_VALUES} values, aliases counted each time")
        _check_depth(len(path), place)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        # A plain word has no style; a quoted one is a text whatever it says.
        return node.value if getattr(node, "style", None) else _scalar(node.value, place)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            place = self._place(key)
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{place}: a key must be a plain word")
            if key.value in values:
                first = self.places[(*path, key.value)]
                raise RecipeError(f"{place}: duplicate key `{key.value}`, first given at {first}")
            self.places[(*path, key.value)] = place
            values[key.value] = self.read(value, (*path, key.value))
        return values

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def _scalar(text: str, place: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else text
    except ValueError as error:
        raise RecipeError(f"{place}: a number of {len(text)} digits is too long") from error


# JSON and TOML


def _parse_json(text: str, name: str) -> RecipeText:
    try:
        values = json.loads(text, object_pairs_hook=_unique_pairs)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{name}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{name}: not valid JSON: {error}") from error
    _check_tree(values, name)
    try:
        # JSON is flow-style YAML but for rare escapes; the composer is asked for the lines only.
        places = _parse_yaml(text, name).places
    except RecipeError:
        places = {(): name}
    return RecipeText(values, places)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key `{next(key for key in keys if keys.count(key) > 1)}`")
    return values


def _parse_toml(text: str, name: str) -> RecipeText:
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"{name}: not valid TOML: {error}") from error
    _check_tree(values, name)
    return RecipeText(values, {(): name})


def _check_tree(values: Any, name: str) -> None:
    """Apply the limits on depth and number of values to what another parser built."""
    count, pending = 0, [(values, 0)]
    while pending:
        value, depth = pending.pop()
        count += 1
        _check_depth(depth, name)
        pending.extend((child, depth + 1) for child in _children(value))
    if count > MAX_VALUES:
        raise RecipeError(f"{name}: more than {MAX_VALUES} values, which no recipe has")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
