"""A source whose masks carry annotation noise, and the record of what was done to each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_robustseg.data._source import SPLITS, VOID, Example, Source
from keras_robustseg.data.noise import Mixture, Noise, describe, from_config, measure
from keras_robustseg.data.noise._seed import Seed
from keras_robustseg.errors import DataError

_TARGET_MASKS = 200


class NoisySource(Source):
    """Puts noise on the given masks of some splits; images, other splits and the truth stay.

    The noise of a mask depends on `(seed, sample id, reader)` alone, so it is the same in any
    order and in every process. With one reader and no known truth, the mask before the noise
    becomes the `truth` of the sample: it is for evaluation, and never trained on.

    Args:
        source: The source to wrap.
        noises: A list as a recipe writes it (`noise.from_config`), or a noise or mixture.
        seed: Seed of all draws.
        splits: Splits whose masks get noise.

    Raises:
        RecipeError: An item of `noises` is wrong.
        DataError: A split is unknown, or a target Dice cannot be reached. It is solved on the
            first 200 of the masks, in the order of the source.

    Example:
        `NoisySource(source, [{"kind": "reader", "probability": 0.5}], 0, splits=("train",))`
    """

    kind = "noisy"

    def __init__(
        self,
        source: Source,
        noises: Sequence[Mapping[str, Any]] | Noise | Mixture,
        seed: int = 0,
        *,
        splits: Sequence[str] = ("train",),
    ) -> None:
        unknown = [name for name in splits if name not in SPLITS]
        if unknown:
            raise DataError(f"noise: unknown split {unknown[0]!r}, expected {', '.join(SPLITS)}")
        self._source, self._seed, self._splits = source, seed, tuple(splits)
        self.name, self.classes, self.channels = source.name, source.classes, source.channels
        self.dims, self.rendered, self.notice = source.dims, source.rendered, source.notice
        self.samples = source.samples
        self._noise = (
            noises if isinstance(noises, (Noise, Mixture)) else self._from_config(list(noises))
        )

    def load(self, index: int) -> Example:
        """Loads one sample, with noise on its masks where its split has some."""
        example = self._source.load(index)
        if not self._is_noisy(index):
            return example
        truth = example.truth
        if truth is None and example.mask.shape[-1] == 1:
            truth = example.mask[..., 0]
        masks = [self._noised(index, reader, example) for reader in _readers(example)]
        return Example(example.image, np.stack(masks, axis=-1), truth, example.spacing)

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Writes a mask as the wrapped source does."""
        return self._source.save_mask(index, mask, path_stem)

    def manifest(self) -> list[dict[str, Any]]:
        """Records the noise of every mask of the noisy splits.

        Returns:
            One row per mask that was given: `id`, `split`, `reader`, `kind` (`"none"` where the
            mixture left it alone), `level` as drawn, and how the noisy mask compares with the
            one before (`noise.measure`): `dice`, `iou`, `hd95` in units of the spacing, `lost`
            and `gained` for each foreground class.

        Example:
            `json.dumps(NoisySource(source, noises).manifest())`
        """
        return [
            self._row(index, reader, example)
            for index in range(len(self.samples))
            if self._is_noisy(index)
            for example in [self._source.load(index)]
            for reader in _readers(example)
            if (example.mask[..., reader] != VOID).any()
        ]

    def _row(self, index: int, reader: int, example: Example) -> dict[str, Any]:
        sample = self.samples[index]
        kind, level = describe(self._noise, self._mask_seed(index, reader))
        difference = measure(
            self._noised(index, reader, example),
            example.mask[..., reader],
            num_classes=len(self.classes),
            spacing=example.spacing,
        )
        row = {"id": sample.id, "split": sample.split, "reader": reader, "kind": kind}
        return {**row, "level": level, **difference}

    def _noised(self, index: int, reader: int, example: Example) -> np.ndarray:
        seed = self._mask_seed(index, reader)
        return self._noise(example.mask[..., reader], seed=seed, spacing=example.spacing)

    def _mask_seed(self, index: int, reader: int) -> Seed:
        return (self._seed, self.samples[index].id, reader)

    def _is_noisy(self, index: int) -> bool:
        return self.samples[index].split in self._splits

    def _from_config(self, items: list[Mapping[str, Any]]) -> Mixture:
        masks, seeds, spacings = [], [], []
        if any(item.get("target_dice") is not None for item in items):
            for index in filter(self._is_noisy, range(len(self.samples))):
                example = self._source.load(index)
                masks.append(example.mask[..., 0])
                seeds.append(self._mask_seed(index, 0))
                spacings.append(example.spacing)
                if len(masks) == _TARGET_MASKS:
                    break
        return from_config(
            items, num_classes=len(self.classes), masks=masks, seeds=seeds, spacings=spacings
        )


def _readers(example: Example) -> range:
    return range(example.mask.shape[-1])
