"""Exporting a trained network for serving: SavedModel, ONNX, LiteRT, with card and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from keras_robustseg._export_card import CardFacts, model_card
from keras_robustseg._export_manifest import (
    put_in_place,
    require_replaceable,
    verify_export,
    write_manifest,
)
from keras_robustseg.errors import ExportError
from keras_robustseg.training._atomic import plain, write_json_atomic
from keras_robustseg.training._leftovers import discard, remove_leftovers, temporary

__all__ = ["FORMATS", "export_network", "export_run", "verify_export"]

FORMATS = ("saved_model", "onnx", "litert")
SAVED_MODELS = Path("saved_models")


def export_network(
    network: Any,
    directory: str | Path,
    *,
    classes: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    size: Sequence[int] | None = None,
    formats: Sequence[str] = ("saved_model",),
    extra_card: Mapping[str, str] | None = None,
) -> Path:
    """Write a network, its model card, recipe, scores and a manifest of SHA-256 sums.

    The SavedModel has the signatures `serving_default` (float32 images (B, *S, channels) ->
    `probabilities` (B, *S, C), `mask` int32 (B, *S), `entropy` (B, *S) in nats) and, for 2-D
    images of one or three channels, `serve_png` ((B,) encoded PNG or JPEG images of one size ->
    `mask`, `mask_png`, `entropy`) and `serve_png_json` (the same, `mask_png_bytes` for JSON).
    Each form is run on a test image and compared with Keras before anything is put in place.

    Args:
        network: a functional or sequential keras.Model that returns logits; of several outputs
            the first is exported. Give the network, not the trainer around it.
        directory: where to. An earlier export of that name is replaced in one step.
        classes: name of each class, background first.
        recipe: the resolved recipe, written as `recipe.yaml`.
        metrics: nested figures, written as `metrics.json`.
        size: spatial size of the LiteRT file, if the network leaves it open.
        formats: some of `"saved_model"`, `"onnx"` (extra `onnx`), `"litert"`.
        extra_card: title -> Markdown text of further sections of the card, such as `"Data"`.

    Returns:
        the directory.

    Raises:
        ExportError: the network does not fit, a form cannot be written, or `directory` holds
            something that is not an export of ours.

    Example:
        ```python
        network = unet((None, None, 1), 2, width=4, depth=2)
        export_network(network, "saved_models/first", classes=("background", "nodule"))
        verify_export("saved_models/first")
        ```
    """
    directory = Path(directory)
    _check(network, classes, formats)
    require_replaceable(directory)
    prepared = _fresh_directory(directory)
    try:
        parity = _write_graphs(network, prepared, formats, tuple(size) if size else None)
        facts = CardFacts(
            name=directory.name,
            input_shape=tuple(network.input_shape[1:]),
            parameters=network.count_params(),
            classes=tuple(classes),
            formats=tuple(formats),
            parity=parity,
            recipe=recipe,
            metrics=metrics,
            extra=extra_card or {},
        )
        _write_papers(prepared, facts)
        put_in_place(prepared, directory)
    except OSError as error:
        raise ExportError(
            f"{directory}: cannot be written: {error}. Nothing was exported; check the disk and "
            "the permissions of the directory."
        ) from error
    finally:
        discard(prepared)
    return directory


def export_run(
    run_dir: str | Path,
    *,
    formats: Sequence[str] = ("saved_model",),
    name: str | None = None,
    directory: str | Path | None = None,
    size: Sequence[int] | None = None,
) -> Path:
    """Export the network of a run directory.

    Reads `network.keras`, `recipe.json` (resolved), `metrics.json` if it is there, and
    `source.json` if it is there: {"name", "classes", "notice", "rendered"} of the data.

    Args:
        run_dir: what `robustseg train` wrote.
        formats: see `export_network`.
        name: folder under `saved_models/`; by default the recipe's `export.name` or `name`.
        directory: write there instead of under `saved_models/`.
        size: see `export_network`.

    Returns:
        the directory that was written.

    Raises:
        ExportError: the run has no network yet, one of its files cannot be read, or see
            `export_network`.

    Example:
        `export_run("runs/quickstart", formats=("saved_model", "onnx"))`
    """
    run_dir = Path(run_dir)
    recipe = _read_json(run_dir / "recipe.json", required=True)
    source = _read_json(run_dir / "source.json")
    network = _load_network(run_dir / "network.keras", recipe)
    chosen = name or (recipe.get("export") or {}).get("name") or recipe.get("name") or run_dir.name
    return export_network(
        network,
        directory or SAVED_MODELS / chosen,
        classes=source.get("classes") or _numbered_classes(network),
        recipe=recipe,
        metrics=_read_json(run_dir / "metrics.json"),
        size=size,
        formats=formats,
        extra_card={"Data": _data_section(source)} if source else None,
    )


def _write_graphs(
    network: Any, directory: Path, formats: Sequence[str], size: tuple[int, ...] | None
) -> dict[str, float | None]:
    import keras

    if keras.config.backend() == "tensorflow":
        from keras_robustseg._export_formats import write_formats

        return write_formats(network, directory, formats=formats, size=size)
    from keras_robustseg._export_child import write_formats_in_child

    return write_formats_in_child(network, directory, formats=formats, size=size)


def _write_papers(directory: Path, facts: CardFacts) -> None:
    if facts.recipe is not None:
        text = yaml.safe_dump(plain(facts.recipe), sort_keys=False, allow_unicode=True)
        (directory / "recipe.yaml").write_text(text, encoding="utf-8")
    if facts.metrics is not None:
        write_json_atomic(directory / "metrics.json", facts.metrics)
    (directory / "README.md").write_text(model_card(facts), encoding="utf-8")
    told = {
        "name": facts.name,
        "classes": facts.classes,
        "input_shape": facts.input_shape,
        "formats": facts.formats,
        "parity": facts.parity,
    }
    write_manifest(directory, told)


def _fresh_directory(directory: Path) -> Path:
    prepared = temporary(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory.parent, directory.name)
        discard(prepared)
        prepared.mkdir()
    except OSError as error:
        raise ExportError(
            f"{directory.parent}: cannot be written: {error}. Choose a directory where new "
            "folders can be made."
        ) from error
    return prepared


def _check(network: Any, classes: Sequence[str], formats: Sequence[str]) -> None:
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        raise ExportError(f"formats: expected some of {FORMATS}. Received: {tuple(formats)}")
    outputs = getattr(network, "outputs", None)
    if not outputs:
        return  # `serving_model` tells what is wrong with such a network
    channels = outputs[0].shape[-1]
    expected = 2 if channels == 1 else channels
    if len(classes) != expected:
        raise ExportError(
            f"classes: expected {expected} names for the network's {channels} logit(s). "
            f"Received {len(classes)}: {tuple(classes)}"
        )


def _read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path}: cannot be read: {error}. Expected a run directory of `robustseg train`."
        ) from error
    if not isinstance(value, dict):
        raise ExportError(f"{path}: expected a JSON object, received {type(value).__name__}")
    return value


def _load_network(path: Path, recipe: Mapping[str, Any]) -> Any:
    if not path.is_file():
        raise ExportError(
            f"{path}: not found. The network is written when training ends; go on with "
            "`robustseg resume`."
        )
    import importlib

    import keras

    importlib.import_module("keras_robustseg.models")  # registers its layers with Keras
    try:
        if (recipe.get("model") or {}).get("kind") == "hub":
            importlib.import_module("keras_hub")
        return keras.models.load_model(path, compile=False)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: cannot be loaded: {error}") from error


def _numbered_classes(network: Any) -> list[str]:
    channels = network.outputs[0].shape[-1]
    return ["background", *(f"class {index}" for index in range(1, max(channels, 2)))]


def _data_section(source: Mapping[str, Any]) -> str:
    rendered = source.get("rendered")
    lines = [
        f"Trained on `{source['name']}`." if source.get("name") else "",
        "Its images are rendered by a program, not measured by a scanner." if rendered else "",
        str(source.get("notice") or ""),
    ]
    return "\n\n".join(line for line in lines if line)
