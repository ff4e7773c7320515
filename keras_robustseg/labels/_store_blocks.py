"""Label rows in a memory-mapped file whose past states survive: blocks are copied, then written.

The file is a row of slots, each of which holds one block of rows. A table in memory says in which
slot a block is now, -1 meaning that it was never written. A slot that a kept state refers to is
never written again: the first write to its block after a snapshot goes to a copy in a free slot.
So a snapshot is the table and nothing else, a process that is killed at any moment has damaged no
state, and going back to a state means to take its table.
"""

from __future__ import annotations

import mmap
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_robustseg.errors import StateError
from keras_robustseg.labels._store_codec import ITEM_BYTES, decode, empty_level, encode, weyl

BLOCK_BYTES = 1 << 14  # a copy costs one block, and a block of the table costs 18 bytes of memory
_GENERATIONS = 4  # two kept states, one that is being saved, and the present
_RESIDENT = 1 << 26  # bytes gone through until the pages are handed back to the system
_ALLOCATED = 1 << 26  # bytes of the file that are reserved at a time


class BlockFile:
    """Rows of `width` numbers, read and changed by row number; all offsets are 0 at first.

    Args:
        path: the file; made sparse, it grows with the rows that were visited.
        rows: number of rows.
        width: numbers a row.
        storage: "float32", "float16" or "uint8".

    Raises:
        StateError: the file holds rows of another training, or cannot be written.

    Example:
        >>> import tempfile
        >>> rows = BlockFile(Path(tempfile.mkdtemp()) / "rows.bin", 1000, 2, "float32")
        >>> rows.add(np.array([7, 7]), np.ones((2, 2), "float32"))
        >>> rows.read(np.array([6, 7])).tolist()
        [[0.0, 0.0], [2.0, 2.0]]
    """

    def __init__(self, path: Path, rows: int, width: int, storage: str) -> None:
        self.path, self.width, self.storage, self.visits = Path(path), width, storage, 0
        row_bytes = width * ITEM_BYTES[storage]
        self._shift = max(4, (max(1, BLOCK_BYTES // row_bytes)).bit_length() - 1)
        self._block_bytes = row_bytes << self._shift
        blocks = -(-rows // (1 << self._shift))
        self._size = blocks * _GENERATIONS * self._block_bytes
        self._table = np.full(blocks, -1, "int32")
        self._crc = np.zeros(blocks, "uint32")
        self._held = [self._table.copy(), self._table.copy()]
        self._pending = self._table.copy()
        self._owned = np.zeros(blocks, bool)  # written since the last snapshot
        self._unverified = np.zeros(blocks, bool)
        self._open()
        self._find_free()

    def _open(self) -> None:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            before = os.fstat(self._file).st_size
            if before not in (0, self._size):
                raise StateError(
                    f"{self.path}: holds label rows of another training ({before:,} bytes, "
                    f"expected {self._size:,}). Use another directory, or delete the file."
                )
            os.ftruncate(self._file, self._size)
        except OSError as error:
            raise StateError(f"{self.path}: label rows cannot be kept here: {error}") from error
        self._map = mmap.mmap(self._file, self._size)
        self._values = np.frombuffer(self._map, self.storage).reshape(-1, self.width)
        self._passed = self._reserved = 0

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the offsets (n, width) of rows (n,), float32."""
        block = rows >> self._shift
        if self._unverified.any():
            self._verify(np.unique(block))
        slot = self._table[block]
        stored = self._values[self._place(rows, np.maximum(slot, 0))].astype("float32")
        self._hand_back(stored.size)
        return np.where(slot[:, None] < 0, np.float32(0), decode(stored, self.storage))

    def add(self, rows: np.ndarray, update: np.ndarray) -> None:
        """Add `update` (n, width) to rows (n,), which may name a row several times."""
        moving = update.any(axis=1)
        rows, update = rows[moving], update[moving]
        self._own(rows >> self._shift)
        if self.storage == "float32":
            place = self._place(rows, self._table[rows >> self._shift])
            for column in range(self.width):
                np.add.at(self._values[:, column], place, update[:, column])
        else:
            self._add_rounded(rows, update)
        self.visits += 1
        self._hand_back(update.size)

    def _add_rounded(self, rows: np.ndarray, update: np.ndarray) -> None:
        rows, taps = np.unique(rows, return_inverse=True)
        total = np.zeros((len(rows), self.width), "float32")
        np.add.at(total, taps, update)
        place = self._place(rows, self._table[rows >> self._shift])
        old = self._values[place]
        dither = weyl(rows.astype("int32")[:, None], np.array([self.visits], "int32"))
        moved = decode(old.astype("float32"), self.storage) + total
        new = encode(moved, dither.astype("float32"), self.storage)
        self._values[place] = np.where(total == 0, old, new.astype(self.storage))

    def _place(self, rows: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Row of the file that a row of the store has, its block being in this slot."""
        inside = rows & ((1 << self._shift) - 1)
        return (slot.astype("int64") << self._shift) + inside

    def _own(self, block: np.ndarray) -> None:
        """Give every block a slot of its own that no state refers to."""
        for number in np.unique(block[~self._owned[block]]):
            old, new = int(self._table[number]), self._free_slot()
            if old < 0:
                self._slot(new)[:] = empty_level(self.storage)
            else:
                if self._unverified[number]:
                    self._verify(np.array([number]))
                self._slot(new)[:] = self._slot(old)
            self._table[number], self._owned[number] = new, True

    def _slot(self, slot: int) -> np.ndarray:
        return self._values[slot << self._shift : (slot + 1) << self._shift]

    def _free_slot(self) -> int:
        slot = int(self._free[self._next_free])
        self._next_free += 1
        end = (slot + 1) * self._block_bytes
        if end > self._reserved:
            # Writing to a mapped hole on a full disk would kill the process.
            size = min(max(end - self._reserved, _ALLOCATED), self._size - self._reserved)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file, self._reserved, size)
            except OSError as error:
                raise StateError(f"{self.path}: no room for label rows: {error}") from error
            self._reserved += size
        return slot

    def _find_free(self) -> None:
        used = np.zeros(len(self._table) * _GENERATIONS, bool)
        for table in (self._table, self._pending, *self._held):
            used[table[table >= 0]] = True
        self._free, self._next_free = np.flatnonzero(~used), 0

    def snapshot(self) -> dict[str, np.ndarray]:
        """Bring the rows to the disk and return what leads back to them, as arrays by name.

        The rows stay as they are until `committed` was called twice more.
        """
        for number in np.flatnonzero(self._owned):
            self._crc[number] = zlib.crc32(self._slot(int(self._table[number])))
        self._owned[:] = False
        self._map.flush()
        os.fsync(self._file)
        self._pending = self._table.copy()
        self._find_free()  # a snapshot before this one may never have been saved
        tables = np.stack([self._table, self._held[-1]])
        visits = np.array(self.visits, "int64")
        return {"table": tables, "crc": self._crc.copy(), "visits": visits}

    def committed(self) -> None:
        """Say that the last snapshot was saved, and that only the one before it is kept too."""
        self._held = [self._held[-1], self._pending]
        self._find_free()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go back to a snapshot.

        Raises:
            StateError: the snapshot is of rows of another size.
        """
        tables, crc = arrays["table"], arrays["crc"]
        if tables.shape != (2, len(self._table)) or tables.max() >= len(self._table) * _GENERATIONS:
            raise StateError(f"{self.path}: the saved state is of other label rows")
        self._table, self._crc = tables[0].astype("int32"), crc.astype("uint32")
        self._held = [tables[1].astype("int32"), self._table.copy()]
        self._pending, self.visits = self._table.copy(), int(arrays["visits"])
        self._owned[:] = False
        self._unverified = self._table >= 0
        self._find_free()

    def _verify(self, blocks: np.ndarray) -> None:
        for number in blocks[self._unverified[blocks]]:
            if zlib.crc32(self._slot(int(self._table[number]))) != self._crc[number]:
                raise StateError(
                    f"{self.path}: label rows are missing or were changed since the state was "
                    "saved. Bring the file back, or start a new run."
                )
            self._unverified[number] = False

    def _hand_back(self, numbers: int) -> None:
        """Keep the memory of this process flat: the pages stay in the cache of the system."""
        self._passed += numbers * ITEM_BYTES[self.storage]
        if self._passed > _RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._passed = 0

    def used_blocks(self) -> list[tuple[int, Any]]:
        """Numbers and stored bytes of the blocks that were ever written."""
        return [(int(n), self._slot(int(self._table[n]))) for n in np.flatnonzero(self._table >= 0)]

    def fill_block(self, number: int, file: BinaryIO) -> None:
        """Read the stored bytes of a block from a file."""
        self._own(np.array([number]))
        values = self._slot(int(self._table[number]))
        data = np.frombuffer(file.read(values.nbytes), self.storage)
        values[:] = data.reshape(values.shape)
