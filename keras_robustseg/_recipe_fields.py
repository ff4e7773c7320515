"""Kinds of recipe fields: each has one check and says in one phrase what it expects.

They are used as `Annotated[float, number(gt=0, lt=1)]`. Whatever is wrong with a value, the error
is that one phrase ("expected a number between 0 and 1 (exclusive)"). Values are never converted:
a text is no number, and a boolean is neither number nor text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Block(BaseModel):
    """A mapping of a recipe: closed (no unknown keys), strict and immutable."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Expect:
    """Metadata of an annotation: the check in pydantic's terms, and the phrase for its error."""

    schema: CoreSchema
    phrase: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, self.schema)

    def _check(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except (ValidationError, PydanticCustomError, OverflowError):
            raise wrong(self.phrase) from None


def wrong(phrase: str) -> PydanticCustomError:
    """Return the error for a value that should have been `phrase`."""
    return PydanticCustomError("expected", "expected {phrase}", {"phrase": phrase})


def rule(text: str) -> PydanticCustomError:
    """Return the error for a block whose fields contradict each other; `text` says it all."""
    return PydanticCustomError("rule", "{text}", {"text": text})


def sibling_rule(text: str) -> PydanticCustomError:
    """Return the same error, for a check that hangs on the last of the fields concerned."""
    return PydanticCustomError("sibling_rule", "{text}", {"text": text})


def number(
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    null: bool = False,
) -> Expect:
    """A finite number within bounds, or null where `null` says so."""
    inner = core_schema.float_schema(strict=True, allow_inf_nan=False, gt=gt, ge=ge, lt=lt, le=le)
    return _maybe_null(inner, "a number" + _range(gt, ge, lt, le), null)


def number_or(
    name: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Expect:
    """A finite number within bounds, or one name."""
    inner = number(gt=gt, ge=ge, lt=lt, le=le)
    both = core_schema.union_schema([core_schema.literal_schema([name]), inner.schema])
    return Expect(both, f"{inner.phrase}, or {name}")


def whole(*, ge: int | None = None, le: int | None = None, null: bool = False) -> Expect:
    """A whole number within bounds, or null where `null` says so."""
    inner = core_schema.int_schema(strict=True, ge=ge, le=le)
    return _maybe_null(inner, "a whole number" + _range(None, ge, None, le), null)


def odd(*, le: int) -> Expect:
    """An odd number from 1 to `le`."""
    inner = core_schema.int_schema(strict=True, ge=1, le=le)
    checked = core_schema.no_info_after_validator_function(_check_odd, inner)
    return Expect(checked, f"an odd number from 1 to {le}")


def _check_odd(value: int) -> int:
    if value % 2 == 0:
        raise wrong("an odd number")
    return value


def text(
    *, pattern: str | None = None, phrase: str = "a text", empty: bool = False, null: bool = False
) -> Expect:
    """A text, empty only where `empty` says so, that matches `pattern`."""
    inner = core_schema.str_schema(
        strict=True, min_length=0 if empty else 1, max_length=4096, pattern=pattern
    )
    return _maybe_null(inner, phrase, null)


def flag() -> Expect:
    """`true` or `false`; `yes`, `on`, `1` and their like are refused."""
    return Expect(core_schema.bool_schema(strict=True), "true or false")


def choice(*names: str) -> Expect:
    """One text out of a closed list."""
    return Expect(core_schema.literal_schema(list(names)), f"one of {', '.join(names)}")


def several(
    item: Expect,
    phrase: str,
    *,
    least: int = 1,
    most: int | None = None,
    distinct: bool = False,
    null: bool = False,
) -> Expect:
    """A list of `item`, kept as a tuple."""
    inner: CoreSchema = core_schema.tuple_schema(
        [item.schema], variadic_item_index=0, min_length=least, max_length=most, strict=False
    )
    if distinct:
        inner = core_schema.no_info_after_validator_function(_check_distinct, inner)
    return _maybe_null(inner, phrase, null)


def _check_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise wrong("distinct values")
    return values


def mapping(key: str, item: Expect, phrase: str, *, least: int = 1, null: bool = False) -> Expect:
    """A mapping whose keys match the pattern `key`."""
    inner = core_schema.dict_schema(
        core_schema.str_schema(strict=True, pattern=key), item.schema, min_length=least
    )
    return _maybe_null(inner, phrase, null)


def one_or_several(item: Expect, phrase: str) -> Expect:
    """One `item`, or a list of them, kept as a tuple."""
    inner = core_schema.union_schema([item.schema, several(item, phrase).schema])
    return Expect(inner, phrase)


def true_or(item: Expect, phrase: str) -> Expect:
    """`true`, `false`, or what `item` allows."""
    inner = core_schema.union_schema([core_schema.bool_schema(strict=True), item.schema])
    return Expect(inner, f"true, false or {phrase}")


def _maybe_null(inner: CoreSchema, phrase: str, null: bool) -> Expect:
    if not null:
        return Expect(inner, phrase)
    return Expect(core_schema.nullable_schema(inner), f"{phrase}, or null")


def _range(gt: float | None, ge: float | None, lt: float | None, le: float | None) -> str:
    if gt is not None and lt is not None:
        return f" between {gt:.10g} and {lt:.10g} (exclusive)"
    if ge is not None and le is not None:
        return f" from {ge:.10g} to {le:.10g}"
    words = (("above", gt), ("of at least", ge), ("below", lt), ("of at most", le))
    parts = [f"{word} {bound:.10g}" for word, bound in words if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""
