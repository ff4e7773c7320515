"""Refusals of arguments that are out of range, in the form of Keras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def invalid_argument(name: str, expected: str, received: Any) -> ValueError:
    """Return the error that says what was expected of an argument and what came."""
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={received!r}"
    )


def check_arguments(rows: Iterable[tuple[str, bool, str, Any]]) -> None:
    """Refuse the first argument of (name, fits, expected, received) that does not fit."""
    for name, fits, expected, received in rows:
        if not fits:
            raise invalid_argument(name, expected, received)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
