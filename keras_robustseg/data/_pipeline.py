"""The input pipeline: order and augmentation are pure functions of (seed, epoch, sample id)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_robustseg.data._augment import (
    Augment,
    change_intensity,
    draw_geometry,
    take_image,
    take_mask,
)
from keras_robustseg.data._ingest import Ingest
from keras_robustseg.errors import DataError


class Pipeline:
    """Batches `(inputs, mask, weight)` of one split, for `fit` and `evaluate`.

    Epoch e visits the samples in the order `permutation(seed, e)`, and sample i is augmented by
    a draw from (seed, e, name of sample i). Nothing depends on what was read before, so a run
    can continue in the middle of an epoch and see what it would have seen.

    Args:
        ingest: the samples.
        batch_size: images a batch; cut down to the number of samples.
        seed: of order and augmentation.
        crop: size T of the training patch; `None` takes whole images, which must then have one
            size.
        augment: `None` moves nothing: crops are taken from the centre.
        shuffle: `False` keeps the order of the samples.
        drop_remainder: leave out the last, smaller batch, so that every step has one shape.
        label_rows: yield "sample_id" and, where pixels move, "pixel_index" and "pixel_weight",
            for label models that keep a row per pixel.
        autotune_threads: parallel calls of the map; `None` lets tf.data choose.

    Raises:
        DataError: images of different size without a crop.

    Example:
        ```python
        ingest = Ingest(source, source.split("train"))
        pipeline = Pipeline(ingest, batch_size=16, augment=Augment(rotate90=True))
        model.fit(pipeline.dataset(), epochs=10)
        ```
    """

    def __init__(
        self,
        ingest: Ingest,
        *,
        batch_size: int,
        seed: int = 0,
        crop: Sequence[int] | None = None,
        augment: Augment | None = None,
        shuffle: bool = True,
        drop_remainder: bool = True,
        label_rows: bool = False,
        autotune_threads: int | None = None,
    ) -> None:
        self.ingest, self.seed, self.augment = ingest, int(seed), augment
        self.batch_size = min(int(batch_size), len(ingest))
        self.shuffle, self.drop_remainder, self.label_rows = shuffle, drop_remainder, label_rows
        self.target = self._target(crop)
        self._threads = autotune_threads or tf.data.AUTOTUNE
        sizes = [int(np.prod(shape)) for shape in ingest.shapes]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._keys = np.array([ingest.key(i) for i in range(len(ingest))], "int32")
        self._readers = ingest.load(0)[1].shape[-1]
        self._next = (0, 0)

    def _target(self, crop: Sequence[int] | None) -> tuple[int, ...]:
        shapes = self.ingest.shapes
        if crop is None:
            if len(set(shapes)) > 1:
                raise DataError(
                    f"pipeline.crop: images of {self.ingest.source.name} differ in size (for "
                    f"instance {shapes[0]} and {next(s for s in shapes if s != shapes[0])}). Set "
                    f"pipeline.crop to one size, for example {list(np.min(shapes, axis=0))}."
                )
            return shapes[0]
        if len(crop) != len(shapes[0]):
            raise DataError(
                f"pipeline.crop: got {list(crop)} for images with {len(shapes[0])} spatial axes"
            )
        return tuple(int(n) for n in crop)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Spatial shape of every sample, as `RobustSegmenter(label_shapes=...)` wants it."""
        return self.ingest.shapes

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of a whole epoch."""
        whole, rest = divmod(len(self.ingest), self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Make the next pass over the data that of `epoch`, from this batch on."""
        self._next = (epoch, batch)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order in which an epoch visits the samples."""
        if not self.shuffle:
            return np.arange(len(self.ingest))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.ingest))

    def _visits(self) -> Iterator[tuple[np.ndarray, int]]:
        """The rest of an epoch, as one element: a call of Python a sample costs more than it."""
        epoch, batch = self._next
        self._next = (epoch + 1, 0)
        order = self.order(epoch)
        if self.drop_remainder:
            order = order[: self.steps_per_epoch * self.batch_size]
        yield order[batch * self.batch_size :].astype("int32"), epoch

    def dataset(self) -> tf.data.Dataset:
        """Return the batches of an epoch; each pass over it is the next epoch."""
        spec = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32))
        epochs = tf.data.Dataset.from_generator(self._visits, output_signature=spec)
        visits = epochs.flat_map(
            lambda numbers, epoch: tf.data.Dataset.from_tensor_slices(
                (numbers, tf.repeat(epoch, tf.size(numbers)))
            )
        )
        samples = visits.map(self._sample, num_parallel_calls=self._threads, deterministic=True)
        batches = samples.batch(self.batch_size, drop_remainder=self.drop_remainder)
        dataset = batches.prefetch(tf.data.AUTOTUNE)
        # A resumed epoch is shorter than the others: Keras must not take its length for theirs.
        dataset.cardinality = lambda: tf.constant(self.steps_per_epoch, tf.int64)
        return dataset

    def _load(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.ingest.load(int(number))

    def _sample(self, number: Any, epoch: Any) -> tuple[Any, Any, Any]:
        image, mask = tf.numpy_function(self._load, [number], [tf.float32, tf.int32])
        dims = len(self.target)
        several = self.ingest.readers == "all"
        image.set_shape([None] * dims + [self.ingest.source.channels])
        readers = [self._readers] if several else []
        mask.set_shape([None] * dims + readers)
        key = tf.gather(tf.constant(self._keys), number)
        seed = tf.stack([self.seed, 0])
        for part in (epoch, key):
            seed = tf.random.fold_in(seed, part, alg="philox")
        geometry = draw_geometry(tf.shape(image)[:dims], self.target, self.augment, seed)
        image, mask = take_image(image, geometry), take_mask(mask, geometry, dims)
        if self.augment is not None and self.augment.intensity is not None:
            image = change_intensity(image, self.augment.intensity, seed)
        image = tf.ensure_shape(image, [*self.target, self.ingest.source.channels])
        given = mask >= 0
        weight = tf.cast(tf.reduce_any(given, axis=-1) if several else given, tf.float32)
        return self._inputs(image, number, geometry), mask, weight

    def _inputs(self, image: Any, number: Any, geometry: Any) -> Any:
        if not self.label_rows:
            return image
        inputs = {"image": image, "sample_id": number}
        moves = self.augment is not None or any(s != self.target for s in self.ingest.shapes)
        if moves:
            offset = tf.cast(tf.gather(tf.constant(self._offsets), number), tf.int32)
            inputs["pixel_index"] = tf.where(geometry.index >= 0, geometry.index + offset, -1)
            if geometry.weight is not None:
                inputs["pixel_weight"] = geometry.weight
        return inputs
