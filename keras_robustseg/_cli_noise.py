"""What `robustseg noise` does: draw what annotation noise does to a few masks, and record it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_robustseg.data import Example, NoisySource, Source
from keras_robustseg.data.noise import KINDS, Mixture, from_config
from keras_robustseg.errors import DataError, RecipeError

_TWO_CLASSES = tuple(kind for kind in KINDS if kind != "class_flip")


def preview_noise(
    source: Source,
    items: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    kinds: Sequence[str] = (),
    samples: int = 4,
    seed: int = 0,
) -> None:
    """Draw a grid of masks under noise as a PNG.

    Args:
        source: where the masks come from; samples of its training split are shown.
        items: the noise of a recipe; without any, and without `kinds`, every kind is shown.
        out: the PNG file.
        kinds: kinds to show, with their defaults, in place of `items`.
        samples: rows of the grid.
        seed: of the noise.

    Raises:
        RecipeError: a kind is unknown.
        DataError: there is no sample to show, or one cannot be read.
    """
    from keras_robustseg.report._noise_figure import preview

    every = KINDS if len(source.classes) > 2 else _TWO_CLASSES
    chosen = [{"kind": kind} for kind in kinds] or items or [{"kind": kind} for kind in every]
    examples = _examples(source, samples)
    preview(
        examples,
        _titled(chosen, source, examples, seed),
        seed,
        out,
        rendered=source.rendered,
        classes=source.classes,
    )


def write_manifest(
    source: Source,
    items: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    seed: int,
    splits: Sequence[str],
) -> int:
    """Write one JSON line for each mask that noise was put on; return how many.

    Raises:
        RecipeError: there is no noise to record.
    """
    if not items:
        raise RecipeError("--manifest: the recipe puts no noise on its masks (data.noise is empty)")
    rows = NoisySource(source, items, seed, splits=splits).manifest()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def _examples(source: Source, samples: int) -> list[Example]:
    indices = source.split("train") or list(range(len(source.samples)))
    if not indices:
        raise DataError(f"{source.name}: there is no sample to show")
    step = max(len(indices) // samples, 1)
    return [source.load(index) for index in indices[::step][:samples]]


def _titled(
    items: Sequence[Mapping[str, Any]], source: Source, examples: Sequence[Example], seed: int
) -> dict[str, Mixture]:
    """Title -> noise on every sample; a target Dice is solved on the samples that are shown."""
    noises: dict[str, Mixture] = {}
    for item in items:
        title = str(item["kind"])
        same = sum(known.split(" ")[0] == title for known in noises)
        noises[f"{title} {same + 1}" if same else title] = from_config(
            [{**item, "probability": 1.0}],
            num_classes=len(source.classes),
            masks=[example.mask[..., 0] for example in examples],
            seeds=[(seed, number) for number in range(len(examples))],
            spacings=[example.spacing for example in examples],
        )
    return noises
