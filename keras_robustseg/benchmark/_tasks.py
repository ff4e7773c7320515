"""From a benchmark to its tasks: one recipe for each data cell, method and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_robustseg.benchmark._file import Benchmark, DataCell, Method, Profile, Seeds
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import Recipe, recipe_from_dict, require_network

# What a recipe says that no figure of a cell depends on.
_WITHOUT_EFFECT = ("name", "export", "report")


@dataclass(frozen=True)
class Task:
    """One training of a benchmark.

    Attributes:
        cell, method: names in the file.
        number: position of its seeds in the file.
        recipe: the whole recipe.
    """

    cell: str
    method: str
    number: int
    recipe: Recipe

    @property
    def label(self) -> str:
        """`cell/method/s0`, what `--only` is matched against."""
        return f"{self.cell}/{self.method}/s{self.number}"

    @property
    def key(self) -> str:
        """Hash of the resolved recipe: the name of the file with its figures.

        Tasks with one key are one training; the clean bound is, for cells that differ in noise.
        """
        resolved = self.recipe.resolved()
        told = {name: value for name, value in resolved.items() if name not in _WITHOUT_EFFECT}
        # Seeds are written out: `data.seed: null` and the same number mean the same.
        told["data"] = {**told["data"], "seed": self.recipe.data_seed}
        content = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:20]


def tasks(benchmark: Benchmark, profile: str, *, only: str | None = None) -> list[Task]:
    """Return the trainings of a profile, seed by seed, so that any beginning is a whole table.

    Args:
        benchmark: the benchmark.
        profile: which of its profiles.
        only: regular expression; tasks whose label it is not found in are left out.

    Raises:
        RecipeError: there is no such profile, the expression is none, or a recipe is wrong.

    Example:
        `tasks(load_benchmark("noise_grid"), "core", only="lidc_readers/.*/s0")`
    """
    chosen = chosen_profile(benchmark, profile)
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise RecipeError(f"--only {only}: not a regular expression: {error}") from None
    return [
        Task(cell, method, number, recipe_of(benchmark, cell, method, number))
        for number in range(chosen.seeds)
        for cell in chosen.cells
        for method in chosen.methods
        if pattern.search(f"{cell}/{method}/s{number}")
    ]


def chosen_profile(benchmark: Benchmark, profile: str) -> Profile:
    """Return a profile by its name.

    Raises:
        RecipeError: there is none of this name.
    """
    if profile not in benchmark.profiles:
        known = ", ".join(benchmark.profiles)
        raise RecipeError(f"--profile {profile}: {benchmark.name} has {known}")
    return benchmark.profiles[profile]


def recipe_of(benchmark: Benchmark, cell: str, method: str, number: int) -> Recipe:
    """Return the whole recipe of a cell, a method and a seed.

    Raises:
        RecipeError: what the parts make together is not a recipe.

    Example:
        `recipe_of(load_benchmark("noise_grid"), "lidc_readers", "ce_dice", 0)`
    """
    name = f"{cell}.{method}.s{number}"
    values = _composed(
        benchmark.base, benchmark.cells[cell], benchmark.methods[method], benchmark.seeds[number]
    )
    whole = recipe_from_dict({**values, "name": name}, name=f"{benchmark.name}: {name}")
    return require_network(whole, name)


def _composed(base: Mapping[str, Any], cell: DataCell, method: Method, seeds: Seeds) -> dict:
    values = merged(merged(base, cell.blocks()), {"data": method.data})
    data = {**values.get("data", {}), "seed": seeds.data}
    return {**values, "data": data, "method": method.method, "seed": seeds.init}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the fields of `over`: mappings field by field, unless `kind` changes.

    Example:
        `merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})  # {"a": {"b": 3, "c": 2}}`
    """
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and _one_kind(old, value):
            result[name] = merged(old, value)
        else:
            result[name] = value
    return result


def _one_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" not in new or old.get("kind") == new["kind"]
