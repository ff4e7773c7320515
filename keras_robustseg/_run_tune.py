"""Running the recipe of a pixel classifier: `train` fits it, `tune` finds its hyper-parameters."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg._recipe_pixels import PixelRecipe, Tuned
from keras_robustseg._run_pixels import (
    PixelParts,
    build_pixels,
    evaluate_pixels,
    fit_pixels,
    make_classifier,
    save_classifier,
)
from keras_robustseg.errors import RecipeError
from keras_robustseg.recipes import Recipe, dump, load_recipe, recipe_from_dict
from keras_robustseg.report import metrics_table
from keras_robustseg.report._audit_write import check_free
from keras_robustseg.training._atomic import write_json_atomic, write_text_atomic
from keras_robustseg.tuning import BilevelTuner, Hyperparameter, TuningReport

_IN_CLASSIFIER = ("l2", "l1", "sigma2", "nuclear")


def train_pixels(recipe: PixelRecipe, out: Path) -> dict[str, Any]:
    """Fit the classifier of a recipe with the hyper-parameters it says, and evaluate it.

    Writes `recipe.yaml`, `recipe.json`, `classifier.keras` (features -> scores), `predictions/`
    (masks of the test images) and `metrics.json`.

    Args:
        recipe: the recipe.
        out: run directory, locked and fresh.
    """
    began = time.monotonic()
    parts = build_pixels(recipe)
    model = fit_pixels(parts)
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out / "recipe.yaml", dump(recipe))
    write_json_atomic(out / "recipe.json", recipe.resolved())
    result = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "rendered_images": parts.source.rendered,
        "test": evaluate_pixels(parts, model, out),
        "training": {"pixels": len(parts.training.y)},
        "complete": True,
    }
    result["training"]["seconds"] = round(time.monotonic() - began, 1)
    save_classifier(parts, model, out / "classifier.keras")
    write_json_atomic(out / "metrics.json", result)
    print(metrics_table(result))
    print(f"pixels of the right class: {result['test']['accuracy']:.4f}")
    return result


def tune(recipe: Recipe | PixelRecipe | str | Path, out: str | Path) -> TuningReport:
    """Tune the hyper-parameters that a recipe names, and write the recipe with the values found.

    Writes into `out`: `tuned.yaml`, a recipe for `train`; `report.json`, trajectory, certificates
    and baselines; `trajectory.csv`; `report.txt`, the table; `metrics.json`, its figures; and
    `recipe.yaml`, what was run. Nothing is overwritten.

    Args:
        recipe: the recipe of a pixel classifier with the block `tuning`, or its file or name.
        out: new or empty directory.

    Returns:
        The report.

    Raises:
        RecipeError, DataError: bad input; nothing is written.
        StateError: `out` is not empty.

    Example:
        `tune("tune_annotator_weights", "runs/tuned").row("tuned").score`
    """
    loaded = recipe if isinstance(recipe, Recipe | PixelRecipe) else load_recipe(recipe)
    if isinstance(loaded, Recipe) or loaded.tuning is None:
        raise RecipeError(
            f"{loaded.name}: tuning: missing; `tune` wants the recipe of a pixel classifier that "
            "says what to tune, such as tune_annotator_weights"
        )
    check_free(Path(out))
    parts = build_pixels(loaded)
    try:
        tuner = make_tuner(parts)
        training = parts.training
        tuner.fit(training.x, training.y, training.weight, groups=training.annotator)
    except ValueError as error:
        raise RecipeError(f"tuning: {error}") from error
    report = tuner.report(test=parts.held("test"))
    _write(loaded, report, Path(out))
    print(report.text())
    return report


def make_tuner(parts: PixelParts) -> BilevelTuner:
    """Return the tuner of a recipe, which is not run."""
    recipe = parts.recipe
    assert recipe.tuning is not None
    block = recipe.tuning
    if block.folds and recipe.spatial:
        raise ValueError("folds of pixels have no neighbours for `spatial`. Expected folds: null")
    return BilevelTuner(
        make_classifier(recipe),
        [hyperparameter(recipe, one) for one in block.hyperparameters],
        block.folds or parts.held("val"),
        optimizer=block.optimizer,
        steps=block.steps,
        learning_rate=block.learning_rate,
        baseline_cost=block.baseline_cost,
        seed=recipe.seed,
    )


def hyperparameter(recipe: PixelRecipe, tuned: Tuned) -> Hyperparameter:
    """Return what the tuner is told of a hyper-parameter; it starts at the recipe's value."""
    settings: dict[str, Any] = {"bounds": tuned.bounds, "pull": tuned.pull}
    if tuned.name == "annotator_weights":
        start = recipe.annotators and recipe.annotators.weights
        return Hyperparameter(
            "sample_weight", "sigmoid", initial=start, per="annotator", **settings
        )
    inside = tuned.name in _IN_CLASSIFIER
    start = getattr(recipe.classifier if inside else recipe.spatial, tuned.name)
    name = f"estimator__{tuned.name}" if inside and recipe.spatial else tuned.name
    return Hyperparameter(name, "log", initial=start, per=tuned.per, **settings)


def tuned_recipe(recipe: PixelRecipe, report: TuningReport) -> PixelRecipe:
    """Return a recipe with the values found in the places of the old ones, and no `tuning`."""
    values = recipe.resolved()
    for name, value in report.values.items():
        plain = np.asarray(value).tolist()
        name = name.removeprefix("estimator__")
        if name == "sample_weight":
            values["annotators"]["weights"] = plain
        else:
            values["classifier" if name in _IN_CLASSIFIER else "spatial"][name] = plain
    values |= {"tuning": None, "name": f"{recipe.name[:57]}-tuned"}
    found = recipe_from_dict(values)
    assert isinstance(found, PixelRecipe)
    return found


def _write(recipe: PixelRecipe, report: TuningReport, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain = report.to_dict()
    rows = {row.pop("name").replace(" ", "_"): row for row in plain["rows"]}
    write_text_atomic(out / "recipe.yaml", dump(recipe))
    write_json_atomic(out / "report.json", report.to_dict())
    write_text_atomic(out / "report.txt", report.text() + "\n")
    write_text_atomic(out / "trajectory.csv", trajectory(report))
    write_json_atomic(
        out / "metrics.json",
        {"recipe": recipe.name, "certified": report.certified, "tuning": rows, "complete": True},
    )
    write_text_atomic(out / "tuned.yaml", dump(tuned_recipe(recipe, report)))


def trajectory(report: TuningReport) -> str:
    """Return the outer steps as CSV: figures, certificate, and each value in a column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = [name for name in report.steps[0].__dataclass_fields__ if name != "values"]
    names = [
        f"{name}.{i}" if np.ndim(value) else name
        for name, value in report.values.items()
        for i in range(np.size(value))
    ]
    writer.writerow([*figures, *names])
    for step in report.steps:
        values = np.concatenate([np.ravel(value) for value in step.values.values()])
        writer.writerow([*(getattr(step, name) for name in figures), *values.tolist()])
    return file.getvalue()
