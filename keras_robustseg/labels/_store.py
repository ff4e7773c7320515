"""Where learned label distributions live: one row of logits per pixel of every training image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels._store_codec import decode, empty_level, encode, weyl
from keras_robustseg.labels._store_size import refuse_if_too_large


@keras.saving.register_keras_serializable(package="keras_robustseg")
class LabelStore(keras.layers.Layer):
    """Label-logit offsets `delta` of every pixel, as one flat table on the device.

    The label distribution of a pixel with given mask `yhat` is

        q = softmax(r0(yhat) + delta),   r0 = max(log yhat, -K)

    so an offset of zero is the given mask (Yi & Wu, CVPR 2019, start from K * yhat, which is the
    same up to a constant), pixels that were never visited stay as given, and correction is always
    relative to the original mask. Softmax does not see a common shift: offsets are kept relative
    to class 0, C-1 numbers a pixel. Offsets live in the frame of the original image.

    The table is a weight of the trainer, never of the network, and is updated in place: the cost
    of a step does not depend on the number of samples.

    Args:
        shapes: spatial shape (H, W) or (D, H, W) of every training image, in the order of the
            sample ids; () where a sample has one label. Images may differ in size.
        num_classes: C >= 2.
        storage: "float32", "float16", or "uint8": offsets in steps of 1/8, clipped to +-15.875.
            The smaller two are rounded so that on average no step is lost; a pixel that one batch
            holds twice moves once in them, except where rows are interpolated.
        name: layer name.

    Raises:
        ValueError: no shapes, fewer than two classes, more than 2**31 - 1 pixels, or the table
            does not fit into the memory of this machine.

    Example:
        ```python
        store = LabelStore([(64, 64)] * 100, num_classes=2)
        rows = store.index(np.array([3, 7]))             # (2, 64, 64, 1) pixel rows
        offsets = store.read(rows)                       # (2, 64, 64, 1)
        ```
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        num_classes: int,
        *,
        storage: str = "float32",
        name: str = "label_store",
    ) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.shapes = [tuple(int(n) for n in shape) for shape in shapes]
        self.num_classes, self.storage = int(num_classes), storage
        self._check()
        pixels = [math.prod(shape) for shape in self.shapes]
        self.offsets = np.concatenate([[0], np.cumsum(pixels, dtype="int64")])
        self.uniform = len(set(self.shapes)) == 1
        self._allocate()
        self.built = True

    def _check(self) -> None:
        if not self.shapes or any(min(shape, default=1) < 1 for shape in self.shapes):
            raise ValueError(
                "`shapes` must list the spatial shape of every training image. Expected a "
                f"non-empty list such as [(64, 64), ...]. Received: {self.shapes[:3]}"
            )
        if self.num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: {self.num_classes}")

    def _allocate(self) -> None:
        if self.offsets[-1] >= 2**31:
            raise ValueError(
                "A store on the device holds at most 2**31 - 1 pixels; "
                f'store="disk" holds more. Received: {self.offsets[-1]}'
            )
        refuse_if_too_large(self.shapes, self.num_classes, self.storage)
        rounds = self.storage != "float32"
        # Rounded rows are set, not added to, so what lies outside the image needs a row as well.
        self.delta = self.add_weight(
            name="delta",
            shape=(int(self.offsets[-1]) + rounds, self.num_classes - 1),
            initializer=keras.initializers.Constant(empty_level(self.storage)),
            dtype=self.storage,
            trainable=False,
            autocast=False,
        )
        self.visits: Any = None
        if rounds:
            self.visits = self.add_weight(
                name="visits",
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

    def index(self, sample_id: Any) -> Any:
        """Return the table rows (B, *S, 1) of whole images that all have one shape.

        Raises:
            ValueError: the images of the store differ in size; then the pipeline has to supply
                `pixel_index`.
        """
        if not self.uniform:
            raise ValueError(
                "Images in this label store differ in size, so sample ids alone do not say where "
                'a pixel lives. Expected inputs with "pixel_index" (keras_robustseg.data.Pipeline '
                "makes them)."
            )
        kind = "int32" if self.offsets[-1] < 2**31 else "int64"
        shape = self.shapes[0]
        start = ops.cast(sample_id, kind) * math.prod(shape)
        rows = ops.arange(math.prod(shape), dtype=kind)
        return ops.reshape(start[:, None] + rows, (-1, *shape, 1))

    def read(self, index: Any, weight: Any = None) -> Any:
        """Return A delta (B, *S, C-1): offsets moved into the frame of the batch.

        Args:
            index: int (B, *S, K) rows of the table that a pixel is interpolated from, -1 for
                none (outside the image).
            weight: (B, *S, K) interpolation weights; `None` means 1 (a pure relabelling of
                pixels: flips, right angles, crops).
        """
        inside = ops.cast(index >= 0, "float32")
        weight = inside if weight is None else inside * weight
        rows = self._gather(ops.maximum(index, 0))
        return ops.sum(rows * weight[..., None], axis=-2)

    def add(self, index: Any, update: Any, weight: Any = None) -> None:
        """Add A^T update: a change (B, *S, C-1) in the frame of the batch, carried back.

        The transpose of `read`, so a change reaches exactly the pixels it was computed from.
        """
        inside = ops.cast(index >= 0, "float32")
        weight = inside if weight is None else inside * weight
        rows = update[..., None, :] * weight[..., None]
        self._scatter(index, rows)

    def _gather(self, index: Any) -> Any:
        """Offsets (..., C-1) of rows."""
        return decode(ops.cast(_gather(self.delta, index), "float32"), self.storage)

    def _scatter(self, index: Any, rows: Any) -> None:
        """Add `rows` (B, *S, K, C-1) to the rows `index` (B, *S, K); -1 is outside."""
        several = index.shape[-1] != 1
        index, rows = ops.reshape(index, (-1, 1)), ops.reshape(rows, (-1, self.num_classes - 1))
        index, rows = _from_all_replicas(index, rows)
        if self.storage == "float32":
            _scatter_add(self.delta, ops.maximum(index, 0), rows)
            return
        index = ops.where(index >= 0, index, int(self.offsets[-1]))
        rows = _totals(index[:, 0], rows) if several else rows
        old = _gather(self.delta, index[:, 0])
        dither = weyl(index, ops.convert_to_tensor(self.visits), ops)
        new = encode(
            decode(ops.cast(old, "float32"), self.storage) + rows, dither, self.storage, ops
        )
        # What does not move is not rounded again.
        new = ops.where(rows == 0, old, ops.cast(new, self.storage))
        _scatter_set(self.delta, index, new)
        self.visits.assign_add(1)

    def sample(self, number: int) -> np.ndarray:
        """Return the offsets (*S, C-1) of one training image, in its original frame."""
        rows = np.arange(self.offsets[number], self.offsets[number + 1], dtype="int32")
        offsets = ops.convert_to_numpy(self._gather(rows))
        return offsets.reshape(*self.shapes[number], self.num_classes - 1)

    def read_ahead(self, index: Any) -> None:
        """Say that these rows will be read soon; rows on the device need no preparation."""

    def get_config(self) -> dict[str, Any]:
        return {
            "shapes": self.shapes,
            "num_classes": self.num_classes,
            "storage": self.storage,
            "name": self.name,
        }


def _totals(index: Any, rows: Any) -> Any:
    """For every tap the sum over all taps of its row, so that any of them may be written."""
    order = ops.argsort(index)
    sorted_index = ops.take(index, order)
    begins = ops.cast(sorted_index[1:] != sorted_index[:-1], "int32")
    segment = ops.concatenate([ops.zeros_like(begins[:1]), ops.cumsum(begins)])
    count = int(rows.shape[0]) if rows.shape[0] is not None else ops.shape(rows)[0]
    sums = ops.segment_sum(ops.take(rows, order, axis=0), segment, count)
    place = ops.argsort(order)
    return ops.take(sums, ops.take(segment, place), axis=0)


def _gather(table: Any, index: Any) -> Any:
    """table[index]. TensorFlow copies a variable that was scattered into whenever it is read whole,
    so the rows are read from the variable itself."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, index, axis=0)
    import tensorflow as tf

    return tf.gather(table.value, index)


def _replicas() -> Any:
    """The context of this TensorFlow replica, None where there is only one."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def _from_all_replicas(index: Any, rows: Any) -> tuple[Any, Any]:
    """Every replica holds a whole table: without this each would miss the others' rows."""
    context = _replicas()
    if context is None:
        return index, rows
    return context.all_gather(index, axis=0), context.all_gather(rows, axis=0)


def _copy_of(table: Any) -> Any:
    context = _replicas()
    if context is None:
        return table.value
    import tensorflow as tf

    number = tf.get_static_value(context.replica_id_in_sync_group)
    return context.strategy.experimental_local_results(table.value)[number]


def _scatter_add(table: Any, index: Any, rows: Any) -> None:
    """table[index] += rows, in place where the backend can (a copy would cost the whole table)."""
    if keras.backend.backend() != "tensorflow":
        table.assign(ops.scatter_update(table, index, rows, reduction="add"))
    else:
        _copy_of(table).scatter_nd_add(index, rows)


def _scatter_set(table: Any, index: Any, rows: Any) -> None:
    """table[index] = rows; where a row is named twice, both say the same."""
    if keras.backend.backend() != "tensorflow":
        table.assign(ops.scatter_update(table, index, rows))
    else:
        _copy_of(table).scatter_nd_update(index, rows)
