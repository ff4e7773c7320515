"""Auditing the masks of a run: its network's predictions and what its label rows have learned."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_robustseg._run_build import Parts, build_parts, split_indices
from keras_robustseg._run_finish import given_mask
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.errors import DataError
from keras_robustseg.models import predict_probabilities
from keras_robustseg.recipes import Recipe
from keras_robustseg.report import AuditData, AuditSample, self_confidence
from keras_robustseg.training import ExactResume, StopSignals
from keras_robustseg.training._history import History

_SEEN = (
    "Probabilities of the run's own network, which has learned from these masks: it agrees with "
    "wrong ones more than a network would that has not seen them (out-of-fold predictions)."
)
_ROWS = (
    "Mean of the predictions of the run's own network and of its label rows, which have averaged "
    "earlier predictions and the given masks."
)
_UNSEEN = "Probabilities of the run's network, which has not learned from these masks."


class RunData(AuditData):
    """The samples of one split of a run, with what the run believes about them.

    Args:
        run: directory of a finished run.
        recipe: its recipe.
        split: "train", "val" or "test".

    Raises:
        StateError: the run's saved state does not fit.
        DataError: the split has no samples.
    """

    def __init__(self, run: Path, recipe: Recipe, split: str = "train") -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="robustseg-audit-")
        scratch = Path(self._scratch.name)
        self._parts = _restored(run, recipe, scratch)
        source = self._parts.source
        self.name, self.classes = f"{source.name}, {split} split of {run}", source.classes
        self.rendered, self.notice = source.rendered, source.notice
        self._split, self._indices = split, split_indices(recipe, source, split)
        self._number = {source.samples[i].id: i for i in self._indices}
        if not self._indices:
            raise DataError(f"{run}: the split {split!r} has no samples, so nothing to audit")
        self._trust = self._trust_in_rows() if split == "train" else 0.0
        self.origin = _UNSEEN if split != "train" else _ROWS if self._trust else _SEEN

    def __iter__(self) -> Iterator[AuditSample]:
        for number, index in enumerate(self._indices):
            example = self._parts.source.load(index)
            name = self._parts.source.samples[index].id
            recipe = self._parts.recipe
            yield AuditSample(
                name,
                choose_reader(example.mask, recipe.data.readers, seed=recipe.seed, sample_id=name),
                self._belief(number, example.image),
                image=example.image,
                spacing=example.spacing,
            )

    def _belief(self, number: int, image: np.ndarray) -> np.ndarray:
        """(p + t q) / (1 + t): predictions p, label rows q, and how far the rows have come, t."""
        predicted = self._probabilities(number, image)
        if not self._trust:
            return predicted
        return (predicted + self._trust * self._rows(number)) / (1 + self._trust)

    def _rows(self, number: int) -> np.ndarray:
        mask = self._parts.train.ingest.load(number)[1]
        return self._parts.model.corrected_labels(number, mask)

    def _trust_in_rows(self) -> float:
        """Mean of 1 - q[y] over the pixels whose predicted class is not the given one, y.

        Rows start at the given masks and follow the predictions: those that have hardly moved
        would only confirm what was given.
        """
        if self._parts.model.label_store is None:
            return 0.0
        moved = count = 0.0
        for number, index in enumerate(self._indices):
            given = given_mask(self._parts, number)
            predicted = self._probabilities(number, self._parts.source.load(index).image)
            against = (predicted.argmax(axis=-1) != given) & (given >= 0)
            moved += float((1 - self_confidence(self._rows(number), given)[against]).sum())
            count += float(against.sum())
        return moved / max(count, 1.0)

    def _probabilities(self, number: int, image: np.ndarray) -> np.ndarray:
        """Predicted once, and then read from the disk: the data are gone through several times."""
        file = Path(self._scratch.name) / f"{number:08d}.npy"
        if not file.exists():
            patch = self._parts.recipe.evaluation.patch
            np.save(file, predict_probabilities(self._parts.model.served, image, patch=patch))
        return np.load(file)

    def save_mask(self, sample: AuditSample, mask: np.ndarray, path_stem: Path) -> Path:
        """Write a mask in the format and geometry of the source."""
        return self._parts.source.save_mask(self._number[sample.id], mask, path_stem)


def _restored(run: Path, recipe: Recipe, scratch: Path) -> Parts:
    """The parts of a run as they were when its training ended; the run itself is not touched."""
    # Samples are read when they are needed: an audit must not need memory for all of them.
    light = recipe.model_copy(
        update={"pipeline": recipe.pipeline.model_copy(update={"cache": "none"})}
    )
    parts = build_parts(light, scratch)
    trained = keras.saving.load_model(run / "network.keras", compile=False)
    parts.model.served.set_weights(trained.get_weights())
    if parts.model.label_store is not None:
        identity = {**parts.identity, "recipe": recipe.recipe_hash}
        saver = ExactResume(run, parts.train, identity=identity, stop=StopSignals())
        saver.history = History(scratch / "history.csv")
        saver.set_model(parts.model)
        saver.on_train_begin()
    return parts
