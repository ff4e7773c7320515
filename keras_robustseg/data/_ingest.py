"""Ingest: load every sample of a split once, check it, choose its reader, and keep it at hand."""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_robustseg.data._check_guard import guard
from keras_robustseg.data._source import Example, Source
from keras_robustseg.errors import DataError
from keras_robustseg.metrics._overlap import majority_of_readers

READERS = ("random", "first", "majority", "staple", "all")
CACHES = ("memory", "disk", "none")


def sample_key(sample_id: str) -> int:
    """Return a number in [0, 2**31) that depends on the sample's name alone."""
    return zlib.crc32(sample_id.encode()) & 0x7FFFFFFF


def choose_reader(mask: np.ndarray, readers: str, *, seed: int, sample_id: str) -> np.ndarray:
    """Return the mask that is trained on, from the masks (*S, R) of R readers.

    Args:
        mask: int (*S, R), -1 void; a reader whose mask is all void did not see the image.
        readers: "random" (one of those who saw it, fixed per sample), "first", "majority"
            (ties go to the lower class), "staple" (`labels.staple` of this sample's masks) or
            "all" (returned as they are).
        seed: of the choice.
        sample_id: name of the sample.

    Returns:
        int (*S), or (*S, R) for "all".

    Raises:
        DataError: `readers` is none of the above.
    """
    if readers == "all":
        return mask
    present = np.flatnonzero((mask >= 0).any(axis=tuple(range(mask.ndim - 1))))
    if len(present) <= 1 or readers == "first":
        return mask[..., present[0] if len(present) else 0]
    if readers == "majority":
        return majority_of_readers(mask)
    if readers == "staple":
        from keras_robustseg.labels import staple  # loads Keras, which fast commands do without

        return staple(mask).labels.astype(mask.dtype)
    if readers == "random":
        rng = np.random.default_rng([seed, sample_key(sample_id)])
        return mask[..., rng.choice(present)]
    raise DataError(f"data.readers: got {readers!r}, expected one of {', '.join(READERS)}")


class Ingest:
    """The samples of one split, each loaded and checked once, in a fixed order.

    Args:
        source: where samples come from.
        indices: positions in `source.samples`, in order; the i-th is sample i of this split.
        readers: which of several readers' masks is trained on, see `choose_reader`.
        seed: of the choice of readers.
        cache: "memory", "disk" (a file per sample, read through the page cache, for data larger
            than memory) or "none" (loaded from the source every time).
        directory: where the disk cache goes; a temporary directory by default.

    Attributes:
        shapes: spatial shape of every sample.
        mean, variance: of the pixels, per channel, over the split.
        bounds: least and greatest value of the images of the split.
        pixels_per_class: how often each class was drawn.
        fingerprint: SHA-256 of names, images and chosen masks.

    Raises:
        DataError: no samples, or a sample that cannot be trained on (the first one is named).
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        *,
        readers: str = "random",
        seed: int = 0,
        cache: str = "memory",
        directory: Path | None = None,
    ) -> None:
        if cache not in CACHES:
            raise DataError(f"pipeline.cache: got {cache!r}, expected one of {', '.join(CACHES)}")
        if not indices:
            raise DataError(f"{source.name}: this split has no samples, so nothing can be trained")
        self.source, self.indices, self.readers, self.seed = source, list(indices), readers, seed
        self._scratch = tempfile.TemporaryDirectory() if cache == "disk" and not directory else None
        self._directory = Path(self._scratch.name) if self._scratch else directory
        self._cache = cache
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.shapes: list[tuple[int, ...]] = []
        self._sums = np.zeros((3, source.channels))
        self.bounds = (np.inf, -np.inf)
        self.pixels_per_class = np.zeros(len(source.classes), "int64")
        digest = hashlib.sha256()
        for number, index in enumerate(self.indices):
            digest.update(source.samples[index].id.encode())
            for part in self._take_in(number):
                digest.update(np.ascontiguousarray(part))
        self.fingerprint = digest.hexdigest()
        self.mean = self._sums[1] / self._sums[0]
        self.variance = np.maximum(self._sums[2] / self._sums[0] - self.mean**2, 1e-12)

    def __len__(self) -> int:
        return len(self.indices)

    def _take_in(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self._read(number)
        self.shapes.append(image.shape[:-1])
        low, high = self.bounds
        self.bounds = (min(low, float(image.min())), max(high, float(image.max())))
        flat = image.reshape(-1, image.shape[-1]).astype("float64")
        self._sums += np.stack([np.full(flat.shape[1], len(flat)), flat.sum(0), (flat**2).sum(0)])
        drawn = np.bincount(mask[mask >= 0].ravel(), minlength=len(self.source.classes))
        self.pixels_per_class += drawn
        if self._cache == "memory":
            self._kept[number] = (image, mask)
        elif self._cache == "disk":
            np.save(self._file(number, "image"), image)
            np.save(self._file(number, "mask"), mask)
        return image, mask

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        index = self.indices[number]
        sample = self.source.samples[index]
        example: Example = self.source.load(index)
        guard(example, sample, self.source)
        mask = choose_reader(example.mask, self.readers, seed=self.seed, sample_id=sample.id)
        return example.image.astype("float32", copy=False), mask.astype("int32")

    def _file(self, number: int, part: str) -> Path:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / f"{number:08d}-{part}.npy"

    def load(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image float32 (*S, channels) and mask int32 (*S) or (*S, R) of a sample."""
        if self._cache == "memory":
            return self._kept[number]
        if self._cache == "disk":
            return np.load(self._file(number, "image")), np.load(self._file(number, "mask"))
        return self._read(number)

    def key(self, number: int) -> int:
        """Return the number that the sample's augmentation is drawn from."""
        return sample_key(self.source.samples[self.indices[number]].id)
