"""The recipe's noise blocks, one for each kind of annotation noise.

They are made from the table `data.noise.FIELDS`, so that a recipe, its JSON Schema and the Python
functions cannot disagree about names, defaults and ranges.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator
from pydantic_core import core_schema

from keras_robustseg._recipe_fields import (
    Block,
    Expect,
    choice,
    flag,
    mapping,
    number,
    rule,
    several,
    whole,
)
from keras_robustseg.data.noise._fields import FIELDS, checked
from keras_robustseg.data.noise._fields import Field as NoiseField
from keras_robustseg.errors import RecipeError

_CLASS_INDEX = whole(ge=1, le=32766)
_SPECIAL = {
    "classes": several(_CLASS_INDEX, "a list of class indices", distinct=True, null=True),
    "num_classes": whole(ge=2, le=32767, null=True),
    "mode": choice("symmetric", "asymmetric", "matrix"),
    "pairs": mapping(
        r"^[0-9]{1,5}$",
        whole(ge=0, le=32766),
        "a mapping of class indices such as {1: 2, 2: 1}",
        null=True,
    ),
    "matrix": several(
        several(number(ge=0, le=1), "a row"), "a list of rows, each summing to 1", null=True
    ),
}


class NoiseBlock(Block):
    """What every noise of a recipe has; each kind adds the fields of `data.noise.FIELDS`."""

    kind: str
    probability: Annotated[float, number(ge=0, le=1)] = Field(
        1.0, description="share of the samples that get this noise; the rest keep their mask"
    )
    target_dice: Annotated[float | None, number(gt=0, lt=1, null=True)] = Field(
        None, description="mean Dice of noisy and given masks; the strength is solved for it"
    )
    seed: Annotated[int | None, whole(ge=0, le=2**31 - 1, null=True)] = Field(
        None, description="null takes the recipe's seed"
    )

    @model_validator(mode="after")
    def _level_is_possible(self) -> NoiseBlock:
        try:
            checked(self.kind, self.level())
        except RecipeError as error:
            raise rule(str(error)) from None
        return self

    def level(self) -> dict[str, Any]:
        """Return the arguments of the function `data.noise.<kind>`."""
        return self.model_dump(include=set(FIELDS[self.kind]))

    def item(self) -> dict[str, Any]:
        """Return the entry for `data.noise.from_config`; what is null is left to its defaults."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


def noise_blocks() -> tuple[type[NoiseBlock], ...]:
    """Return one block class for each kind in `data.noise.FIELDS`."""
    return tuple(_block(kind, fields) for kind, fields in FIELDS.items())


def _block(kind: str, fields: dict[str, NoiseField]) -> type[NoiseBlock]:
    own: dict[str, Any] = {
        name: (
            Annotated[Any, _check(name, field)],
            Field(field.default, description=field.description),
        )
        for name, field in fields.items()
    }
    return create_model(
        "".join(part.title() for part in kind.split("_")) + "Noise",
        __base__=NoiseBlock,
        __doc__=f"Annotation noise of the kind `{kind}`.",
        kind=(Literal[kind], kind),  # type: ignore[arg-type]
        **own,
    )


def _check(name: str, field: NoiseField) -> Expect:
    if field.low is None:
        return _SPECIAL[name] if name in _SPECIAL else flag()
    item = _number_like(field)
    either = [item.schema, several(item, "a range", least=2, most=2).schema]
    phrase = f"{item.phrase}, or a list [low, high] of two"
    return Expect(core_schema.union_schema([*either]), phrase)


def _number_like(field: NoiseField) -> Expect:
    low, high = field.low, field.high
    if isinstance(field.default, int):
        return whole(ge=_as_int(low), le=_as_int(high))
    return number(ge=low, le=high)


def _as_int(bound: float | None) -> int | None:
    return None if bound is None else int(bound)
