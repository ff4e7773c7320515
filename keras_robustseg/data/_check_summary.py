"""What only the whole data set can show: absent classes, empty splits, mixed spacing, groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_robustseg.data._problem import Problem
from keras_robustseg.data._source import SPLITS, VOID, Source

__all__ = ["Survey", "count", "crossing_groups", "survey", "whole_set_problems"]


@dataclass(frozen=True, eq=False)
class Survey:
    """What one loaded sample was like.

    Args:
        problems: What is wrong with it.
        pixels: int64 `(1 + classes,)`, void pixels first, then those of each class, all readers
            together; `None` where it could not be loaded.
        size: Spatial shape.
        channels: Number of channels.
        spacing: Size of a pixel in mm.
    """

    problems: tuple[Problem, ...]
    pixels: np.ndarray | None = None
    size: tuple[int, ...] = ()
    channels: int = 0
    spacing: tuple[float, ...] = ()


def survey(source: Source, index: int) -> Survey:
    """Loads one sample and keeps what the whole-set checks need, not its pixels."""
    example, problems = source.inspect(index)
    if example is None:
        return Survey(tuple(problems))
    classes = len(source.classes)
    known = (example.mask >= VOID) & (example.mask < classes)  # the rest is reported already
    labels = np.where(known, example.mask, VOID).astype(np.intp) - VOID
    pixels = np.bincount(labels.ravel(), minlength=classes + 1)
    size, channels = example.image.shape[:-1], example.image.shape[-1]
    return Survey(tuple(problems), pixels, size, channels, example.spacing)


def count(source: Source, surveys: Sequence[Survey]) -> dict[str, Any]:
    """Samples per split, pixels per class, sizes, channels and spacings, for the report."""
    loaded = [s for s in surveys if s.pixels is not None]
    splits = Counter(sample.split for sample in source.samples)
    return {
        "samples": {split: splits[split] for split in SPLITS},
        "loaded": len(loaded),
        "pixels": {
            split: dict(
                zip(("void", *source.classes), _pixels(source, surveys, split), strict=True)
            )
            for split in SPLITS
        },
        "sizes": _tally("x".join(map(str, s.size)) for s in loaded),
        "channels": _tally(str(s.channels) for s in loaded),
        "spacing": _tally("x".join(f"{mm:g}" for mm in s.spacing) for s in loaded),
        "empty_masks": sum(_is_empty(s) for s in loaded),
    }


def _tally(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common(50))


def _pixels(source: Source, surveys: Sequence[Survey], split: str) -> list[int]:
    total = np.zeros(len(source.classes) + 1, np.int64)
    for sample, found in zip(source.samples, surveys, strict=True):
        if sample.split == split and found.pixels is not None:
            total += found.pixels
    return total.tolist()


def _is_empty(found: Survey) -> bool:
    pixels = found.pixels
    return pixels is not None and bool(pixels[1] > 0) and not pixels[2:].any()


def _is_void(found: Survey) -> bool:
    return found.pixels is not None and not found.pixels[1:].any()


def whole_set_problems(source: Source, surveys: Sequence[Survey]) -> list[Problem]:
    """Problems that no single sample shows."""
    return [
        *crossing_groups(source),
        *_absent(source, surveys),
        *_masks_without(source, surveys),
        *_mixed_spacing(source, surveys),
    ]


def crossing_groups(source: Source) -> list[Problem]:
    """A problem for every patient or volume that is in more than one split."""
    splits: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sample in source.samples:
        if sample.group is not None:
            splits[sample.group][sample.split] += 1
    message = "is in more than one split, so that the test is no test"
    return [
        Problem(
            group,
            "group_crosses_splits",
            message,
            ", ".join(f"{number} {name}" for name, number in found.items()),
            sum(found.values()),
            expected="one split per group",
        )
        for group, found in sorted(splits.items())
        if len(found) > 1
    ]


def _absent(source: Source, surveys: Sequence[Survey]) -> list[Problem]:
    """Without a class in `train` it cannot be learnt; elsewhere it only cannot be measured."""
    problems = []
    for split in SPLITS:
        warning = split != "train"
        if not source.split(split):
            message = "there is no sample in this split"
            problems.append(
                Problem(split, "empty_split", message, "0", 0, None, "at least one", warning)
            )
            continue
        for name, pixels in zip(source.classes, _pixels(source, surveys, split)[1:], strict=True):
            if pixels == 0:
                message = f"no mask of split {split} has class {name!r}"
                found, expected = f"class {name}", "at least one pixel"
                problems.append(
                    Problem(split, "class_absent", message, found, 0, None, expected, warning)
                )
    return problems


def _masks_without(source: Source, surveys: Sequence[Survey]) -> list[Problem]:
    problems = []
    for sample, found in zip(source.samples, surveys, strict=True):
        file = sample.mask or sample.image
        # A mask that was refused is held as void: that is not a second problem.
        if found.pixels is None or any(not problem.warning for problem in found.problems):
            continue
        if _is_void(found):
            total, expected = int(found.pixels.sum()), "some pixels with a class"
            message = "has nothing to learn from"
            problems.append(
                Problem(file, "void_mask", message, "void", total, None, expected, True)
            )
        elif _is_empty(found):
            total, expected = int(found.pixels[1]), "some pixels of another class"
            message = "is background only"
            name = source.classes[0]
            problems.append(Problem(file, "empty_mask", message, name, total, None, expected, True))
    return problems


def _mixed_spacing(source: Source, surveys: Sequence[Survey]) -> list[Problem]:
    """One warning per spacing that differs from the most frequent one."""
    files: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for sample, found in zip(source.samples, surveys, strict=True):
        if found.pixels is not None:
            files[tuple(float(f"{mm:.3g}") for mm in found.spacing)].append(sample.image)
    if len(files) < 2:
        return []
    usual = max(files, key=lambda spacing: len(files[spacing]))
    message = "has another pixel size than most"
    return [
        Problem(
            names[0], "mixed_spacing", message, str(spacing), len(names), None, str(usual), True
        )
        for spacing, names in files.items()
        if spacing != usual
    ]
