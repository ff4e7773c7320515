"""What a finished training leaves behind: figures of merit, corrected masks, pictures, a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg._run_build import Parts, split_indices
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.data._source import VOID
from keras_robustseg.metrics import MaskEvaluation, evaluate_masks
from keras_robustseg.models import predict_probabilities
from keras_robustseg.report import OverlayItem, curves, overlays, scores
from keras_robustseg.training._history import History


def given_mask(parts: Parts, number: int) -> np.ndarray:
    """Return the one mask (*S) that stands for what was given of a training image."""
    return choose_reader(_with_readers(parts, number), "majority", seed=0, sample_id="")


def _with_readers(parts: Parts, number: int) -> np.ndarray:
    mask = parts.train.ingest.load(number)[1]
    return mask if parts.train.ingest.readers == "all" else mask[..., None]


def corrected_mask(parts: Parts, number: int) -> np.ndarray | None:
    """Return the mask (*S) that the label model now believes of a training image, or None."""
    if not parts.model.has_belief:
        return None
    image, mask = parts.train.ingest.load(number)
    labels = parts.model.corrected_labels(number, mask, image)
    given = given_mask(parts, number)
    return np.where(given == VOID, VOID, labels.argmax(axis=-1)).astype(given.dtype)


def label_metrics(parts: Parts, run: Path) -> dict[str, Any]:
    """Compare given and corrected training masks with the truth, and write the corrected ones.

    Returns:
        `given` and `corrected`, each as `report.scores`, where the source knows the truth; and
        `changed`, the share of the drawn pixels whose class was changed.
    """
    table: dict[str, list] = {"given": [], "corrected": [], "truth": [], "spacing": []}
    changed = drawn = 0
    masks = run / "corrected_masks"
    shutil.rmtree(masks, ignore_errors=True)  # what an interrupted ending has left
    if parts.model.has_belief:
        masks.mkdir()
    for number, index in enumerate(parts.train.ingest.indices):
        given, corrected = given_mask(parts, number), corrected_mask(parts, number)
        example = parts.source.load(index)
        if corrected is not None:
            name = parts.source.samples[index].id.replace("/", "_")
            parts.source.save_mask(index, corrected, masks / name)
            changed, drawn = changed + (given != corrected).sum(), drawn + (given >= 0).sum()
        if example.truth is not None:
            row = (given, corrected, example.truth, example.spacing)
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
    kinds = ("given", "corrected") if parts.model.has_belief else ("given",)
    result: dict[str, Any] = {"changed": float(changed / drawn)} if drawn else {}
    given_up = getattr(parts.model.objective, "given_up", [])
    if given_up:
        result["given_up"] = [parts.source.classes[k] for k in given_up]
    if table["truth"]:
        for kind in kinds:
            result[kind] = _evaluate(parts, table[kind], table["truth"], table["spacing"])
    return result


def test_metrics(parts: Parts) -> dict[str, Any]:
    """Compare the network with the test split: the truth where known, else the given masks."""
    preds, trues, spacing = [], [], []
    for index in split_indices(parts.recipe, parts.source, "test"):
        example = parts.source.load(index)
        preds.append(predict(parts, example.image))
        trues.append(_reference(parts, index, example))
        spacing.append(example.spacing)
    return _evaluate(parts, preds, trues, spacing) if preds else {}


def _reference(parts: Parts, index: int, example: Any) -> np.ndarray:
    if example.truth is not None:
        return example.truth
    name = parts.source.samples[index].id
    return choose_reader(example.mask, "majority", seed=0, sample_id=name)


def predict(parts: Parts, image: np.ndarray) -> np.ndarray:
    """Return the class ids (*S) that the network gives an image."""
    patch = parts.recipe.evaluation.patch
    return predict_probabilities(parts.model.served, image, patch=patch).argmax(axis=-1)


def _evaluate(parts: Parts, preds: list, trues: list, spacing: list) -> dict[str, Any]:
    settings = parts.recipe.evaluation
    table: MaskEvaluation = evaluate_masks(
        preds,
        trues,
        len(parts.source.classes),
        spacing=spacing,
        tolerance=settings.tolerance,
        surface=settings.surface,
    )
    return scores(table.summary())


def figures(parts: Parts, history: History, run: Path) -> None:
    """Draw the curves, and image, given mask, corrected mask and prediction of some samples."""
    directory = run / "figures"
    directory.mkdir(parents=True, exist_ok=True)
    curves(history.rows, directory / "curves.png")
    count = min(parts.recipe.report.overlays, len(parts.train.ingest))
    if count:
        shown = np.linspace(0, len(parts.train.ingest) - 1, count).astype(int)
        items = [_overlay(parts, int(number)) for number in shown]
        overlays(
            items,
            directory / "overlays.png",
            rendered=parts.source.rendered,
            classes=parts.source.classes,
        )


def _overlay(parts: Parts, number: int) -> OverlayItem:
    index = parts.train.ingest.indices[number]
    example = parts.source.load(index)
    return OverlayItem(
        image=example.image,
        given=given_mask(parts, number),
        corrected=corrected_mask(parts, number),
        prediction=predict(parts, example.image),
        truth=example.truth,
        title=parts.source.samples[index].id,
    )
