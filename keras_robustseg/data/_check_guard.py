"""The checks on one loaded sample, shared by `check` and by the ingest of every training."""

from __future__ import annotations

import numpy as np

from keras_robustseg.data._problem import BadFile, Problem
from keras_robustseg.data._source import VOID, Example, Sample, Source
from keras_robustseg.errors import DataError

__all__ = ["examine", "examine_image", "guard", "problem_of", "raise_first"]


def guard(example: Example, sample: Sample, source: Source) -> None:
    """Refuses a loaded sample that would break or silently spoil a training.

    A label out of range turns the weights into NaN under XLA, and a NaN pixel does everywhere,
    so every sample passes here once before it is trained on.

    Args:
        example: The loaded sample.
        sample: Its entry in the source.
        source: The source, for the number of classes, channels and axes.

    Raises:
        DataError: Names the file, the value, the count, the first position and what was expected.
    """
    raise_first(examine(example, sample, source))


def raise_first(problems: list[Problem]) -> None:
    """Raises the first problem that is not a warning."""
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        raise BadFile(errors[0], len(errors) - 1)


def problem_of(error: DataError, file: str) -> Problem:
    """The problem inside an error, or one made of its text."""
    if isinstance(error, BadFile):
        return error.problem
    return Problem(file, "unreadable", str(error))


def examine(example: Example, sample: Sample, source: Source) -> list[Problem]:
    """Lists all that is wrong with a loaded sample; an empty list is a sound one."""
    problems = examine_image(example.image, sample.image, source)
    size = example.image.shape[:-1]
    mask_file = sample.mask or sample.image
    problems += _examine_labels(example.mask, example.mask.shape[:-1], size, mask_file, source)
    if example.truth is not None:
        problems += _examine_labels(example.truth, example.truth.shape, size, mask_file, source)
    return problems + _examine_spacing(example, sample, source)


def examine_image(image: np.ndarray, file: str, source: Source) -> list[Problem]:
    """Lists what is wrong with an image `(*S, channels)`: axes, channels, NaN and infinity."""
    problems = []
    if image.ndim != source.dims + 1:
        expected = f"{source.dims} axes and channels"
        message = "wrong number of axes"
        return [Problem(file, "wrong_size", message, str(image.shape), expected=expected)]
    if image.shape[-1] != source.channels:
        value, expected = f"{image.shape[-1]} channels", f"{source.channels}"
        message = "has another number of channels than the data set"
        problems.append(Problem(file, "mixed_channels", message, value, expected=expected))
    # The sum is one pass without a temporary array; only a bad image pays for the details.
    with np.errstate(invalid="ignore", over="ignore"):
        total = image.sum(dtype=np.float64)
    if not np.isfinite(total):
        problems += _not_finite(image, file)
    return problems


def _not_finite(image: np.ndarray, file: str) -> list[Problem]:
    wrong = ~np.isfinite(image)
    if not wrong.any():
        return []
    nan = int(np.isnan(image).sum())
    count = int(wrong.sum())
    names = [f"NaN ({nan})"] * (nan > 0) + [f"infinity ({count - nan})"] * (count > nan)
    position = _first(wrong)
    message = "has pixels that are no numbers"
    value = " and ".join(names)
    return [Problem(file, "not_finite", message, value, count, position, "finite numbers")]


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


def _examine_labels(
    labels: np.ndarray, found: tuple[int, ...], size: tuple[int, ...], file: str, source: Source
) -> list[Problem]:
    if found != size:
        message = "has another size than its image"
        return [Problem(file, "wrong_size", message, str(found), expected=f"{size}, the image's")]
    if labels.dtype.kind not in "iu":
        message = "is not made of integers"
        return [Problem(file, "float_mask", message, str(labels.dtype), expected="integers")]
    top = len(source.classes) - 1
    if labels.size == 0 or (labels.min() >= VOID and labels.max() <= top):
        return []
    wrong = (labels < VOID) | (labels > top)
    values = ", ".join(str(v) for v in np.unique(labels[wrong])[:5])
    message = "has values that are no class"
    expected = f"0 to {top}, or -1 for void"
    count = int(wrong.sum())
    return [Problem(file, "label_out_of_range", message, values, count, _first(wrong), expected)]


def _examine_spacing(example: Example, sample: Sample, source: Source) -> list[Problem]:
    spacing = example.spacing
    if len(spacing) == source.dims and all(np.isfinite(s) and s > 0 for s in spacing):
        return []
    message = "has a pixel size that cannot be"
    expected = f"{source.dims} positive numbers"
    return [Problem(sample.image, "spacing", message, str(spacing), expected=expected)]
