"""The command `robustseg`: a thin shell over the Python functions of the same names.

Exit codes: 0 done, 2 bad input (one clear error, no traceback), 75 stopped on request with the
state saved, 1 anything else. TensorFlow is loaded only by the commands that compute with it.
"""

from __future__ import annotations

import enum
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_robustseg import __version__
from keras_robustseg._cli_audit import Method, Split
from keras_robustseg._cli_guard import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    Overrides,
    RecipeName,
    guarded,
    load_recipe_file,
)
from keras_robustseg._cli_recipe import recipe_app
from keras_robustseg.attacks._defaults import ATTACK_NAMES, DEFAULT_ATTACKS
from keras_robustseg.errors import RecipeError, StateError

if TYPE_CHECKING:
    from keras_robustseg.recipes import PixelRecipe, Recipe

app = typer.Typer(
    name="robustseg",
    help="Train segmentation networks on masks that are wrong in places.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(recipe_app, name="recipe")


class Format(enum.StrEnum):
    """Forms of an exported model."""

    saved_model = "saved_model"
    onnx = "onnx"
    litert = "litert"


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")]
RunOrPredictions = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_PREDICTIONS",
        help="The directory of a run, or class probabilities: an .npz file, or a folder.",
    ),
]
RecipeOrFolder = Annotated[
    str, typer.Argument(metavar="RECIPE_OR_FOLDER", help="A recipe, or a folder of data.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    # TensorFlow prints its build notes to stderr unless it is told not to before its import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if version:
        typer.echo(f"keras-robustseg {__version__}")
        raise typer.Exit


@app.command()
@guarded
def train(
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/NAME where it is not given.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train a network as a recipe says, evaluate it and export it."""
    loaded = load_recipe_file(recipe, overrides)
    folder = _free_folder(loaded.name) if out is None else _checked_folder(out)
    from keras_robustseg import run

    run.train(loaded, folder)
    typer.echo(f"run: {folder}")


@app.command()
@guarded
def tune(
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option(help="New directory; runs/NAME where it is not given.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Tune a pixel classifier's hyper-parameters, and write the recipe with the values found."""
    loaded = load_recipe_file(recipe, overrides)
    folder = _free_folder(loaded.name) if out is None else _checked_folder(out)
    from keras_robustseg._run_tune import tune as run_tune

    run_tune(loaded, folder)
    typer.echo(f"written: {folder} (run {folder / 'tuned.yaml'} by `robustseg train`)")


@app.command()
@guarded
def resume(folder: RunFolder) -> None:
    """Continue a run that was stopped, to the same result as if it had not been."""
    _require_run(folder)
    from keras_robustseg import run

    run.resume(folder)
    typer.echo(f"run: {folder}")


@app.command()
@guarded
def evaluate(folder: RunFolder) -> None:
    """Measure a run's network and corrected masks once more."""
    _require_run(folder)
    from keras_robustseg import run

    run.evaluate(folder)


@app.command()
@guarded
def export(
    folder: RunFolder,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="May be given several times.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder under saved_models/; the recipe's name by default.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Image size of a LiteRT file, as 128x128.")
    ] = None,
) -> None:
    """Write the network of a run for serving: SavedModel, ONNX, LiteRT."""
    _require_run(folder)
    chosen = tuple(form.value for form in formats or [Format.saved_model])
    sizes = None if size is None else _sizes(size)
    from keras_robustseg.export import export_run

    typer.echo(f"exported: {export_run(folder, formats=chosen, name=name, size=sizes)}")


def _sizes(text: str) -> tuple[int, ...]:
    sizes = text.lower().split("x")
    if not 2 <= len(sizes) <= 3 or not all(part.isdecimal() and int(part) for part in sizes):
        raise RecipeError(f"--size: got {text!r}, expected two or three sizes such as 128x128")
    return tuple(int(part) for part in sizes)


@app.command()
@guarded
def audit(
    target: RunOrPredictions,
    out: Annotated[
        Path | None, typer.Option(help="New directory; RUN/audit or PREDICTIONS-audit by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE_OR_FOLDER", help="Masks and images of predictions that hold none."
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which samples of a run.")] = Split.train,
    method: Annotated[Method, typer.Option(help="How masks are scored.")] = Method.regret,
    ignore_class: Annotated[
        int | None, typer.Option(help="Mask value that is void, besides -1 and 255.")
    ] = None,
    min_region: Annotated[int, typer.Option(min=1, help="Smallest marked region, px.")] = 5,
    overlays: Annotated[int, typer.Option(min=0, help="Masks on the page, the worst ones.")] = 100,
    pixel_scores: Annotated[
        bool, typer.Option("--pixel-scores", help="Also write how wrong each pixel looks.")
    ] = False,
) -> None:
    """Rank masks and objects by how wrong they look, and write corrected masks and a page."""
    from keras_robustseg import _cli_audit

    place = _cli_audit.where_to_write(target, out)
    report = _cli_audit.audit(
        target,
        place,
        data=data,
        split=split.value,
        method=method.value,
        ignore_class=ignore_class,
        min_region=min_region,
        overlays=overlays,
        pixel_scores=pixel_scores,
    )
    typer.echo(report.text())
    typer.echo(f"written: {place} (open {place / 'audit.html'})")


@app.command()
@guarded
def attack(
    target: Annotated[
        Path, typer.Argument(metavar="RUN_OR_SAVEDMODEL", help="A run, or an exported SavedModel.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="New directory; RUN/attack or NAME-attack by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="RECIPE_OR_FOLDER", help="Images; those it was made with by default."),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.test,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            help=f"One of {', '.join(ATTACK_NAMES)}; may be given several times. By default "
            f"{', '.join(DEFAULT_ATTACKS)}.",
        ),
    ] = None,
    eps: Annotated[
        list[float] | None,
        typer.Option(
            "--eps",
            help="Size, as a share of the range of values; may be given several times, "
            "increasing. By default 1/255, 2/255, 4/255 and 8/255.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of attacks of fixed size.")] = 20,
    minimal_steps: Annotated[int, typer.Option(min=1, help="Of attacks of minimal norm.")] = 100,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many images.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked together.")] = 8,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option(help="Least and greatest value of an image.")
    ] = None,
    surrogate: Annotated[
        Path | None, typer.Option(help="Another run or SavedModel, to transfer attacks from.")
    ] = None,
    ignore_label: Annotated[
        int | None, typer.Option(help="Class that does not count; 0 attacks objects alone.")
    ] = None,
    success_rate: Annotated[
        float, typer.Option(help="Share of the pixels that attacks of minimal norm must flip.")
    ] = 0.99,
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Round attacked images to 256 levels.")
    ] = False,
    examples: Annotated[int, typer.Option(min=0, help="Images on the page.")] = 4,
) -> None:
    """Attack a network, and report how robust it is."""
    from keras_robustseg import _cli_attack

    place = _cli_attack.where_to_write(target, out)
    report = _cli_attack.attack(
        target,
        place,
        data=data,
        split=split.value,
        attacks=attacks or _cli_attack.DEFAULT_ATTACKS,
        eps=eps or _cli_attack.DEFAULT_EPS,
        steps=steps,
        minimal_steps=minimal_steps,
        limit=limit,
        batch_size=batch_size,
        bounds=bounds,
        surrogate=surrogate,
        ignore_label=ignore_label,
        success_rate=success_rate,
        quantize=eight_bit,
        examples=examples,
        say=partial(typer.echo, err=True),
    )
    typer.echo(report.text())
    typer.echo(f"written: {place} (open {place / 'robustness.html'})")


@app.command()
@guarded
def check(
    target: RecipeOrFolder,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON too.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List all that is wrong with the data of a recipe, or with a folder or .npz file."""
    _, source = _open(target, overrides)
    from keras_robustseg.data import check as check_data

    report = check_data(source)
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    typer.echo(report.text())
    if report.errors:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
@guarded
def noise(
    target: RecipeOrFolder,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("noise.png"),
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="Show this kind, not the recipe's noise.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=50, help="Rows of the grid.")] = 4,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what is done to each mask, as JSON lines."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Show what annotation noise does to a few masks of a recipe or folder."""
    recipe, source = _open(target, overrides)
    from keras_robustseg._cli_noise import preview_noise, write_manifest
    from keras_robustseg.data._check_layout import open_folder

    if isinstance(source, str):
        source, _ = open_folder(source)
    items = [block.item() for block in recipe.data.noise] if recipe else []
    seed, splits = (recipe.data_seed, recipe.data.noise_splits) if recipe else (0, ("train",))
    if manifest is not None:
        rows = write_manifest(source, items, manifest, seed=seed, splits=splits)
        typer.echo(f"written: {manifest} ({rows} masks)")
    preview_noise(source, items, out, kinds=kinds or (), samples=samples, seed=seed)
    typer.echo(f"written: {out}")


@app.command()
@guarded
def benchmark(
    file: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="A benchmark file, or a packaged one's name.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder; runs/benchmarks/NAME where it is not given.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Part of the grid, such as core or full.")] = "core",
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes side by side, each on one core.")
    ] = 1,
    only: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Train only runs cell/method/s0 that match."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the runs; train nothing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell how long it will take; train nothing.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the tables of what is finished; train nothing.")
    ] = False,
) -> None:
    """Train a grid of data, methods and seeds, compare the methods, and judge the targets."""
    from keras_robustseg import _cli_benchmark as command

    if list_:
        command.list_cells(file, out, profile=profile, only=only, say=typer.echo)
    elif dry_run:
        command.tell_cost(file, out, profile=profile, only=only, jobs=jobs, say=typer.echo)
    elif report:
        command.report(file, out, profile=profile, say=typer.echo)
    else:
        found = command.run(file, out, profile=profile, only=only, jobs=jobs, say=typer.echo)
        if found.failed:
            raise typer.Exit(EXIT_FAILED)


def _open(target: str, overrides: list[str] | None) -> tuple[Recipe | PixelRecipe | None, Any]:
    """Return a recipe and its data; of a folder or an archive there is only its path."""
    from keras_robustseg.data import source_from_config
    from keras_robustseg.data._check_layout import is_data

    if is_data(target):
        if overrides:
            raise RecipeError("--set: it changes a recipe, and a folder has none")
        return None, target
    recipe = load_recipe_file(target, overrides)
    return recipe, source_from_config(recipe.data.source.model_dump())


def _free_folder(name: str) -> Path:
    """Return runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that is not in use."""
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or _is_empty_folder(folder):
            return _checked_folder(folder)
        number += 1


def _checked_folder(folder: Path) -> Path:
    """Refuse a run directory that cannot be written or holds something, before work starts."""
    if folder.exists() and not _is_empty_folder(folder):
        raise StateError(
            f"{folder}: not an empty directory; `robustseg resume {folder}` continues a run, "
            "another --out starts a new one"
        )
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise StateError(f"{folder}: cannot be created, since {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StateError(f"{folder}: cannot be created, since {parent} is not writable")
    return folder


def _is_empty_folder(folder: Path) -> bool:
    # A run that was killed before its first step leaves its lock, which `RunLock` looks after.
    return folder.is_dir() and all(item.name == "run.lock" for item in folder.iterdir())


def _require_run(folder: Path) -> None:
    if not folder.is_dir():
        raise StateError(f"{folder}: no such run directory")


def main() -> None:
    """Run the command line; a reader that hangs up (`| head`) ends it without a word."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
