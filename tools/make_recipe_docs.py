"""Write the field tables of docs/recipes.md from the recipe's JSON Schema.

Usage: python tools/make_recipe_docs.py          write them
       python tools/make_recipe_docs.py --check  exit with 1 if they are out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_robustseg.recipes import json_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BEGIN = "<!-- fields: written by tools/make_recipe_docs.py -->"
END = "<!-- end of fields -->"
PIXELS_BEGIN = "<!-- fields of pixel classifiers: written by tools/make_recipe_docs.py -->"
PIXELS_END = "<!-- end of fields of pixel classifiers -->"
SHARED = ("name", "seed", "data", "evaluation")

Schema = dict[str, Any]


def page_with_fields(text: str) -> str:
    """Return the page with the tables between its markers replaced by fresh ones."""
    schema = json_schema()
    text = _between(text, BEGIN, END, "\n\n".join(_sections("", schema, schema["$defs"])))
    schema = json_schema(pixels=True)
    own = {name: field for name, field in schema["properties"].items() if name not in SHARED}
    tables = "\n\n".join(
        table for name, field in own.items() for table in _sections(name, field, schema["$defs"])
    )
    return _between(text, PIXELS_BEGIN, PIXELS_END, tables)


def _between(text: str, begin: str, end: str, tables: str) -> str:
    """The page with `tables` between two markers."""
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE}: expected the markers {begin} and {end}")
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def _sections(path: str, field: Schema, defs: dict[str, Schema]) -> Iterator[str]:
    """The table of the blocks that a field may hold, then those of the fields inside them."""
    blocks = _blocks(field, defs)
    inner = {
        name: value
        for block in blocks
        for name, value in block["properties"].items()
        if _blocks(value, defs)
    }
    if blocks:
        yield _section(path, field, blocks, set(inner))
    for name, value in inner.items():
        yield from _sections(f"{path}.{name}".lstrip("."), value, defs)


def _blocks(field: Schema, defs: dict[str, Schema]) -> list[Schema]:
    """The blocks that a field may hold; none where it is a plain value."""
    if "$ref" in field:
        return [defs[field["$ref"].rpartition("/")[2]]]
    if "properties" in field:
        return [field]
    options = [*field.get("oneOf", ()), *field.get("anyOf", ()), field.get("items")]
    return [block for option in options if option for block in _blocks(option, defs)]


def _section(path: str, field: Schema, blocks: list[Schema], nested: set[str]) -> str:
    """Heading, what the block is, and one row for each field that is no block itself."""
    several = len(blocks) > 1
    parts = [f"### `{path}`" if path else "### Top level"]
    if {"type": "null"} in field.get("anyOf", ()):
        parts.append("May be `null`, and is by default.")
    if field.get("type") == "array":
        parts.append(f"A list: {field.get('description', '')}.")
    if several:
        parts.append("\n".join(f"- `kind: {_kind(b)}`: {_described(b)}" for b in blocks))
    elif path:
        parts.append(_described(blocks[0]))
    rows = _rows(blocks, several, nested)
    if rows:
        columns = ["field", *(["kinds"] if several else []), "value", "default", "meaning"]
        rows = [columns, ["---"] * len(columns), *rows]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def _rows(blocks: list[Schema], several: bool, nested: set[str]) -> list[list[str]]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for block in blocks:
        for name, value in block["properties"].items():
            if name not in nested and "const" not in value:
                required = name in block.get("required", ())
                key = (name, json.dumps([value, required]))
                kinds.setdefault(key, []).append(_kind(block))
    rows = []
    for (name, content), used in kinds.items():
        value, required = json.loads(content)
        default = "**required**" if required else f"`{json.dumps(value.get('default'))}`"
        shown = "all" if len(used) == len(blocks) else ", ".join(used)
        meaning = value.get("description", "").replace("|", "\\|")
        rows.append([f"`{name}`", *([shown] if several else []), _allowed(value), default, meaning])
    return rows


def _kind(block: Schema) -> str:
    return block["properties"].get("kind", {}).get("const", "")


def _described(block: Schema) -> str:
    return " ".join(block.get("description", "").split())


def _allowed(value: Schema) -> str:
    """What a field may hold, in words."""
    if "anyOf" in value:
        return " or ".join(_allowed(option) for option in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    words = {"integer": "whole number", "null": "`null`", "boolean": "`true`, `false`"}
    words |= {"string": "text", "object": "mapping", "number": "number"}
    kind = value.get("type", "")
    if kind == "array":
        return _allowed_list(value)
    return words.get(kind, "see meaning") + _range(value)


def _allowed_list(value: Schema) -> str:
    least, most = value.get("minItems"), value.get("maxItems")
    count = f" of {least}" if least == most and least else f" of {least} to {most}" if most else ""
    return f"list{count} ({_allowed(value['items'])})" if value.get("items") else f"list{count}"


def _range(value: Schema) -> str:
    bounds = {"minimum": "from", "exclusiveMinimum": "above"}
    bounds |= {"maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {value[key]:.10g}" for key, word in bounds.items() if key in value]
    return f" {' and '.join(said)}".replace(" and to ", " to ") if said else ""


def main() -> int:
    """Write or check the page."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = page_with_fields(text)
    if "--check" in sys.argv[1:]:
        return int(fresh != text)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
