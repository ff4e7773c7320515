"""Any TFDS data set with masks, by its name and the names of its fields."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_robustseg.data import _tfds_builders  # noqa: F401  (registers them with TFDS)
from keras_robustseg.data._check_guard import raise_first
from keras_robustseg.data._maskcode import MaskCode
from keras_robustseg.data._raster import Raster
from keras_robustseg.data._source import SPLITS, VOID, Example, Sample, Source
from keras_robustseg.data._tfds_presets import PRESETS, Preset
from keras_robustseg.data._tfds_store import DecodedSplit, default_cache
from keras_robustseg.errors import DataError

__all__ = ["TfdsSource"]

_FIELDS = ("image", "mask", "truth", "spacing")


class TfdsSource(Source):
    """A data set of TensorFlow Datasets.

    For `oxford_iiit_pet`, `cityscapes`, `voc_segmentation`, `lidc_nodules` and `icbm152_tissue`
    the name is enough. Images may differ in size. Examples are decoded once into a cache folder.

    Args:
        name: Name for `tfds.builder`, for instance `"oxford_iiit_pet"`.
        data_dir: Where TFDS keeps its data; None is TFDS' default.
        fields: `image` and `mask`, perhaps `truth` and `spacing`, -> name of the feature.
        classes: Class names; index 0 is the background.
        splits: `train`, `val`, `test` -> a split in TFDS' notation.
        void: A further mask value of void pixels; -1 always is.
        values: Mask value -> class index (-1 for void), where they differ.
        download: Let TFDS download and prepare what is not there. The data sets that need no
            network are always prepared.
        cache_dir: Folder for the decoded examples; None is in the user's cache directory.

    Raises:
        DataError: The data set, one of its fields or splits is unknown, or the data are not
            there.

    Example:
        `TfdsSource("oxford_iiit_pet", download=True)`
    """

    kind: ClassVar[str] = "tfds"

    def __init__(
        self,
        name: str,
        *,
        data_dir: str | None = None,
        fields: Mapping[str, str] | None = None,
        classes: tuple[str, ...] | None = None,
        splits: Mapping[str, str] | None = None,
        void: int | None = None,
        values: Mapping[int | str, int] | None = None,
        download: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.name = name
        self.builder = _builder(name, data_dir, download)
        preset = _settings(name, fields, classes, splits)
        _require_features(self.builder, preset.fields)
        pairs: Mapping[Any, int] | None = values if values is not None else preset.values
        if pairs is None:
            pairs = {index: index for index in range(len(preset.classes))}
        void = preset.void if void is None else void
        self.code = MaskCode(preset.classes, void=void, values={VOID: VOID, **pairs})
        self.classes = self.code.classes
        shape = self.builder.info.features[preset.fields["image"]].shape
        self.dims = len(shape) - 1
        self.channels = int(shape[-1] or 1)
        self.rendered = bool(getattr(self.builder, "RENDERED", False))
        self.notice = _notice(self.builder.info)
        cache = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
        self._index(preset, cache)

    def _index(self, preset: Preset, cache: Path) -> None:
        """Fills `samples`; only the number of examples is asked for."""
        self._parts = [
            DecodedSplit(self.builder, split=text, features=preset.fields, cache=cache)
            for text in preset.splits.values()
        ]
        counts = [len(part) for part in self._parts]
        self._ends = list(accumulate(counts))
        self.samples = tuple(
            _sample(self.name, role, text, number)
            for (role, text), count in zip(preset.splits.items(), counts, strict=True)
            for number in range(count)
        )

    def load(self, index: int) -> Example:
        """Reads one decoded example; see `Source.load`."""
        part = bisect_right(self._ends, index)
        stored = self._parts[part].load(index - [0, *self._ends][part])
        where = self.samples[index].image
        image = stored["image"].astype(np.float32)
        mask = np.stack([self._decode(m, where) for m in self._readers(stored["mask"])], axis=-1)
        if mask.shape[:-1] != image.shape[:-1]:
            raise DataError(
                f"{where}: got a mask of {mask.shape[:-1]} and an image of {image.shape[:-1]} "
                "pixels, expected equal sizes"
            )
        truth = self._decode(stored["truth"], where) if "truth" in stored else None
        spacing = tuple(float(s) for s in stored.get("spacing", (1.0,) * self.dims))
        return Example(image, mask, truth, spacing)

    def _readers(self, mask: np.ndarray) -> list[np.ndarray]:
        """The masks `(*S)` in a feature `(*S)`, or `(*S, R)` of several readers."""
        return [mask] if mask.ndim == self.dims else list(np.moveaxis(mask, -1, 0))

    def _decode(self, stored: np.ndarray, where: str) -> np.ndarray:
        mask, problems = self.code.decode(Raster(stored, "grey"), self.dims, Path(where))
        raise_first(problems)
        return mask


def _builder(name: str, data_dir: str | None, download: bool) -> Any:
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            f"source.name: TFDS knows no data set {name!r} ({error}); expected one of "
            "`tfds.list_builders()`"
        ) from None
    if download or getattr(builder, "OFFLINE", False):
        builder.download_and_prepare()
    return builder


def _settings(
    name: str,
    fields: Mapping[str, str] | None,
    classes: tuple[str, ...] | None,
    splits: Mapping[str, str] | None,
) -> Preset:
    """What the caller said, completed by what is known of the data set of this name."""
    known = PRESETS.get(name.split("/")[0].split(":")[0])
    if known is None and (fields is None or classes is None or splits is None):
        raise DataError(
            f"source: fields, classes and splits have to be given for {name!r}; they are known "
            f"for {', '.join(PRESETS)}"
        )
    known = known or Preset({}, (), {})
    fields = known.fields if fields is None else fields
    splits = known.splits if splits is None else splits
    _require_keys("fields", fields, _FIELDS, needed=("image", "mask"))
    _require_keys("splits", splits, SPLITS, needed=("train",))
    in_order = {role: splits[role] for role in SPLITS if role in splits}
    return Preset(fields, tuple(classes or known.classes), in_order, known.values, known.void)


def _require_keys(
    field: str, given: Mapping[str, str], allowed: tuple[str, ...], *, needed: tuple[str, ...]
) -> None:
    wrong = [key for key in given if key not in allowed]
    missing = [key for key in needed if key not in given]
    if wrong or missing:
        raise DataError(
            f"source.{field}: got the keys {', '.join(given) or 'none'}, expected "
            f"{', '.join(needed)}, and at most {', '.join(allowed)}"
        )


def _require_features(builder: Any, fields: Mapping[str, str]) -> None:
    features = builder.info.features
    for role, feature in fields.items():
        if feature not in features:
            raise DataError(
                f"source.fields.{role}: {builder.info.full_name} has no feature {feature!r}, "
                f"expected one of {', '.join(features)}"
            )


def _notice(info: Any) -> str:
    terms = info.redistribution_info.license if info.redistribution_info else ""
    return f"{info.full_name}: {terms or 'see its terms of use'} {info.homepage}".strip()


def _sample(name: str, role: str, split: str, number: int) -> Sample:
    place = f"tfds {name}, {split}, example {number}"
    return Sample(f"{role}-{number:06d}", role, place, place)
