"""Names that are imported on first use, so that fast commands never load TensorFlow.

Keras must know our classes to read a saved model. They are registered where they are defined, so
somebody has to import them: `register` does, as soon as Keras is there and none of our own modules
is in the middle of being imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
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
        found = importlib.import_module(f"{package}.{target or name}")
        setattr(sys.modules[package], name, getattr(found, name) if target else found)
        register()
        return getattr(sys.modules[package], name)

    names = sorted(modules)
    return load, lambda: names, names


PACKAGE = __name__.partition(".")[0]
REGISTERED = (
    "attacks._training",
    "classifiers._quadratic",
    "labels",
    "layers",
    "losses",
    "metrics._counting",
    "metrics._risk_metrics",
    "models",
    "optimize._monitor",
    "risk",
    "training._segmenter",
)


def register(finished: str = "") -> None:
    """Import the modules whose classes Keras must know, or leave it to the next call.

    Called when Keras has been imported, at the end of each room that imports Keras at once, and
    when a lazy name has been loaded: the outermost of these finds nothing half imported.

    Args:
        finished: a module whose last line this call is, so that it counts as imported.
    """
    if "keras" not in sys.modules or any(name != finished for name in _half_imported()):
        return
    for module in REGISTERED:
        importlib.import_module(f"{PACKAGE}.{module}")


def _half_imported() -> list[str]:
    return [
        name
        for name, module in list(sys.modules.items())
        if name.startswith(PACKAGE + ".")
        and getattr(getattr(module, "__spec__", None), "_initializing", False)
    ]


class _KerasFinder:
    """Finds Keras as Python would, and registers our classes once it has been loaded."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register_with_keras() -> None:
    """Register our classes with Keras: now, if it was imported, or else when it will be.

    (wrapt has such hooks, but takes a third of a second to import; the command line has one.)
    """
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _KerasFinder())  # type: ignore[arg-type]
