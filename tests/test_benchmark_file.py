"""Benchmark files: what they may say, the recipes they make, and the names of their cells."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from keras_robustseg.benchmark import list_benchmarks, load_benchmark, recipe_of, tasks
from keras_robustseg.benchmark._tasks import merged
from keras_robustseg.errors import RecipeError

TOY: dict[str, Any] = {
    "name": "toy",
    "base": {
        "pipeline": {"batch_size": 4},
        "model": {"kind": "unet", "width": 2, "depth": 1},
        "training": {"epochs": 1},
        "evaluation": {"batch_size": 4},
    },
    "cells": {
        "readers": {
            "data": {
                "source": {"kind": "lidc", "size": 32},
                "readers": "random",
                "limit": {"train": 8, "val": 3, "test": 3},
            }
        },
        "shifted": {
            "data": {
                "source": {"kind": "lidc", "size": 32},
                "readers": "truth",
                "noise": [{"kind": "shift", "distance": 3}],
                "limit": {"train": 8, "val": 3, "test": 3},
            },
            "training": {"epochs": 2},
        },
    },
    "methods": {
        "ce": {"method": {"kind": "supervised", "loss": {"kind": "cross_entropy"}}},
        "ours": {"method": {"kind": "pencil", "flip_margin": 0.2, "warmup": 0.5}},
        "clean": {
            "bound": True,
            "method": {"kind": "supervised", "loss": {"kind": "cross_entropy"}},
            "data": {"readers": "truth", "noise": []},
        },
    },
    "seeds": [{"init": 1, "data": 7}, {"init": 2, "data": 8}],
    "baseline": "ce",
    "targets": {"ours": "ours", "references": ["ce"], "bound": "clean"},
    "profiles": {
        "core": {"cells": ["readers", "shifted"], "methods": ["ce", "ours", "clean"], "seeds": 1},
        "full": {"cells": ["readers", "shifted"], "methods": ["ce", "ours", "clean"], "seeds": 2},
    },
}


def written(folder: Path, **changes: Any) -> Path:
    values = copy.deepcopy(TOY)
    for name, value in changes.items():
        *way, last = name.split("__")
        inside = values
        for part in way:
            inside = inside[part]
        inside[last] = value
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        tasks(load_benchmark(path), "core")
    return str(caught.value)


def test_a_task_for_each_cell_method_and_seed(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path))
    labels = [task.label for task in tasks(benchmark, "full")]
    assert len(labels) == len(set(labels)) == 12
    assert labels[0] == "readers/ce/s0"
    # Seed by seed, so that a beginning is a whole table.
    assert [label[-1] for label in labels] == ["0"] * 6 + ["1"] * 6


def test_a_recipe_is_base_cell_method_and_seeds(tmp_path: Path) -> None:
    recipe = recipe_of(load_benchmark(written(tmp_path)), "shifted", "ours", 1)
    assert (recipe.seed, recipe.data.seed, recipe.data_seed) == (2, 8, 8)
    assert recipe.model.width == 2
    assert recipe.training.epochs == 2
    assert recipe.data.noise[0].kind == "shift"
    assert recipe.method.kind == "pencil"


def test_the_bound_sees_the_truth(tmp_path: Path) -> None:
    recipe = recipe_of(load_benchmark(written(tmp_path)), "shifted", "clean", 0)
    assert recipe.data.readers == "truth"
    assert recipe.data.noise == ()
    assert recipe.training.epochs == 2


def test_methods_of_a_cell_share_all_but_their_method(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path))
    for cell in benchmark.cells:
        recipes = [recipe_of(benchmark, cell, name, 0).resolved() for name in ("ce", "ours")]
        for recipe in recipes:
            recipe.pop("method"), recipe.pop("name")
        assert recipes[0] == recipes[1]


@pytest.mark.parametrize("block", ["training", "pipeline", "model"])
def test_a_method_cannot_have_a_budget_of_its_own(tmp_path: Path, block: str) -> None:
    message = refused(written(tmp_path, **{f"methods__ours__{block}": {}}))
    assert f"methods.ours.{block}: unknown field" in message


def test_only_matches_labels(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path))
    found = tasks(benchmark, "full", only="shifted/(ce|ours)/s1$")
    assert [task.label for task in found] == ["shifted/ce/s1", "shifted/ours/s1"]
    with pytest.raises(RecipeError, match="not a regular expression"):
        tasks(benchmark, "core", only="(")


def test_the_key_is_of_what_decides_the_figures(tmp_path: Path) -> None:
    def keys(**changes: Any) -> dict[str, str]:
        benchmark = load_benchmark(written(tmp_path, **changes))
        return {task.label: task.key for task in tasks(benchmark, "core")}

    before = keys()
    assert len(set(before.values())) == len(before)
    assert keys(name="other", base__export={"enabled": False}) == before
    # A changed noise changes its own cell, and not the bound, which does not see it.
    noise = [{"kind": "shift", "distance": 4}]
    changed = {
        label
        for label, key in keys(cells__shifted__data__noise=noise).items()
        if key != before[label]
    }
    assert changed == {"shifted/ce/s0", "shifted/ours/s0"}
    loss = {"kind": "cross_entropy_dice"}
    changed = {
        label for label, key in keys(methods__ce__method__loss=loss).items() if key != before[label]
    }
    assert changed == {"readers/ce/s0", "shifted/ce/s0"}


def test_cells_with_the_same_truth_share_the_bound(tmp_path: Path) -> None:
    benchmark = load_benchmark(written(tmp_path, cells__shifted__training={}))
    of = {task.label: task.key for task in tasks(benchmark, "core")}
    assert of["readers/clean/s0"] == of["shifted/clean/s0"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"baseline": "sgd"}, "got 'sgd', expected a method out of ce, ours, clean"),
        ({"profiles__core__cells": ["sky"]}, "got 'sky', expected a cell out of readers, shifted"),
        ({"profiles__core__seeds": 3}, "got 3 seeds, and the file lists 2"),
        ({"targets__bound": "truth"}, "got 'truth', expected a method"),
        ({"base__training__epoch": 3}, "training.epoch: unknown field"),
        ({"methods__ce__method": {"kind": "magic"}}, "got 'magic', expected one of"),
        ({"cells": {"a b": {"data": {}}}}, "expected a mapping from names"),
        ({"seeds": []}, "seeds"),
        ({"budget": 3}, "budget: unknown field"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(written(tmp_path, **changes))


def test_an_unknown_profile_or_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="toy has core, full"):
        tasks(load_benchmark(written(tmp_path)), "quick")
    with pytest.raises(RecipeError, match="no such benchmark; the package has noise_grid"):
        load_benchmark("nosuch")


def test_merging_replaces_a_block_whose_kind_changes() -> None:
    base = {"optimizer": {"kind": "sgd", "momentum": 0.9}, "epochs": 3}
    assert merged(base, {"optimizer": {"kind": "adam"}}) == {
        "optimizer": {"kind": "adam"},
        "epochs": 3,
    }
    assert merged(base, {"optimizer": {"momentum": 0.5}})["optimizer"] == {
        "kind": "sgd",
        "momentum": 0.5,
    }


def test_the_packaged_benchmarks_make_valid_recipes() -> None:
    assert "noise_grid" in list_benchmarks()
    for name in list_benchmarks():
        benchmark = load_benchmark(name)
        for profile in benchmark.profiles:
            assert tasks(benchmark, profile)


def test_the_noise_grid_has_what_it_promises() -> None:
    benchmark = load_benchmark("noise_grid")
    core, full = benchmark.profiles["core"], benchmark.profiles["full"]
    assert core.seeds == 3
    assert full.seeds == 5
    assert set(core.cells) < set(full.cells)
    assert set(core.methods) <= set(full.methods)
    assert len({seeds.init for seeds in benchmark.seeds}) == 5
    assert len({seeds.data for seeds in benchmark.seeds}) == 5
    assert any(benchmark.cells[name].biased for name in full.cells)
    assert not any(benchmark.cells[name].biased for name in core.cells)
