"""The house rules that a machine can check: floors, fast imports, sizes, docstrings, types.

Most of it reads the source text. Two tests import in a fresh process, and one imports every room
and asks the public names for their docstrings.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_robustseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(
    path
    for folder in ("keras_robustseg", "tests", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

# Lowest first; a room imports from itself and from lower floors only. Metrics stand above labels,
# by which they read masks. Rooms that later releases add have their places already.
FLOORS = (
    ("optimize", "risk"),
    ("labels",),
    ("metrics",),
    ("losses", "layers", "models", "data"),
    ("classifiers", "attacks", "training"),
    ("tuning", "report", "export"),
    ("recipes",),
    ("run",),
    ("benchmark",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ANYWHERE = {"errors", "_lazy"}
# A private module at the top of the package is a part of the room that its name begins with.
PREFIXES = {"_recipe_": "recipes", "_run_": "run", "_cli_": "cli", "_export_": "export"}

NEEDS_TENSORFLOW = ("data._pipeline", "data._augment", "data._tfds")
FAST_ROOMS = ("errors", "recipes", "cli", "data", "metrics", "report", "training")
FAST_MODULES = (
    "metrics._overlap",
    "metrics._surface",
    "metrics._evaluate",
    "report._tables",
    "report._figures",
    "report._overlays",
    "training._files",
    "training._atomic",
    "training._leftovers",
    "training._history",
    "training._stop",
    "training._lock",
    "training._state",
    "training._state_files",
    "training._state_arrays",
    "data.noise",
)

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef

LONGEST_FILE = 450
FUNCTION_MEDIAN = 10
FUNCTION_P99 = 35


def dotted(path: Path) -> str:
    """Name of a module, relative to the package: `data._folder`, or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name: str) -> str:
    """Room of a module of the package, by its name relative to the package."""
    first = name.split(".")[0]
    return next((room for prefix, room in PREFIXES.items() if first.startswith(prefix)), first)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, relative to the package, of everything imported from the package."""
    here = ("keras_robustseg", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "keras_robustseg":
                yield node.lineno, rest


def is_upward(path: Path, name: str) -> bool:
    """Whether an import of `name` in `path` goes to the same floor or a higher one."""
    source, target = room_of(dotted(path)), room_of(name)
    if target in ANYWHERE or target == source or target.startswith("__") or not source:
        return False
    return FLOOR[target] >= FLOOR[source]


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(tree(path)):
        if isinstance(node, FUNCTION):
            yield node


def body_lines(function: Function) -> int:
    """Lines of a function below its signature and docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def public_functions(path: Path) -> Iterator[Function]:
    """Functions of a module and methods of its classes whose names have no underscore."""

    def inside(body: list[ast.stmt]) -> Iterator[Function]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from inside(node.body)
            elif isinstance(node, FUNCTION) and (node.name == "__init__" or node.name[0] != "_"):
                yield node

    yield from inside(tree(path).body)


def unannotated(function: Function) -> list[str]:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    missing = [
        argument.arg
        for argument in arguments
        if argument is not None
        and argument.annotation is None
        and argument.arg not in ("self", "cls")
    ]
    unsaid = function.returns is None and function.name != "__init__"
    return [*missing, *(["its result"] if unsaid else [])]


def test_every_module_has_a_place_in_the_house() -> None:
    rooms = {room_of(dotted(path)) for path in MODULES} - {""}
    assert rooms <= FLOOR.keys() | ANYWHERE
    assert {"labels", "losses", "models", "data", "training", "report"} <= rooms


def test_rooms_import_only_from_lower_floors() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES
        for line, name in imported(path)
        if is_upward(path, name)
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("path", "name", "upward"),
    [
        ("data/_source.py", "training._state", True),
        ("data/_source.py", "models", True),
        ("data/_source.py", "metrics._overlap", False),
        ("_run_build.py", "recipes.Recipe", False),
        ("_recipe_data.py", "run", True),
        ("losses/_base.py", "errors", False),
    ],
)
def test_the_rule_of_floors_itself(path: str, name: str, upward: bool) -> None:
    assert is_upward(PACKAGE / path, name) is upward


def fast_modules() -> list[str]:
    data = [dotted(path) for path in (PACKAGE / "data").rglob("*.py")]
    listed = [name for name in data if not name.startswith(NEEDS_TENSORFLOW)]
    return [f"keras_robustseg.{name}" for name in (*FAST_ROOMS, *FAST_MODULES, *sorted(listed))]


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fast_modules_load_neither_tensorflow_nor_keras() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    slow = {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)\n"
        "    if slow:\n"
        "        sys.exit(f'{name} loads {sorted(slow)}')\n"
    )
    assert run_python(code, *fast_modules()) == ""


def test_the_package_loads_neither_tensorflow_nor_keras_by_itself() -> None:
    code = "import sys, keras_robustseg; print({'tensorflow', 'keras'} & set(sys.modules))"
    assert run_python(code) == "set()\n"


@pytest.mark.parametrize(
    "room",
    ["labels", "losses"]
    + [pytest.param(room, marks=pytest.mark.slow) for room in ("metrics", "models", "training")],
)
def test_every_room_can_be_the_first_that_is_imported(room: str) -> None:
    code = f"import keras_robustseg.{room} as room; print(all(dir(room)))"
    assert run_python(code) == "True\n"


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lengths.items() if count >= LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": body_lines(function)
        for path in MODULES
        for function in functions(path)
    }
    longest = sorted(lengths.items(), key=lambda item: -item[1])[:10]
    assert np.median(list(lengths.values())) < FUNCTION_MEDIAN
    assert np.percentile(list(lengths.values()), 99) <= FUNCTION_P99, longest


def test_public_functions_are_annotated() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {', '.join(missing)}"
        for path in MODULES
        for function in public_functions(path)
        if (missing := unannotated(function))
    ]
    assert bare == []


def public_modules() -> list[str]:
    names = [dotted(path) for path in MODULES]
    return sorted(n for n in names if not any(part.startswith("_") for part in n.split(".")))


def has_own_docstring(name: str, value: object) -> bool:
    """Whether it was written for this very name: neither inherited nor made by a decorator."""
    if not isinstance(value, (type, types.FunctionType, types.ModuleType)):
        return True  # a constant
    text = (vars(value).get("__doc__") if isinstance(value, type) else value.__doc__) or ""
    return bool(text.strip()) and not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", public_modules())
def test_every_exported_name_is_documented(name: str) -> None:
    module = importlib.import_module(f"keras_robustseg.{name}".rstrip("."))
    public = {public: getattr(module, public) for public in getattr(module, "__all__", ())}
    assert [name for name, value in public.items() if not has_own_docstring(name, value)] == []
