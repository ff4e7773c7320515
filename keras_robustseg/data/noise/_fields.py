"""The fields of every kind of noise: default, range, meaning. Recipes and constructors share it.

A field with a number as `low` is a number, or a list `[lo, hi]` from which one value per sample is
drawn uniformly (whole numbers where the default is an `int`). The other fields are a choice, a
flag or a list, as their description says, and are never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_robustseg.errors import RecipeError

Level = dict[str, Any]


class Field(NamedTuple):
    """One field of a kind of noise.

    Args:
        default: Value where the field is not given.
        low: Smallest allowed number; `None` where the field is not a number.
        high: Largest allowed number; `None` for no limit.
        description: Unit and meaning.
    """

    default: Any
    low: float | None
    high: float | None
    description: str


_CLASSES = Field(None, None, None, "list of class indices it acts on; null = every foreground one")
_NUM_CLASSES = Field(
    None, None, None, "number of classes with background; null = largest label present + 1"
)

FIELDS: dict[str, dict[str, Field]] = {
    "reader": {
        "scale": Field(1.0, 0.0, 20.0, "strength; 1 = radiologists, 0 = no noise"),
        "missing": Field(0.0, 0.0, 1.0, "probability that an object is not marked at all"),
        "max_radius": Field(32.0, 0.5, 1e6, "px; equivalent radius where noise stops growing"),
        "keep_largest": Field(
            True, None, None, "bool; one piece per object, as fitted; false for nets and shells"
        ),
        "physical": Field(False, None, None, "bool; 0.68 mm, not 1 px, is the unit"),
    },
    "dilate": {
        "radius": Field(2.0, 0.0, 1e4, "px, or a share of the object's equivalent radius"),
        "relative": Field(False, None, None, "bool; radius is a share of the equivalent radius"),
        "classes": _CLASSES,
    },
    "erode": {
        "radius": Field(2.0, 0.0, 1e4, "px, or a share of the object's equivalent radius"),
        "relative": Field(False, None, None, "bool; radius is a share of the equivalent radius"),
        "classes": _CLASSES,
    },
    "shift": {
        "distance": Field(3.0, 0.0, 1e4, "px, in a uniformly random direction"),
        "rotation": Field(0.0, 0.0, 180.0, "degrees; the angle is uniform in +-rotation"),
        "scale": Field(0.0, 0.0, 4.0, "size factor is uniform in log from 1/(1+scale) to 1+scale"),
    },
    "elastic": {
        "magnitude": Field(2.0, 0.0, 1e3, "px; root mean square displacement along each axis"),
        "smoothness": Field(8.0, 0.5, 1e3, "px; correlation length of the displacement"),
    },
    "markov": {
        "steps": Field(180, 0, 2000, "number T of steps of the boundary walk"),
        "theta1": Field(0.8, 0.0, 1.0, "probability that a step expands (else it shrinks)"),
        "theta2": Field(0.05, 0.0, 1.0, "probability that a frontier pixel flips in a step"),
        "theta3": Field(0.2, 0.0, 1.0, "probability that any pixel flips after the walk"),
        "blur": Field(5, 0, 99, "px, odd; width of the final majority window, 0 = none"),
        "classes": _CLASSES,
    },
    "polygon": {
        "tolerance": Field(2.0, 0.0, 1e4, "px; the outline may leave the true one by this much"),
        "classes": _CLASSES,
    },
    "missing": {
        "rate": Field(0.5, 0.0, 1.0, "probability that an object is missing"),
        "classes": _CLASSES,
    },
    "extra": {
        "count": Field(1, 0, 1000, "number of objects added"),
        "radius": Field(4.0, 0.5, 1e4, "px; equivalent radius of an added object"),
        "classes": _CLASSES,
    },
    "class_flip": {
        "rate": Field(0.3, 0.0, 1.0, "probability that an object gets another foreground class"),
        "num_classes": _NUM_CLASSES,
    },
    "pixel_flip": {
        "mode": Field("symmetric", None, None, "'symmetric', 'asymmetric' or 'matrix'"),
        "rate": Field(0.1, 0.0, 1.0, "probability that a pixel is redrawn (not for 'matrix')"),
        "include_true": Field(
            False, None, None, "bool, symmetric: redraw among all classes, the true one included"
        ),
        "pairs": Field(None, None, None, "asymmetric: mapping of a class to the class it becomes"),
        "matrix": Field(None, None, None, "matrix: rows P(given | true), each summing to 1"),
        "num_classes": _NUM_CLASSES,
    },
}

STRENGTH: dict[str, tuple[str, ...]] = {
    "reader": ("scale",),
    "dilate": ("radius",),
    "erode": ("radius",),
    "shift": ("distance", "rotation", "scale"),
    "elastic": ("magnitude",),
    "markov": ("steps",),
    "polygon": ("tolerance",),
    "missing": ("rate",),
    "extra": ("count",),
    "class_flip": ("rate",),
    "pixel_flip": ("rate",),
}
"""The fields that grow together when the strength of a kind is solved for a target Dice."""


def checked(kind: str, given: Mapping[str, Any]) -> Level:
    """Returns the full level of a kind: given values, checked, and defaults for the rest.

    Raises:
        RecipeError: The kind or a field is unknown, or a value is outside its range.

    Example:
        `checked("dilate", {"radius": [1, 4]})["radius"]  # (1.0, 4.0)`
    """
    if kind not in FIELDS:
        raise RecipeError(f"noise: unknown kind {kind!r}, expected one of {', '.join(FIELDS)}")
    fields = FIELDS[kind]
    for name in given:
        if name not in fields:
            raise RecipeError(
                f"noise {kind!r}: unknown field {name!r}, expected one of {', '.join(fields)}"
            )
    values = {name: given.get(name, field.default) for name, field in fields.items()}
    return {name: _value(kind, name, value) for name, value in values.items()}


def draw(kind: str, level: Level, rng: np.random.Generator) -> Level:
    """Replaces every range of a level by one value; always uses one number of `rng` per field.

    Example:
        `draw("dilate", checked("dilate", {"radius": [1, 4]}), generator(0))["radius"]`
    """
    shares = dict(zip(sorted(level), rng.random(len(level)), strict=True))
    ranges = {name for name, field in FIELDS[kind].items() if field.low is not None}
    return {
        name: _at(value, shares[name]) if name in ranges else value for name, value in level.items()
    }


def stronger(kind: str, level: Level, factor: float) -> Level:
    """Multiplies the strength fields of a level by `factor`, up to their largest allowed values.

    Whole numbers stay numbers between; `draw` rounds them.

    Example:
        `stronger("dilate", checked("dilate", {"radius": [1, 4]}), 2.0)["radius"]  # (2.0, 8.0)`
    """
    grown = dict(level)
    for name in STRENGTH[kind]:
        high = FIELDS[kind][name].high
        grown[name] = _scaled(level[name], factor, math.inf if high is None else high)
    return grown


def saturated(kind: str, level: Level) -> bool:
    """Tells whether no strength field of a level can grow: each is 0 or at its largest value."""
    ends = [np.atleast_1d(level[name]) for name in STRENGTH[kind]]
    highs = [FIELDS[kind][name].high for name in STRENGTH[kind]]
    return all(((end == 0) | (end == high)).all() for end, high in zip(ends, highs, strict=True))


def _at(value: Any, share: float) -> Any:
    if not isinstance(value, tuple):
        return value
    low, high = value
    if isinstance(low, int):
        return min(high, low + math.floor(share * (high - low + 1)))
    return low + share * (high - low)


def _scaled(value: Any, factor: float, high: float) -> Any:
    if isinstance(value, tuple):
        return tuple(float(min(high, end * factor)) for end in value)
    return float(min(high, value * factor))


def _value(kind: str, name: str, value: Any) -> Any:
    field = FIELDS[kind][name]
    if field.low is None:
        return _plain(kind, name, value, field)
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or value[0] > value[1]:
            raise _wrong(kind, name, value, "a number or a range [lo, hi] with lo <= hi")
        low, high = (_number(kind, name, end, field) for end in value)
        return low if low == high else (low, high)
    return _number(kind, name, value, field)


def _number(kind: str, name: str, value: Any, field: Field) -> int | float:
    whole = isinstance(field.default, int)
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if isinstance(value, bool) or not is_number or (whole and value != int(value)):
        raise _wrong(kind, name, value, "a whole number" if whole else "a number")
    high = math.inf if field.high is None else field.high
    if not field.low <= value <= high:  # also refuses NaN
        raise _wrong(kind, name, value, f"a number from {field.low} to {high}")
    return int(value) if whole else float(value)


def _plain(kind: str, name: str, value: Any, field: Field) -> Any:
    if isinstance(field.default, bool) and not isinstance(value, bool):
        raise _wrong(kind, name, value, "true or false")
    if name == "classes" and value is not None:
        return _classes(kind, value)
    if name == "num_classes" and value is not None and not (isinstance(value, int) and value >= 2):
        raise _wrong(kind, name, value, "null or a whole number of at least 2")
    return value


def _classes(kind: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value or any(not _is_class(v) for v in value):
        raise _wrong(kind, "classes", value, "null or a list of class indices of at least 1")
    return tuple(value)


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _wrong(kind: str, name: str, value: Any, expected: str) -> RecipeError:
    return RecipeError(f"noise {kind!r}, field {name!r}: expected {expected}, received {value!r}")
