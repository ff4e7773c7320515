"""Label rows on a disk: more than memory holds, read and written beside the training step."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_robustseg.labels._pencil import Pencil
from keras_robustseg.labels._store import LabelStore
from keras_robustseg.labels._store_blocks import BlockFile
from keras_robustseg.labels._store_size import refuse_if_too_large

_WAITING = 4  # steps that writing may lie behind


@keras.saving.register_keras_serializable(package="keras_robustseg")
class DiskLabelStore(LabelStore):
    """`LabelStore` in a memory-mapped file; the memory it takes is flat in the number of samples.

    A background thread carries the changes of a step to the file while the next step runs, and
    reads the rows of that step while its network runs; a read never misses a change. Changes
    since the last saved state are lost with the process, saved states never: `snapshot` brings
    the rows to the disk, and rows that one of the last two snapshots refers to are not written
    over. `ExactResume` saves and restores snapshots by itself.

    TensorFlow alone, one replica, without XLA: compiled steps cannot call back.

    Args:
        shapes: as in `LabelStore`; here with any number of pixels.
        num_classes: C >= 2.
        directory: where `label_rows.bin` lies, made if need be; a resumed run has to name the
            same one. `None` takes a temporary directory that ends with the store.
        storage: as in `LabelStore`.
        name: layer name.

    Raises:
        ValueError: another backend, or the rows do not fit on the disk.
        StateError: the directory holds rows of another training.

    Example:
        ```python
        store = DiskLabelStore([(64, 64)] * 100, 2, directory="runs/mine/labels")
        offsets = store.read(store.index(np.array([3, 7])))   # (2, 64, 64, 1)
        ```
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        num_classes: int,
        *,
        directory: str | Path | None = None,
        storage: str = "float32",
        name: str = "label_store",
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                'Label rows on a disk need the TensorFlow backend. Expected store="device", '
                f'"teacher" or "none" on {keras.backend.backend()!r}.'
            )
        self._directory = None if directory is None else Path(directory)
        super().__init__(shapes, num_classes, storage=storage, name=name)
        self.supports_jit = False

    def _allocate(self) -> None:
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="label_rows")
            self._directory = Path(self._temporary.name)
        self._directory.mkdir(parents=True, exist_ok=True)
        refuse_if_too_large(self.shapes, self.num_classes, self.storage, self._directory)
        path = self._directory / "label_rows.bin"
        self._rows = BlockFile(path, int(self.offsets[-1]), self.num_classes - 1, self.storage)
        # One thread: whatever is posted is done in that order.
        self._thread = ThreadPoolExecutor(1, "label_rows")
        self._writing: deque[Future] = deque()
        self._ahead: tuple[np.ndarray, Future] | None = None

    def _gather(self, index: Any) -> Any:
        import tensorflow as tf

        self._refuse_replicas()
        index = tf.convert_to_tensor(index)
        rows = tf.numpy_function(self._host_read, [index], tf.float32)
        return tf.ensure_shape(rows, [*index.shape, self.num_classes - 1])

    def _scatter(self, index: Any, rows: Any) -> None:
        import tensorflow as tf

        tf.numpy_function(self._host_add, [index, rows], [])

    def read_ahead(self, index: Any) -> None:
        """Start to read rows that the next `read` will ask for."""
        import tensorflow as tf

        self._refuse_replicas()
        tf.numpy_function(self._host_read_ahead, [tf.maximum(index, 0)], [])

    @staticmethod
    def _refuse_replicas() -> None:
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError('Several replicas cannot share store="disk". Expected store="device".')

    def _host_read(self, index: np.ndarray) -> np.ndarray:
        ahead, self._ahead = self._ahead, None
        if ahead is None or not np.array_equal(ahead[0], index):
            ahead = (index, self._thread.submit(self._rows.read, index.reshape(-1)))
        return ahead[1].result().reshape(*index.shape, self.num_classes - 1)

    def _host_read_ahead(self, index: np.ndarray) -> None:
        index = index.copy()  # the tensor's memory is not ours once this call has returned
        self._ahead = (index, self._thread.submit(self._rows.read, index.reshape(-1)))

    def _host_add(self, index: np.ndarray, rows: np.ndarray) -> None:
        inside = (index >= 0) & rows.any(axis=-1)
        self._ahead = None
        if inside.any():
            self._finish(_WAITING)
            self._writing.append(self._thread.submit(self._rows.add, index[inside], rows[inside]))

    def _finish(self, waiting: int = 0) -> None:
        """Let the thread come up to so many steps; an error of a write is raised here."""
        while len(self._writing) > waiting:
            self._writing.popleft().result()

    def sample(self, number: int) -> np.ndarray:
        """Return the offsets (*S, C-1) of one training image, in its original frame."""
        rows = np.arange(self.offsets[number], self.offsets[number + 1])
        return self._host_read(rows).reshape(*self.shapes[number], self.num_classes - 1)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Bring the rows to the disk and return arrays that `restore` goes back to them with."""
        self._finish()
        return self._thread.submit(self._rows.snapshot).result()

    def committed(self) -> None:
        """Say that the arrays of the last snapshot are saved."""
        self._rows.committed()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go back to a snapshot, as `BlockFile.restore`."""
        self._finish()
        self._rows.restore(arrays)

    def save_assets(self, dir_path: str) -> None:
        """Write the visited blocks into a saved model."""
        self._finish()
        blocks = self._rows.used_blocks()
        np.save(Path(dir_path) / "blocks.npy", np.array([number for number, _ in blocks], "int64"))
        with (Path(dir_path) / "rows.bin").open("wb") as file:
            for _, values in blocks:
                file.write(values.tobytes())

    def load_assets(self, dir_path: str) -> None:
        """Read the visited blocks of a saved model."""
        numbers = np.load(Path(dir_path) / "blocks.npy")
        with (Path(dir_path) / "rows.bin").open("rb") as file:
            for number in numbers:
                self._rows.fill_block(int(number), file)


def make_label_store(
    pencil: Pencil,
    shapes: Sequence[Sequence[int]],
    num_classes: int,
    directory: str | Path | None = None,
) -> LabelStore | None:
    """Return the store that a label model asks for, None where it keeps no rows.

    Args:
        pencil: the label model.
        shapes: spatial shape of every training image.
        num_classes: C.
        directory: of the rows on a disk.

    Example:
        `make_label_store(Pencil(storage="float16"), [(64, 64)] * 100, 2)`
    """
    if not pencil.keeps_rows:
        return None
    if pencil.store == "disk":
        return DiskLabelStore(shapes, num_classes, directory=directory, storage=pencil.storage)
    return LabelStore(shapes, num_classes, storage=pencil.storage)
