"""How large a store of label rows is, told before anything is allocated."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_robustseg.labels._store_codec import ITEM_BYTES

# Rows that the two kept states of a run refer to are never written over.
DISK_COPIES = 3


def label_store_bytes(
    shapes: Sequence[Sequence[int]], num_classes: int, storage: str = "float32"
) -> int:
    """Return the size of a store in bytes: C-1 numbers for every pixel.

    On a disk this is the size of the rows once; up to three times as much is used while two saved
    states of a run refer to older rows, and nothing for pixels that were never visited.

    Args:
        shapes: spatial shape of every training image, in original pixels; () for classification.
        num_classes: C.
        storage: "float32", "float16" or "uint8".

    Raises:
        ValueError: another storage.

    Example:
        `label_store_bytes([(64, 64)] * 1000, 2)  # 16_384_000`
    """
    if storage not in ITEM_BYTES:
        listed = ", ".join(f'"{name}"' for name in ITEM_BYTES)
        raise ValueError(f"`storage` must be one of {listed}. Received: {storage!r}")
    return ITEM_BYTES[storage] * (num_classes - 1) * sum(math.prod(shape) for shape in shapes)


def refuse_if_too_large(
    shapes: Sequence[Sequence[int]], num_classes: int, storage: str, directory: Path | None = None
) -> None:
    """Raise ValueError where the rows do not fit into memory, or, with a directory, on its disk."""
    need = label_store_bytes(shapes, num_classes, storage)
    if directory is None:
        have, where, other = 0.8 * available_memory(), "of memory", 'store="disk"'
    else:
        need, where = need * DISK_COPIES, f"on the disk of {directory}"
        have, other = 0.95 * shutil.disk_usage(directory).free, "another `label_directory`"
    if need <= have:
        return
    smaller = [name for name in ITEM_BYTES if ITEM_BYTES[name] < ITEM_BYTES[storage]]
    sizes = [
        f'storage="{name}" ({_gib(need * ITEM_BYTES[name] / ITEM_BYTES[storage])})'
        for name in smaller
    ]
    ways = ", ".join([*sizes, other, 'store="teacher" or store="none", which keep no rows'])
    raise ValueError(
        f"The label store needs {_gib(need)} and may use {_gib(have)} {where}. Train on fewer or "
        f"smaller images, or use {ways}."
    )


def available_memory() -> int:
    """Bytes that can be had without swapping; all of the machine's where Linux does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
