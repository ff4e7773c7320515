"""What a fit is given, as blocks of pixels: from arrays, or from blocks that never meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_robustseg.classifiers._design import Block, Pixels, in_memory
from keras_robustseg.classifiers._reading import (
    Labels,
    check_classes,
    check_finite,
    read_features,
    read_labels,
)


class TrainingSet(NamedTuple):
    """Pixels that count, and what is needed to say what each hyper-parameter did.

    Args:
        pixels: in blocks, class weights included.
        classes: (C,) ids.
        class_weight: (C,).
        x: (n, F) those that count, or None for blocks.
        labels: of all pixels, or None for blocks.
    """

    pixels: Pixels
    classes: np.ndarray
    class_weight: np.ndarray
    x: Any = None
    labels: Labels | None = None


def from_arrays(
    X: Any, y: Any, sample_weight: Any, class_weight: Any, intercept: bool
) -> TrainingSet:
    """Return the training set of arrays.

    Args:
        X: (N, F) or (B, *S, F).
        y: ids or soft labels.
        sample_weight: as the ids, or None.
        class_weight: None, "balanced", mapping or (C,).
        intercept: whether the model has one.

    Raises:
        ValueError: on what cannot be fitted.
    """
    x, shape = read_features(X)
    labels = read_labels(y, shape, sample_weight, None)
    x = x if labels.counted.all() else x[labels.counted]
    masses = labels.masses if labels.counted.all() else labels.masses[labels.counted]
    totals = masses.sum(axis=0)
    check_classes(labels.classes, totals)
    check_finite(x)
    factors = read_class_weight(class_weight, labels.classes, totals)
    pixels = in_memory(x, masses if (factors == 1.0).all() else masses * factors, intercept)
    return TrainingSet(pixels, labels.classes, factors, x, labels)


def from_blocks(
    blocks: Any, classes: Sequence[int] | None, class_weight: Any, intercept: bool
) -> TrainingSet:
    """Return the training set of blocks (X, y) or (X, y, sample_weight), read once for each pass.

    Args:
        blocks: a list, a `tf.data.Dataset` or any other object that can be iterated many times, or
            a function that returns a fresh iterator.
        classes: ids of the classes, or None to look for them in one more pass.
        class_weight: None, "balanced", mapping or (C,).
        intercept: whether the model has one.

    Raises:
        ValueError: blocks can be read only once, or cannot be fitted.
    """
    opened = _reopened(blocks)
    ids = _classes_of(opened) if classes is None else np.unique(np.asarray(classes))
    count, masses, features = _totals(opened, ids)
    check_classes(ids, masses)
    factors = read_class_weight(class_weight, ids, masses)

    def pieces() -> Iterator[Block]:
        for block in opened():
            x, labels = _read(block, ids, features)
            kept = labels.counted
            yield from in_memory(x[kept], labels.masses[kept] * factors, intercept).blocks()

    pixels = Pixels(pieces, count, masses * factors, features + intercept, intercept)
    return TrainingSet(pixels, ids, factors)


def read_class_weight(given: Any, classes: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return the weights (C,) of the classes.

    Args:
        given: None for 1; "balanced" for the total mass over C times that of the class, as
            scikit-learn has it; a mapping from ids, 1 where one is missing; or (C,).
        classes: (C,) ids.
        masses: (C,) mass of each class.

    Raises:
        ValueError: none of these, an unknown class, or not positive.

    Example:
        `read_class_weight({1: 2.0}, np.array([0, 1]), np.ones(2))  # 1, 2`
    """
    if given is None:
        return np.ones(len(classes))
    if isinstance(given, str) and given == "balanced":
        return masses.sum() / (len(classes) * masses)
    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in classes]
        if unknown:
            raise ValueError(
                f"class_weight names class {unknown[0]!r}. Expected some of {classes.tolist()}."
            )
        given = [given.get(int(key), 1.0) for key in classes]
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        weights = np.full(0, np.nan)
    if weights.shape != classes.shape or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            'Expected class_weight to be None, "balanced", a mapping from class ids or an array of '
            f"{len(classes)} positive numbers. Received: {given!r}"
        )
    return weights


def _reopened(blocks: Any) -> Callable[[], Iterable[Any]]:
    if callable(blocks):
        return blocks
    if isinstance(blocks, Iterator):
        raise ValueError(
            "Blocks are read once for each pass, but an iterator can be read only once. Give a "
            "list, a tf.data.Dataset, or a function that returns a fresh iterator."
        )
    return lambda: blocks


def _read(block: Any, classes: Any, features: int | None) -> tuple[Any, Labels]:
    if len(block) not in (2, 3):
        raise ValueError(f"Expected blocks (X, y) or (X, y, weight). Received {len(block)} parts.")
    x, shape = read_features(block[0], features)
    weight = np.asarray(block[2]) if len(block) == 3 else None
    return x, read_labels(block[1], shape, weight, classes)


def _classes_of(opened: Callable[[], Iterable[Any]]) -> np.ndarray:
    found = [_read(block, None, None)[1].classes for block in opened()]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, int)


def _totals(
    opened: Callable[[], Iterable[Any]], classes: np.ndarray
) -> tuple[int, np.ndarray, int]:
    """Number of pixels that count, mass of each class, number of features."""
    count, masses = 0, np.zeros(len(classes))
    features: int | None = None
    for block in opened():
        x, labels = _read(block, classes, features)
        check_finite(x if labels.counted.all() else x[labels.counted])
        count, features = count + int(labels.counted.sum()), x.shape[1]
        masses += labels.masses.sum(axis=0)
    return count, masses, features or 0
