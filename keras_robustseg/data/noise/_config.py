"""Noise as a recipe writes it: a list of `{kind: ..., field: value, ...}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from keras_robustseg.data.noise._fields import FIELDS
from keras_robustseg.data.noise._markov import markov
from keras_robustseg.data.noise._mixture import Mixture, mixture, part_seed
from keras_robustseg.data.noise._noise import Noise
from keras_robustseg.data.noise._objects import class_flip, extra, missing
from keras_robustseg.data.noise._pixels import pixel_flip
from keras_robustseg.data.noise._polygon import polygon
from keras_robustseg.data.noise._reader import reader
from keras_robustseg.data.noise._regions import dilate, erode
from keras_robustseg.data.noise._seed import Seed
from keras_robustseg.data.noise._target import Trial, solve
from keras_robustseg.data.noise._warp import elastic, shift
from keras_robustseg.errors import DataError, RecipeError

KINDS: dict[str, Callable[..., Noise]] = {
    "reader": reader,
    "dilate": dilate,
    "erode": erode,
    "shift": shift,
    "elastic": elastic,
    "markov": markov,
    "polygon": polygon,
    "missing": missing,
    "extra": extra,
    "class_flip": class_flip,
    "pixel_flip": pixel_flip,
}
"""Every kind of noise; the keys are those of `FIELDS`."""

_COMMON = ("kind", "probability", "target_dice", "seed")


def from_config(
    items: Sequence[Mapping[str, Any]],
    *,
    num_classes: int | None = None,
    masks: Sequence[npt.ArrayLike] = (),
    seeds: Sequence[Seed] = (),
    spacings: Sequence[Sequence[float] | None] | None = None,
) -> Mixture:
    """Builds the mixture that a recipe's `noise` list describes.

    Each item has a `kind`, the fields of this kind (`FIELDS`), and

    - `probability` (default 1): the share of samples that get it; the rest stays as it is;
    - `target_dice` (default null): solve the strength so that the mean Dice over `masks`, if all
      of them got this noise, is this;
    - `seed` (default null): a number that changes the draws of this item alone.

    Args:
        items: The list; empty means no noise.
        num_classes: Number of classes with background, for the kinds that need it.
        masks: Clean masks on which target Dice are solved.
        seeds: The seed with which the mixture will be called on each of `masks`.
        spacings: Size of a pixel of each of `masks` in mm, for noise that is `physical`.

    Returns:
        The mixture, a callable `(mask, seed=...) -> mask`.

    Raises:
        RecipeError: A kind, a field or a value is wrong; the message names the item and field.
        DataError: A target Dice cannot be reached.

    Example:
        `from_config([{"kind": "dilate", "radius": [1, 4], "probability": 0.25}])`
    """
    parts = []
    for number, item in enumerate(items):
        noise = build(item, num_classes=num_classes)
        target, own_seed = item.get("target_dice"), item.get("seed")
        member: Noise | Mixture = noise
        if target is not None:
            part_seeds = [part_seed(seed, number, own_seed) for seed in seeds]
            trial = Trial.of(masks, part_seeds, spacings=spacings, num_classes=num_classes)
            member = _solved(noise, target, trial)
        parts.append((member, item.get("probability", 1.0), own_seed))
    return mixture(parts)


def build(item: Mapping[str, Any], *, num_classes: int | None = None) -> Noise:
    """Builds the noise of one item, without its probability and target.

    Raises:
        RecipeError: As `from_config`.

    Example:
        `build({"kind": "missing", "rate": 0.3})`
    """
    kind = item.get("kind")
    if kind not in KINDS:
        raise RecipeError(
            f"noise: field 'kind': expected one of {', '.join(KINDS)}, received {kind!r}"
        )
    fields = {name: value for name, value in item.items() if name not in _COMMON}
    for name in fields:
        if name not in FIELDS[kind]:
            raise RecipeError(
                f"noise {kind!r}: unknown field {name!r}, expected one of "
                f"{', '.join((*FIELDS[kind], *_COMMON))}"
            )
    if "num_classes" in FIELDS[kind] and fields.get("num_classes") is None:
        fields["num_classes"] = num_classes
    return KINDS[kind](**fields)


def _solved(noise: Noise, target: float, trial: Trial) -> Noise | Mixture:
    try:
        return solve(noise.stronger, trial, target)
    except DataError as error:
        raise DataError(f"noise {noise.kind!r}, field 'target_dice': {error}") from None
