"""Where learned label distributions live: one row of logits per pixel of every training image."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

BYTES = 4


def label_store_bytes(shapes: Sequence[Sequence[int]], num_classes: int) -> int:
    """Return the size in bytes of a float32 store: 4 (C-1) sum of pixels.

    Args:
        shapes: spatial shape of every training image, in original pixels.
        num_classes: C.

    Example:
        `label_store_bytes([(64, 64)] * 1000, 2)  # 16_384_000`
    """
    return BYTES * (num_classes - 1) * sum(math.prod(shape) for shape in shapes)


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
            sample ids. Images may differ in size.
        num_classes: C >= 2.
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
        self, shapes: Sequence[Sequence[int]], num_classes: int, *, name: str = "label_store"
    ) -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.shapes = [tuple(int(n) for n in shape) for shape in shapes]
        self.num_classes = int(num_classes)
        self._check()
        pixels = [math.prod(shape) for shape in self.shapes]
        self.offsets = np.concatenate([[0], np.cumsum(pixels)]).astype("int64")
        self.uniform = len(set(self.shapes)) == 1
        self.delta = self.add_weight(
            name="delta",
            shape=(int(self.offsets[-1]), self.num_classes - 1),
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.built = True

    def _check(self) -> None:
        if not self.shapes or any(min(shape, default=0) < 1 for shape in self.shapes):
            raise ValueError(
                "`shapes` must list the spatial shape of every training image. Expected a "
                f"non-empty list such as [(64, 64), ...]. Received: {self.shapes[:3]}"
            )
        if self.num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: {self.num_classes}")
        if sum(math.prod(shape) for shape in self.shapes) >= 2**31:
            raise ValueError("A store on the device holds at most 2**31 - 1 pixels.")
        need = label_store_bytes(self.shapes, self.num_classes)
        have = _available_memory()
        if need > 0.8 * have:
            raise ValueError(
                f"The label store needs {need / 2**30:.1f} GiB and {have / 2**30:.1f} GiB are "
                'free. Train on fewer or smaller images, or use store="none", which keeps no rows.'
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
        shape = self.shapes[0]
        start = ops.cast(sample_id, "int32") * math.prod(shape)
        rows = ops.arange(math.prod(shape), dtype="int32")
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
        rows = _gather(self.delta, ops.maximum(index, 0))
        return ops.sum(rows * weight[..., None], axis=-2)

    def add(self, index: Any, update: Any, weight: Any = None) -> None:
        """Add A^T update: a change (B, *S, C-1) in the frame of the batch, carried back.

        The transpose of `read`, so a change reaches exactly the pixels it was computed from.
        """
        inside = ops.cast(index >= 0, "float32")
        weight = inside if weight is None else inside * weight
        rows = update[..., None, :] * weight[..., None]
        index = ops.reshape(ops.maximum(index, 0), (-1, 1))
        _scatter_add(self.delta, index, ops.reshape(rows, (-1, self.num_classes - 1)))

    def sample(self, number: int) -> np.ndarray:
        """Return the offsets (*S, C-1) of one training image, in its original frame."""
        start, stop = self.offsets[number], self.offsets[number + 1]
        rows = ops.convert_to_numpy(_gather(self.delta, np.arange(start, stop, dtype="int32")))
        return rows.reshape(*self.shapes[number], self.num_classes - 1)

    def get_config(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "num_classes": self.num_classes, "name": self.name}


def _available_memory() -> int:
    """Bytes that can be had without swapping; all of the machine's where Linux does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gather(table: Any, index: Any) -> Any:
    """table[index]. TensorFlow copies a variable that was scattered into whenever it is read whole,
    so the rows are read from the variable itself."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, index, axis=0)
    import tensorflow as tf

    return tf.gather(table.value, index)


def _scatter_add(table: Any, index: Any, rows: Any) -> None:
    """table[index] += rows, in place where the backend can (a copy would cost the whole table)."""
    if keras.backend.backend() != "tensorflow":
        table.assign(ops.scatter_update(table, index, rows, reduction="add"))
        return
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    copy = table.value
    if replica is not None and replica.num_replicas_in_sync > 1:
        # Every replica holds a whole table: without this each would miss the others' rows.
        index, rows = replica.all_gather(index, axis=0), replica.all_gather(rows, axis=0)
        number = tf.get_static_value(replica.replica_id_in_sync_group)
        copy = replica.strategy.experimental_local_results(copy)[number]
    copy.scatter_nd_add(index, rows)
