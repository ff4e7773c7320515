"""One cell of a benchmark: train a recipe, look at every epoch, compare masks with the truth."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robustseg._run_build import Build, Parts, build_parts, split_indices
from keras_robustseg._run_finish import corrected_mask, given_mask
from keras_robustseg.benchmark._epochs import EpochScores, Predict, Split, network_argmax
from keras_robustseg.benchmark._memory import remembered_source
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.data._source import VOID, Example
from keras_robustseg.metrics import MaskEvaluation, evaluate_masks
from keras_robustseg.recipes import Recipe, recipe_from_dict, require_network

MEASUREMENTS = 40
VANISHED = 0.05
"""A class has vanished where fewer pixels than this share of its true number are predicted."""


def run_cell(
    recipe: Recipe | Mapping[str, Any],
    *,
    build: Build | None = None,
    predict: Predict = network_argmax,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    every: int | None = None,
) -> dict[str, Any]:
    """Train a recipe in memory and measure it; nothing is written, exported or drawn.

    Dice is, as everywhere, the mean over foreground classes of the mean over images; a class that
    neither map of an image has does not count there.

    Args:
        recipe: the recipe, or its fields as plain values.
        build: makes the compiled trainer from `(recipe, network, train pipeline)` in place of the
            recipe's `method`, for methods that no recipe knows yet.
        predict: class ids (B, *S) of images (B, *S, channels), for other decision rules.
        callbacks: further callbacks of `fit`, called before the epoch is measured.
        every: epochs from one measurement to the next; by default as many as make at most 40
            measurements of a run.

    Returns:
        Plain values:

        - `test`: Dice on the test split of the `last` epoch, of the epoch with the best Dice on
          the validation masks as given (`noisy_validation`), of the one with the best Dice on
          their truth (`clean_validation`), and of the best epoch on the test split itself
          (`oracle`, which nobody can choose); each `{epoch, dice, images}` with `images` the Dice
          of each image and foreground class, None where undefined;
        - `curve`: `epoch`, `test`, `given_validation`, `true_validation`;
        - `labels`: Dice of the `given` and, of a method that corrects, the `corrected` training
          masks against the truth; `fixed` and `broken` pixels and their difference `net`;
          `validation`, Dice of the given validation masks;
        - `volume`: predicted over true pixels of each foreground class on the test split, last
          epoch (None where the truth has none); `collapsed`: one of them is below 0.05;
        - `seeds`: `init` (weights, order, augmentation) and `data` (noise, readers, limits);
        - `seconds`: of the whole cell and of its training; `steps`, `skipped_steps`.

    Raises:
        RecipeError, DataError: bad input.

    Example:
        ```python
        from keras_robustseg.benchmark import run_cell

        figures = run_cell(load_recipe("quickstart", overrides=["training.epochs=2"]))
        figures["test"]["last"]["dice"]
        ```
    """
    begun = time.monotonic()
    recipe = require_network(recipe if isinstance(recipe, Recipe) else recipe_from_dict(recipe))
    keras.backend.clear_session()
    source = remembered_source(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        parts = build_parts(recipe, Path(scratch), source=source, build=build)
        scores = _epoch_scores(parts, predict, every)
        training = time.monotonic()
        parts.model.fit(
            parts.train.dataset(),
            epochs=recipe.training.epochs,
            shuffle=False,  # the pipeline does
            verbose=0,
            callbacks=[*callbacks, scores],
        )
        trained = time.monotonic()
        labels = _label_figures(parts)
    return {
        "test": _chosen_epochs(scores),
        "curve": _curve(scores),
        "labels": labels,
        **_volumes(scores.test[-1]),
        "seeds": {"init": recipe.seed, "data": recipe.data_seed},
        "seconds": {"all": time.monotonic() - begun, "training": trained - training},
        "steps": int(keras.ops.convert_to_numpy(parts.model.step)),
        "skipped_steps": int(keras.ops.convert_to_numpy(parts.model.skipped_steps)),
    }


def _epoch_scores(parts: Parts, predict: Predict, every: int | None) -> EpochScores:
    every = every or -(-parts.recipe.training.epochs // MEASUREMENTS)
    return EpochScores(
        _split(parts, "val") if parts.validation else None,
        _split(parts, "test"),
        len(parts.source.classes),
        predict=predict,
        batch_size=parts.recipe.evaluation.batch_size,
        every=every,
    )


def _split(parts: Parts, name: str) -> Split:
    pipeline = parts.validation if name == "val" else None
    indices = split_indices(parts.recipe, parts.source, name)
    examples = [parts.source.load(index) for index in indices]
    truth = [_truth(example) for example in examples]
    given = truth
    if pipeline is not None:
        given = [_one(pipeline.ingest.load(number)[1], pipeline) for number in range(len(indices))]
    return Split([example.image.astype("float32") for example in examples], given, truth)


def _one(mask: np.ndarray, pipeline: Any) -> np.ndarray:
    several = pipeline.ingest.readers == "all"
    return choose_reader(mask, "majority", seed=0, sample_id="") if several else mask


def _truth(example: Example) -> np.ndarray:
    if example.truth is not None:
        return example.truth
    return choose_reader(example.mask, "majority", seed=0, sample_id="")


def _chosen_epochs(scores: EpochScores) -> dict[str, Any]:
    dice = [evaluation.mean("dice") for evaluation in scores.test]
    chosen = {"last": len(dice) - 1, "oracle": _best(dice)}
    if scores.given_validation:
        chosen["noisy_validation"] = _best(scores.given_validation)
        chosen["clean_validation"] = _best(scores.true_validation)
    return {
        name: {
            "epoch": scores.epochs[number],
            "dice": dice[number],
            "images": _images(scores.test[number]),
        }
        for name, number in chosen.items()
    }


def _best(dice: list[float]) -> int:
    """The first of the best; an undefined Dice is the worst."""
    return int(np.argmax(np.nan_to_num(dice, nan=-1.0)))


def _images(evaluation: MaskEvaluation) -> list[list[float | None]]:
    rows = evaluation.values["dice"][:, 1:]
    return [[None if np.isnan(v) else round(float(v), 5) for v in row] for row in rows]


def _curve(scores: EpochScores) -> dict[str, Any]:
    return {
        "epoch": scores.epochs,
        "test": [round(evaluation.mean("dice"), 5) for evaluation in scores.test],
        "given_validation": [round(value, 5) for value in scores.given_validation],
        "true_validation": [round(value, 5) for value in scores.true_validation],
    }


def _volumes(evaluation: MaskEvaluation) -> dict[str, Any]:
    predicted, true = evaluation.counts.sum(axis=0)[1:, 1:]
    ratios = [p / t if t else None for p, t in zip(predicted.tolist(), true.tolist(), strict=True)]
    gone = any(ratio is not None and ratio < VANISHED for ratio in ratios)
    return {"volume": ratios, "collapsed": gone}


def _label_figures(parts: Parts) -> dict[str, Any]:
    given, corrected, truth = [], [], []
    for number, index in enumerate(parts.train.ingest.indices):
        given.append(given_mask(parts, number))
        corrected.append(corrected_mask(parts, number))
        truth.append(_truth(parts.source.load(index)))
    classes = len(parts.source.classes)
    figures: dict[str, Any] = {"given": _dice(given, truth, classes)}
    if parts.validation is not None:
        validation = _split(parts, "val")
        figures["validation"] = _dice(validation.given, validation.truth, classes)
    if not any(mask is None for mask in corrected):
        figures["corrected"] = _dice(corrected, truth, classes)
        figures |= _changes(given, corrected, truth)
    return figures


def _changes(given: list, corrected: list, truth: list) -> dict[str, int]:
    fixed = broken = 0
    for before, after, true in zip(given, corrected, truth, strict=True):
        known = (before != VOID) & (true != VOID)
        fixed += int((known & (before != true) & (after == true)).sum())
        broken += int((known & (before == true) & (after != true)).sum())
    return {"fixed": fixed, "broken": broken, "net": fixed - broken}


def _dice(masks: Sequence[Any], truth: Sequence[Any], classes: int) -> float:
    return evaluate_masks(masks, truth, classes, surface=False).mean("dice")
