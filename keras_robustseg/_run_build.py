"""From a recipe to the parts of a training: data, network, trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robustseg._run_method import make_method
from keras_robustseg._run_model import make_network
from keras_robustseg.attacks import AdversarialTraining
from keras_robustseg.data import Source, guard_listing, source_from_config
from keras_robustseg.data._augment import Affine, Augment, Elastic, Intensity
from keras_robustseg.data._ingest import Ingest
from keras_robustseg.data._pipeline import Pipeline
from keras_robustseg.data._slices import SliceSource
from keras_robustseg.data._truth import TruthSource
from keras_robustseg.errors import RecipeError
from keras_robustseg.metrics import Dice
from keras_robustseg.recipes import PixelRecipe, Recipe
from keras_robustseg.training import RobustSegmenter

Build = Callable[[Recipe, keras.Model, Pipeline], RobustSegmenter]
"""Makes the compiled trainer of a network, from a recipe and its training data."""


@dataclass
class Parts:
    """What a training is made of."""

    recipe: Recipe
    source: Source
    train: Pipeline
    validation: Pipeline | None
    model: RobustSegmenter

    @property
    def identity(self) -> dict[str, str]:
        """What a resumed run must share with the run it continues."""
        return {"recipe": self.recipe.recipe_hash, "data": self.train.ingest.fingerprint}


def build_source(recipe: Recipe) -> Source:
    """Return the recipe's data: cut into slices and with its noise, where it says so."""
    return derived_source(recipe, source_from_config(recipe.data.source.model_dump()))


def derived_source(recipe: Recipe | PixelRecipe, source: Source) -> Source:
    """Return what the recipe makes of a source: its slices, its true masks, its noise."""
    if isinstance(recipe, Recipe) and recipe.pipeline.slices is not None:
        source = SliceSource(source, axis=recipe.pipeline.slices)
    if recipe.data.readers == "truth":
        source = TruthSource(source)
    if recipe.data.noise:
        from keras_robustseg.data import NoisySource

        noises = [noise.model_dump() for noise in recipe.data.noise]
        return NoisySource(source, noises, recipe.data_seed, splits=recipe.data.noise_splits)
    return source


def split_indices(recipe: Recipe | PixelRecipe, source: Source, split: str) -> list[int]:
    """Return the samples of a split, or as many as `data.limit` lets through, drawn by seed."""
    indices = source.split(split)
    limit = getattr(recipe.data.limit, split)
    if limit is None or limit >= len(indices):
        return indices
    drawn = np.random.default_rng([recipe.data_seed, 1]).permutation(len(indices))[:limit]
    return [indices[i] for i in sorted(drawn)]


def build_parts(
    recipe: Recipe, run: Path, *, source: Source | None = None, build: Build | None = None
) -> Parts:
    """Build everything, in an order that finds mistakes of the user before anything is slow.

    Args:
        recipe: what to build.
        run: run directory, for caches.
        source: the recipe's data where they are loaded already; else `build_source`.
        build: makes the compiled trainer in place of the recipe's `method`.
    """
    source = build_source(recipe) if source is None else source
    guard_listing(source)
    keras.utils.set_random_seed(recipe.seed)
    keeps_rows = make_method(recipe, source).keeps_rows
    train = _pipeline(recipe, source, "train", run, label_rows=keeps_rows)
    validation = _pipeline(recipe, source, "val", run) if source.split("val") else None
    network = _network(recipe, source, train)
    build = build or functools.partial(compiled_segmenter, directory=run / "label_rows")
    model = build(recipe, network, train)
    return Parts(recipe, source, train, validation, model)


def _pipeline(
    recipe: Recipe, source: Source, split: str, run: Path, *, label_rows: bool = False
) -> Pipeline:
    settings, training = recipe.pipeline, split == "train"
    ingest = Ingest(
        source,
        split_indices(recipe, source, split),
        readers=recipe.data.readers,
        seed=recipe.data_seed,
        cache=settings.cache,
        directory=run / "cache" / split,
    )
    return Pipeline(
        ingest,
        batch_size=settings.batch_size if training else recipe.evaluation.batch_size,
        seed=recipe.seed,
        crop=settings.crop,
        augment=_augment(settings.augment) if training else None,
        shuffle=training,
        drop_remainder=training,
        label_rows=label_rows,
    )


def _augment(settings: Any) -> Augment:
    parts = {"affine": Affine, "elastic": Elastic, "intensity": Intensity}
    given = {
        name: kind(**getattr(settings, name).model_dump())
        for name, kind in parts.items()
        if getattr(settings, name) is not None
    }
    return Augment(flip=settings.flip, rotate90=settings.rotate90, **given)


def _network(recipe: Recipe, source: Source, train: Pipeline) -> keras.Model:
    keras.config.set_dtype_policy(recipe.training.precision)
    try:
        shape = (*[None] * source.dims, source.channels)
        scale = (train.ingest.mean.tolist(), train.ingest.variance.tolist())
        return make_network(recipe, shape, len(source.classes), scale)
    finally:
        keras.config.set_dtype_policy("float32")


def compiled_segmenter(
    recipe: Recipe, network: keras.Model, train: Pipeline, *, directory: Path | None = None
) -> RobustSegmenter:
    """Return the trainer that the recipe's `method` and `training` describe, compiled.

    Args:
        recipe: the recipe.
        network: what is trained.
        train: its training data.
        directory: of label rows that are kept on a disk.
    """
    method = make_method(recipe, train.ingest.source)
    total = recipe.training.epochs * train.steps_per_epoch
    try:
        model = RobustSegmenter(
            network,
            method.label_model,
            label_shapes=train.shapes if method.keeps_rows else None,
            label_directory=directory,
            region_weight=method.region_weight,
            training_steps=total,
            adversary=_adversary(recipe, train),
        )
    except ValueError as error:
        raise RecipeError(f"method: {error}") from error
    training = recipe.training
    model.compile(
        optimizer=_optimizer(recipe, total),
        loss=method.loss,
        metrics=[Dice(model.num_classes, name="dice")],
        jit_compile=training.jit_compile,
        steps_per_execution=training.steps_per_execution,
    )
    return model


def _adversary(recipe: Recipe, train: Pipeline) -> AdversarialTraining | None:
    """The recipe's attack; its shares of the range become values of the images."""
    block = recipe.training.adversarial
    if block is None:
        return None
    (low, high), settings = train.ingest.bounds, block.model_dump()
    for name in ("eps", "step_size"):
        settings[name] = settings[name] and settings[name] * (high - low)
    try:
        return AdversarialTraining(**settings, bounds=(low, high), seed=recipe.seed)
    except ValueError as error:  # images of one value have no range
        raise RecipeError(f"training.adversarial: {error}") from error


def _optimizer(recipe: Recipe, total_steps: int) -> keras.optimizers.Optimizer:
    settings = recipe.training.optimizer.model_dump()
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
    }
    kind = kinds[settings.pop("kind")]
    if settings.pop("schedule") == "cosine":
        settings["learning_rate"] = keras.optimizers.schedules.CosineDecay(
            settings["learning_rate"], total_steps
        )
    settings["weight_decay"] = settings["weight_decay"] or None
    if recipe.training.gradient_accumulation > 1:
        settings["gradient_accumulation_steps"] = recipe.training.gradient_accumulation
    return kind(**settings)
