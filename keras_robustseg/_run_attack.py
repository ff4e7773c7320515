"""Attacking what a run has trained, or what was exported, on its own data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robustseg._recipe_adversarial import Robustness
from keras_robustseg._run_build import Parts, derived_source, split_indices
from keras_robustseg.attacks import RobustnessReport, evaluate_robustness
from keras_robustseg.attacks._evaluate_scores import figures
from keras_robustseg.data import Source, source_from_config
from keras_robustseg.data._check_layout import is_data, open_folder
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.errors import DataError, RecipeError
from keras_robustseg.recipes import Recipe, load_network_recipe
from keras_robustseg.report import write_robustness

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Victim:
    """What is attacked, and where.

    Attributes:
        name: for the title of the page.
        model: gives logits, or probabilities.
        source: images and masks.
        recipe: says which samples; None for a folder of data.
    """

    name: str
    model: keras.Model
    source: Source
    recipe: Recipe | None

    @classmethod
    def open(cls, target: Path, data: str | Path | None) -> Victim:
        """Load the network of a run or SavedModel, and its data.

        Raises:
            DataError, RecipeError: there is no recipe that says where the data are.
        """
        run = (target / "recipe.json").is_file()
        own = target / ("recipe.json" if run else "recipe.yaml")
        if data is None and not own.is_file():
            raise DataError(f"{target}: has no recipe, so its data are unknown; give --data")
        source, recipe = _opened(own if data is None else data)
        model = (
            keras.saving.load_model(target / "network.keras", compile=False)
            if run
            else served_model(target, source)
        )
        return cls(str(target), model, source, recipe)

    def indices(self, split: str, limit: int | None) -> list[int]:
        """Return the samples of a split, the first `limit` of them.

        Raises:
            DataError: there are none.
        """
        found = (
            split_indices(self.recipe, self.source, split)
            if self.recipe
            else self.source.split(split)
        )
        if not found:
            raise DataError(f"{self.source.name}: the split {split!r} has no samples to attack")
        return found[:limit]

    def sample(self, index: int) -> Batch:
        """Return image and mask of a sample: the truth where it is known."""
        example = self.source.load(index)
        mask = example.truth
        if mask is None:
            name = self.source.samples[index].id
            mask = choose_reader(example.mask, "majority", seed=0, sample_id=name)
        return example.image.astype("float32"), mask.astype("int32")


def _opened(data: str | Path) -> tuple[Source, Recipe | None]:
    """What a recipe, a folder or an archive stands for, and the recipe."""
    if is_data(data):
        return open_folder(data)[0], None
    recipe = load_network_recipe(str(data))
    return derived_source(recipe, source_from_config(recipe.data.source.model_dump())), recipe


def served_model(folder: Path, source: Source) -> keras.Model:
    """Return a SavedModel as a Keras model that gives probabilities, with gradients."""
    image = keras.Input((*[None] * source.dims, source.channels))
    layer = keras.layers.TFSMLayer(str(folder), call_endpoint="serving_default")
    answer = layer(image)
    if not isinstance(answer, dict) or "probabilities" not in answer:
        raise DataError(
            f"{folder}: its serving_default has no output `probabilities`, so it is no export of "
            "this package. Load it yourself and use keras_robustseg.attacks.evaluate_robustness."
        )
    return keras.Model(image, answer["probabilities"])


def run_attack(
    victim: Victim,
    out: Path,
    *,
    split: str,
    attacks: Sequence[str],
    shares: Sequence[float],
    limit: int | None,
    batch_size: int,
    bounds: tuple[float, float] | None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> RobustnessReport:
    """Evaluate robustness on a split and write the report.

    Args:
        victim: what is attacked.
        out: new or empty directory.
        shares: eps as shares of the range of the images.
        split, attacks, limit, batch_size, bounds, say: as `keras_robustseg.attack`.
        **settings: further arguments of `evaluate_robustness`.

    Raises:
        RecipeError: a setting is out of range, or the network cannot be attacked.
    """
    indices = victim.indices(split, limit)
    low, high = bounds or image_range(victim, indices)
    try:
        if not shares or max(shares) > 1:
            raise ValueError(f"eps: expected shares of the range, at most 1. Received: {shares}")
        if not low < high:
            raise ValueError(f"bounds: expected the lower one first. Received: {low:g} {high:g}")
        found = evaluate_robustness(
            victim.model,
            batches(victim, indices, batch_size),
            attacks,
            [share * (high - low) for share in shares],
            bounds=(low, high),
            classes=victim.source.classes,
            names=[victim.source.samples[index].id for index in indices],
            progress=None if say is None else lambda n: say(f"{n} of {len(indices)} images"),
            **settings,
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"attack: {error}") from error
    title = f"Robustness of {victim.name}: {victim.source.name}, {split} split"
    write_robustness(found, out, title=title, rendered=victim.source.rendered)
    return found


def image_range(victim: Victim, indices: Sequence[int]) -> tuple[float, float]:
    """Return the least and the greatest value of the images.

    Raises:
        DataError: all of them have one value.
    """
    images = (victim.sample(index)[0] for index in indices)
    ends = np.array([(image.min(), image.max()) for image in images], "float64")
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not low < high:
        raise DataError(f"{victim.source.name}: all images have the value {low:g}; give --bounds")
    return low, high


def batches(victim: Victim, indices: Sequence[int], size: int) -> Iterator[Batch]:
    """Yield images and masks of one shape together, in order, at most `size` of them."""
    waiting: list[Batch] = []
    for index in indices:
        sample = victim.sample(index)
        if waiting and (len(waiting) == size or waiting[0][0].shape != sample[0].shape):
            yield _stacked(waiting)
            waiting = []
        waiting.append(sample)
    yield _stacked(waiting)


def _stacked(samples: Sequence[Batch]) -> Batch:
    images, masks = zip(*samples, strict=True)
    return np.stack(images), np.stack(masks)


def attack_trained(parts: Parts, block: Robustness, out: Path) -> dict[str, Any]:
    """Write the report that `evaluation.robustness` asks for; return figures for `metrics.json`."""
    settings = block.model_dump()
    victim = Victim(str(out), parts.model.served, parts.source, parts.recipe)
    shutil.rmtree(out / "attack", ignore_errors=True)  # what an interrupted ending has left
    found = run_attack(
        victim,
        out / "attack",
        split="test",
        shares=settings.pop("eps"),
        batch_size=parts.recipe.evaluation.batch_size,
        bounds=None,
        **settings,
    )
    worst = [figures(tally, found.classes) for tally in found.worst.values()]
    return {
        "robustness": {
            "eps": list(found.eps),
            "worst_dice": [row["mean_dice"] for row in worst],
            "worst_accuracy": [row["accuracy"] for row in worst],
            "clean_dice": found.clean["mean_dice"],
            "trustworthy": found.trustworthy,
        }
    }
