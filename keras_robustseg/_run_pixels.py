"""From the recipe of a pixel classifier to its data, its fit and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_robustseg._recipe_pixels import PixelRecipe
from keras_robustseg._run_build import derived_source, split_indices
from keras_robustseg.classifiers import (
    PixelLogisticRegression,
    PixelQDA,
    PixelSVM,
    SpatialClassifier,
    pixel_features,
)
from keras_robustseg.data import Source, guard_listing, source_from_config
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.errors import DataError, RecipeError
from keras_robustseg.metrics import evaluate_masks
from keras_robustseg.report import scores

CLASSIFIERS = {"logistic_regression": PixelLogisticRegression, "svm": PixelSVM, "qda": PixelQDA}


class Images(NamedTuple):
    """Images of a split: features (*S, F), masks (*S), and places in the source."""

    x: list[np.ndarray]
    y: list[np.ndarray]
    indices: list[int]


class Training(NamedTuple):
    """Training pixels: features (n, F), labels, weights, and whose label each is, or None."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    annotator: np.ndarray | None


@dataclass(frozen=True)
class PixelParts:
    """What a recipe of a pixel classifier is made of.

    Attributes:
        recipe: the recipe.
        source: its data.
        mean: (F,) of the features of the training images.
        spread: (F,) their standard deviation.
        training: pixels to be fitted to.
    """

    recipe: PixelRecipe
    source: Source
    mean: np.ndarray
    spread: np.ndarray
    training: Training

    def images(self, split: str) -> Images:
        """Return the images of a split with their true masks, features standardized.

        Raises:
            DataError: there are none.
        """
        found = read_images(self.recipe, self.source, split)
        return found._replace(x=[(x - self.mean) / self.spread for x in found.x])

    def held(self, split: str) -> tuple[Any, Any]:
        """Return whole images for a spatial classifier, else as many pixels of each class."""
        found = self.images(split)
        if self.recipe.spatial is not None:
            return found.x, found.y
        rng = np.random.default_rng([self.recipe.seed, split == "test"])
        return _drawn(found, getattr(self.recipe.pixels, split), rng)


def build_pixels(recipe: PixelRecipe) -> PixelParts:
    """Read the data of a recipe, and draw its training pixels.

    Raises:
        DataError: a split has no images, or a class no pixels.
    """
    source = derived_source(recipe, source_from_config(recipe.data.source.model_dump()))
    guard_listing(source)
    found = read_images(recipe, source, "train")
    rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in found.x])
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-12)
    rng = np.random.default_rng(recipe.seed)
    x, y = _drawn(found, recipe.pixels.train, rng)
    x = (x - mean) / spread
    x = x + np.sqrt(recipe.features.noise) * rng.normal(size=x.shape)
    return PixelParts(recipe, source, mean, spread, _annotated(recipe, x, y, rng))


def read_images(recipe: PixelRecipe, source: Source, split: str) -> Images:
    """Return the images of a split: training masks as given, others true where that is known.

    Raises:
        DataError: there are none.
    """
    settings = recipe.features.model_dump(exclude={"noise"})
    indices = split_indices(recipe, source, split)
    if not indices:
        raise DataError(f"{source.name}: the split {split!r} has no images")
    x, y = [], []
    for index in indices:
        example, name = source.load(index), source.samples[index].id
        try:
            found = pixel_features(example.image[None].astype("float32"), **settings)
        except ValueError as error:
            raise RecipeError(f"features: {error}") from error
        mask, readers = example.truth, "majority"
        if split == "train" or mask is None:
            readers = recipe.data.readers if split == "train" else readers
            mask = choose_reader(example.mask, readers, seed=recipe.data_seed, sample_id=name)
        x.append(np.asarray(keras.ops.convert_to_numpy(found)[0], np.float64))
        y.append(np.asarray(mask, np.int64))
    return Images(x, y, indices)


def _drawn(images: Images, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of images, as many of each class, or all where there are fewer."""
    y = np.concatenate([mask.ravel() for mask in images.y])
    classes = np.unique(y[y >= 0])
    each = max(1, count // max(1, len(classes)))
    kept = [rng.permutation(np.flatnonzero(y == k))[:each] for k in classes]
    order = rng.permutation(np.concatenate(kept)) if kept else np.zeros(0, int)
    x = np.concatenate([part.reshape(-1, part.shape[-1]) for part in images.x])
    return x[order], y[order]


def _annotated(
    recipe: PixelRecipe, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> Training:
    """Labels as the recipe's annotators give them, with their weights."""
    block = recipe.annotators
    if block is None:
        return Training(x, y, np.ones(len(y)), None)
    classes = np.unique(y)
    who = rng.integers(0, block.count, len(y))
    other = classes[
        (np.searchsorted(classes, y) + rng.integers(1, len(classes), len(y))) % len(classes)
    ]
    flipped = (who < block.bad) & (rng.random(len(y)) < block.flips)
    weights = np.ones(block.count) if block.weights is None else np.asarray(block.weights)
    return Training(x, np.where(flipped, other, y), weights[who], who)


def make_classifier(recipe: PixelRecipe) -> Any:
    """Return the classifier of a recipe, not fitted."""
    fields = recipe.classifier.model_dump()
    kind = CLASSIFIERS[fields.pop("kind")]
    model: Any = kind(**{name: _plain(value) for name, value in fields.items()})
    if recipe.spatial is None:
        return model
    return SpatialClassifier(
        model,
        _plain(recipe.spatial.weight),
        epsilon=recipe.spatial.epsilon,
        tv_iterations=600,
        tv_tolerance=1e-5,
    )


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, tuple) else value


def fit_pixels(parts: PixelParts) -> Any:
    """Return the classifier fitted to the training pixels.

    Raises:
        RecipeError: its settings do not fit the data.
    """
    training = parts.training
    try:
        return make_classifier(parts.recipe).fit(training.x, training.y, training.weight)
    except ValueError as error:
        raise RecipeError(f"classifier: {error}") from error


def evaluate_pixels(parts: PixelParts, model: Any, out: Path) -> dict[str, Any]:
    """Measure a classifier on the test images, and write the masks that it gives them."""
    images = parts.images("test")
    preds = [model.predict(x[None])[0] for x in images.x]
    folder = out / "predictions"
    folder.mkdir()
    for index, mask in zip(images.indices, preds, strict=True):
        name = parts.source.samples[index].id.replace("/", "_")
        parts.source.save_mask(index, mask, folder / name)
    settings = parts.recipe.evaluation
    table = evaluate_masks(
        preds,
        images.y,
        len(parts.source.classes),
        spacing=[parts.source.load(index).spacing for index in images.indices],
        tolerance=settings.tolerance,
        surface=settings.surface,
    )
    hits = [(p == y)[y >= 0] for p, y in zip(preds, images.y, strict=True)]
    return {**scores(table.summary()), "accuracy": float(np.mean(np.concatenate(hits)))}


def save_classifier(parts: PixelParts, model: Any, path: Path) -> None:
    """Write a Keras model from features as `pixel_features` gives them to class scores."""
    scale = keras.layers.Normalization(mean=parts.mean, variance=parts.spread**2)
    size = len(parts.mean)
    space = (None,) * (parts.source.dims if parts.recipe.spatial else 0)
    keras.Sequential([keras.Input((*space, size)), scale, model.as_layer()]).save(path)
