"""Names that are imported on first use, so that fast commands never load TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose names load lazily (PEP 562).

    Args:
        package: the package's `__name__`.
        modules: public name -> submodule that defines it, relative to the package
            (`"_source"`); an empty string means that the name is itself a submodule.

    Example:
        `__getattr__, __dir__, __all__ = attach(__name__, {"Source": "_source"})`
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        target = modules[name]
        if not target:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{target}"), name)

    names = sorted(modules)
    return load, lambda: names, names
