"""Recipe kind -> source class. A closed list: a recipe never names a Python path."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from keras_robustseg.data._source import Source
from keras_robustseg.errors import DataError

__all__ = ["SOURCES", "source_class", "source_from_config"]

# kind -> (module, class); imported when used, because some need an extra or TensorFlow.
SOURCES: dict[str, tuple[str, str]] = {
    "lidc": ("_lidc", "LidcSource"),
    "lidc_full": ("_lidc_full", "LidcFullSource"),
    "icbm152_tissue": ("_icbm", "Icbm152TissueSource"),
    "folder": ("_folder", "FolderSource"),
    "nnunet": ("_nnunet", "NnunetSource"),
    "npz": ("_npz", "NpzSource"),
    "tfds": ("_tfds", "TfdsSource"),
}


def source_class(kind: str) -> type[Source]:
    """The class of a kind of source.

    Args:
        kind: A key of `SOURCES`.

    Returns:
        The class.

    Raises:
        DataError: There is no such kind; names the nearest one.
    """
    if kind not in SOURCES:
        raise DataError(f"source.kind: got {kind!r}, expected one of {_names(kind, list(SOURCES))}")
    module, name = SOURCES[kind]
    return getattr(importlib.import_module(f"keras_robustseg.data.{module}"), name)


def source_from_config(config: Mapping[str, Any]) -> Source:
    """Builds a source from the `data.source` block of a recipe.

    Args:
        config: `kind`, and the keyword arguments of that kind's class.

    Returns:
        The source.

    Raises:
        DataError: The kind or a field is unknown or missing, or the data cannot be opened.

    Example:
        ```python
        source = source_from_config({"kind": "folder", "root": "cells", "classes": ["bg", "cell"]})
        ```
    """
    fields = dict(config)
    kind = fields.pop("kind", None)
    chosen = source_class(str(kind))
    parameters = inspect.signature(chosen).parameters
    for field in fields:
        if field not in parameters:
            known = _names(field, list(parameters))
            raise DataError(f"source.{field}: {kind!r} has no such field, expected one of {known}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in fields:
            raise DataError(f"source.{name}: is missing, and {kind!r} cannot do without it")
    return chosen(**fields)


def _names(wrong: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wrong, known, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ", ".join(known) + hint
