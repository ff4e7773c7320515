"""From a recipe to a run: train, resume, evaluate. The command line is a thin shell over this.

A run directory holds

    recipe.yaml, recipe.json   the recipe with every default written out
    source.json                the data: classes, licence, whether images are rendered
    environment.json           versions, machine, threads
    state/                     what an exact resume needs
    history.csv                a row an epoch
    network.keras              the trained network
    corrected_masks/           in the format and geometry of the given ones
    figures/                   curves, overlays
    attack/                    the report of robustness, where the recipe asks for one
    metrics.json               every figure that is printed
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from keras_robustseg._run_build import Parts, build_parts
from keras_robustseg._run_finish import figures, label_metrics, test_metrics
from keras_robustseg._run_tune import train_pixels
from keras_robustseg.errors import RobustSegError, StateError
from keras_robustseg.export import export_run
from keras_robustseg.recipes import PixelRecipe, Recipe, dump, load_network_recipe, load_recipe
from keras_robustseg.report import metrics_table
from keras_robustseg.training import ExactResume, RunLock, StopSignals
from keras_robustseg.training._atomic import write_json_atomic, write_text_atomic


def train(
    recipe: Recipe | PixelRecipe | str | Path, out: str | Path, *, verbose: int | None = None
) -> dict:
    """Train from a recipe, and leave everything in a run directory.

    The recipe of a pixel classifier is fitted as it stands; `tune` finds its hyper-parameters.

    Args:
        recipe: a recipe, or its file or name.
        out: run directory; must not hold a run yet.
        verbose: Keras' progress: 0 none, 1 bar, 2 a line an epoch; by default 1 on a terminal.

    Returns:
        The content of `metrics.json`.

    Raises:
        RecipeError, DataError: bad input; nothing is left behind.
        StateError: `out` holds a run, or cannot be written.
        StopRequested: SIGTERM or Ctrl-C; the state is saved, `resume` goes on.

    Example:
        `train("quickstart", "runs/quickstart")["test"]["dice"]`
    """
    if not isinstance(recipe, Recipe | PixelRecipe):
        recipe = load_recipe(recipe)
    out = Path(out)
    _refuse_used(out)
    if isinstance(recipe, PixelRecipe):
        with _locked(out, new=True):
            return train_pixels(recipe, out)
    with _locked(out, new=True):
        parts = build_parts(recipe, out)
        write_text_atomic(out / "recipe.yaml", dump(recipe))
        write_json_atomic(out / "recipe.json", recipe.resolved())
        write_json_atomic(out / "source.json", _described(parts))
        write_json_atomic(out / "environment.json", environment())
        return _train_and_finish(parts, out, verbose)


def resume(out: str | Path, *, verbose: int | None = None) -> dict:
    """Go on with a run that was stopped or killed; a finished one is only reported again.

    Raises:
        StateError: `out` holds no run, another process is working in it, its state is damaged,
            or recipe or data have changed since.
    """
    out = Path(out)
    recipe = recipe_of(out)
    with _locked(out, new=False):
        metrics = _read_metrics(out)
        if metrics.get("complete"):
            print(metrics_table(metrics))
            return metrics
        return _train_and_finish(build_parts(recipe, out), out, verbose)


def evaluate(out: str | Path) -> dict:
    """Evaluate the network of a finished run on its test split again, and print the table.

    Raises:
        StateError: `out` holds no finished run.
    """
    out = Path(out)
    recipe = recipe_of(out)
    if not (out / "network.keras").exists():
        raise StateError(f"{out}: this run has no trained network yet. Run `robustseg resume`.")
    with _locked(out, new=False):
        parts = build_parts(recipe, out)
        trained = keras.saving.load_model(out / "network.keras", compile=False)
        parts.model.served.set_weights(trained.get_weights())
        result = {**_read_metrics(out), "test": test_metrics(parts)}
        write_json_atomic(out / "metrics.json", result)
    print(metrics_table(result))
    return result


def recipe_of(out: Path) -> Recipe:
    """Return the recipe that a run directory was started with.

    Raises:
        StateError: there is no run in it.
    """
    if not (out / "recipe.json").exists():
        raise StateError(
            f"{out}: no run in this directory (it has no recipe.json). Start one with "
            f"`robustseg train RECIPE --out {out}`."
        )
    return load_network_recipe(out / "recipe.json")


def _train_and_finish(parts: Parts, out: Path, verbose: int | None) -> dict:
    settings = parts.recipe.training
    begun = time.monotonic()
    with StopSignals() as stop:
        saver = ExactResume(
            out,
            parts.train,
            every_seconds=settings.save_every_seconds,
            every_steps=settings.save_every_steps,
            identity=parts.identity,
            max_skipped_steps=settings.max_skipped_steps,
            stop=stop,
        )
        parts.model.fit(
            parts.train.dataset(),
            epochs=settings.epochs,
            shuffle=False,  # the pipeline does
            verbose=(1 if sys.stdout.isatty() else 2) if verbose is None else verbose,
            validation_data=parts.validation.dataset() if parts.validation else None,
            callbacks=[*_tensorboard(parts, out), saver],
        )
    seconds = time.monotonic() - begun
    parts.model.served.save(out / "network.keras")
    return _finish(parts, saver, out, seconds)


def _tensorboard(parts: Parts, out: Path) -> Sequence[keras.callbacks.Callback]:
    if not parts.recipe.report.tensorboard:
        return []
    return [keras.callbacks.TensorBoard(out / "tensorboard", write_graph=False)]


def _finish(parts: Parts, saver: ExactResume, out: Path, seconds: float) -> dict:
    figures(parts, saver.history, out)
    result = {
        "recipe": parts.recipe.name,
        "seed": parts.recipe.seed,
        "rendered_images": parts.source.rendered,
        "labels": label_metrics(parts, out),
        "test": test_metrics(parts),
        **_robustness(parts, out),
        "training": {
            "epochs": parts.recipe.training.epochs,
            "steps": int(keras.ops.convert_to_numpy(parts.model.step)),
            "skipped_steps": int(keras.ops.convert_to_numpy(parts.model.skipped_steps)),
            "seconds": round(seconds, 1),
        },
    }
    if parts.recipe.export.enabled:
        write_json_atomic(out / "metrics.json", result)
        settings = parts.recipe.export
        # LiteRT wants one size: that of the images, where they have one, or of the patches.
        size = parts.train.target
        path = export_run(out, formats=settings.formats, name=settings.name, size=size)
        result["export"] = {"path": str(path)}
    result["complete"] = True
    write_json_atomic(out / "metrics.json", result)
    print(metrics_table(result))
    return result


def _robustness(parts: Parts, out: Path) -> dict[str, Any]:
    block = parts.recipe.evaluation.robustness
    if block is None:
        return {}
    from keras_robustseg._run_attack import attack_trained

    return attack_trained(parts, block, out)


def _described(parts: Parts) -> dict[str, Any]:
    source = parts.source
    names = ("name", "classes", "channels", "dims", "rendered", "notice")
    return {name: getattr(source, name) for name in names}


def environment() -> dict[str, Any]:
    """Return versions, machine and thread settings, for the run directory."""
    names = ("keras-robustseg", "keras", "tensorflow", "jax", "numpy", "scipy")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "cpus": os.cpu_count(),
        "threads": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
        "versions": versions,
    }


def _read_metrics(out: Path) -> dict[str, Any]:
    path = out / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _refuse_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StateError(f"{out}: is a file, expected a directory for the run")
    if (out / "recipe.json").exists():
        raise StateError(
            f"{out}: holds a run already. Go on with it by `robustseg resume {out}`, or choose "
            "another directory with --out."
        )


@contextmanager
def _locked(out: Path, *, new: bool) -> Iterator[None]:
    """Hold the run directory; a new one that fails on bad input leaves nothing behind."""
    fresh = new and not out.exists()
    try:
        with RunLock(out) as lock:
            if lock.note:
                print(lock.note)
            try:
                yield
            except RobustSegError:
                if fresh and not (out / "recipe.json").exists():
                    shutil.rmtree(out, ignore_errors=True)
                raise
    finally:
        shutil.rmtree(out / "cache", ignore_errors=True)
