"""The benchmark file: a base recipe, axes, profiles and targets, checked field by field."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from keras_robustseg._recipe_fields import Block, rule, several, text, whole, wrong
from keras_robustseg._recipe_problems import describe
from keras_robustseg._recipe_text import parse, read_text
from keras_robustseg.errors import RecipeError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$"
_Name = Annotated[str, text(pattern=NAME, phrase="a name of letters, digits, '_', '.' and '-'")]
_NAMES = Annotated[
    tuple[str, ...], several(text(), "a list of different names, at least one", distinct=True)
]


class _Part(Block):
    """Blocks of a recipe; what is in them is checked when the recipe has been put together."""

    data: dict[str, Any] = Field({}, description="merged into the base's `data`")

    def blocks(self) -> dict[str, Any]:
        """Return the recipe blocks that this part writes."""
        names = type(self).model_fields.keys() - {"biased", "about", "bound"}
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class DataCell(_Part):
    """Data of the grid: source, readers, noise. Pipeline, network and budget fit the data."""

    about: str = Field("", description="one line for tables")
    biased: bool = Field(
        False, description="noise that moves masks to one side; not judged by `corrected`"
    )
    pipeline: dict[str, Any] = Field({}, description="merged into the base's")
    model: dict[str, Any] = Field({}, description="merged into the base's")
    training: dict[str, Any] = Field({}, description="merged into the base's")


class Method(_Part):
    """A method of the grid: its `method` block; never network, budget or augmentation."""

    about: str = Field("", description="one line for tables")
    bound: bool = Field(False, description="trained on the truth: ranked with nobody")
    method: dict[str, Any] = Field(description="the recipe's method block, taken whole")


class Seeds(Block):
    """Seeds of one repetition."""

    init: Annotated[int, whole(ge=0, le=2**31 - 1)] = Field(
        description="of weights, order and augmentation"
    )
    data: Annotated[int, whole(ge=0, le=2**31 - 1)] = Field(description="of noise, readers, limits")


class Profile(Block):
    """A part of the grid, chosen by `--profile`."""

    cells: _NAMES
    methods: _NAMES
    seeds: Annotated[int, whole(ge=1)] = Field(description="how many of the seeds, from the first")


class Targets(Block):
    """Who is judged against whom."""

    ours: str
    references: _NAMES
    bound: str


class Benchmark(Block):
    """A benchmark: base recipe, data cells, methods, seeds, profiles.

    Example:
        `load_benchmark("noise_grid").profiles["core"].cells`
    """

    name: _Name
    base: dict[str, Any] = Field(description="recipe without data and method")
    cells: dict[str, DataCell]
    methods: dict[str, Method]
    seeds: tuple[Seeds, ...] = Field(strict=False, min_length=1)
    baseline: str = Field(description="method that the differences are taken to")
    targets: Targets | None = None
    profiles: dict[str, Profile]
    minutes: float = Field(1.0, gt=0, description="estimate for a cell nobody has run yet")

    @field_validator("cells", "methods", "profiles")
    @classmethod
    def _named(cls, parts: dict[str, Any]) -> dict[str, Any]:
        if not parts or not all(re.fullmatch(NAME, name) for name in parts):
            raise wrong("a mapping from names of letters, digits, '_', '.' and '-'")
        return parts

    @field_validator("baseline")
    @classmethod
    def _known_baseline(cls, baseline: str, info: ValidationInfo) -> str:
        _require_known([baseline], info.data.get("methods", {}), "a method")
        return baseline

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, targets: Targets | None, info: ValidationInfo) -> Targets | None:
        if targets is not None:
            named = [targets.ours, *targets.references, targets.bound]
            _require_known(named, info.data.get("methods", {}), "a method")
        return targets

    @field_validator("profiles")
    @classmethod
    def _known_profiles(
        cls, profiles: dict[str, Profile], info: ValidationInfo
    ) -> dict[str, Profile]:
        for profile in profiles.values():
            _require_known(profile.cells, info.data.get("cells", {}), "a cell")
            _require_known(profile.methods, info.data.get("methods", {}), "a method")
            seeds = len(info.data.get("seeds", ()))
            if profile.seeds > seeds:
                raise rule(f"got {profile.seeds} seeds, and the file lists {seeds}")
        return profiles


def _require_known(names: Sequence[str], known: Mapping[str, Any], what: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise rule(f"got {missing[0]!r}, expected {what} out of {', '.join(known)}")


def load_benchmark(source: str | Path) -> Benchmark:
    """Read and check a benchmark file.

    Args:
        source: a `.yaml` file, or the name of a benchmark that comes with the package.

    Returns:
        The benchmark; its recipes are checked when they are put together (`tasks`).

    Raises:
        RecipeError: there is no such file, or something is wrong with it.

    Example:
        `load_benchmark("noise_grid").methods["ce_dice"].method`
    """
    path = _find(source)
    content = parse(read_text(path), name=str(path))
    if not isinstance(content.values, dict):
        raise RecipeError(f"{path}: expected the fields of a benchmark")
    try:
        return Benchmark.model_validate(content.values)
    except ValidationError as error:
        raise RecipeError("\n".join(describe(error, content, Benchmark))) from None


def list_benchmarks() -> list[str]:
    """Return the names of the benchmarks that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        return path
    packaged = _folder() / f"{source}.yaml"
    if str(source) not in list_benchmarks():
        raise RecipeError(
            f"{source}: no such benchmark; the package has {', '.join(list_benchmarks())}; "
            "a file has to end in .yaml"
        )
    return packaged


@functools.cache
def _folder() -> Path:
    from keras_robustseg.recipes import packaged_folder

    return packaged_folder() / "benchmarks"
