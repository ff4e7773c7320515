"""The examples of a TFDS split on disk, decoded, so that any of them can be read at any time.

TFDS' usual file format can only be read from its beginning. A split is read once, in its fixed
order, and each example is kept as one `.npz` file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from keras_robustseg.errors import DataError

__all__ = ["DecodedSplit", "default_cache"]


def default_cache() -> Path:
    """The folder for decoded examples in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "keras_robustseg" / "tfds"


class DecodedSplit:
    """One split of a TFDS builder with random access.

    Args:
        builder: A `tfds.core.DatasetBuilder` whose data are prepared.
        split: The split in TFDS' notation, for instance `"train[:90%]"`.
        features: Our name -> name of the feature; no other feature is kept.
        cache: Folder that holds the decoded examples of all data sets.
    """

    def __init__(
        self, builder: Any, *, split: str, features: Mapping[str, str], cache: Path
    ) -> None:
        self.builder = builder
        self.split = split
        self.features = dict(features)
        key = f"{builder.data_path}|{builder.info.full_name}|{split}|{sorted(features.items())}"
        name = builder.info.full_name.replace("/", "-")
        self.folder = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def __len__(self) -> int:
        known = self.builder.info.splits
        if known:
            if self.split.split("[")[0] not in known:
                raise DataError(
                    f"source.splits: {self.builder.info.full_name} has no split {self.split!r}, "
                    f"expected one of {', '.join(known)}, or a part such as `train[:90%]`"
                )
            return int(known[self.split].num_examples)
        self._decode_once()
        return len(list(self.folder.glob("*.npz")))

    def load(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of one example, under our names.

        Raises:
            DataError: The data set is not prepared, or the decoded file is damaged.
        """
        self._decode_once()
        path = self.folder / f"{index:06d}.npz"
        try:
            with np.load(path) as stored:
                return {name: stored[name] for name in self.features}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: not a readable example ({error}); delete the folder {self.folder}, "
                "it is made again"
            ) from None

    def _decode_once(self) -> None:
        """Decodes the split into a folder of another name, renamed when it is complete."""
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.", dir=self.folder.parent))
        try:
            for number, example in enumerate(tfds.as_numpy(self._dataset())):
                arrays = {name: example[feature] for name, feature in self.features.items()}
                np.savez(partial / f"{number:06d}.npz", **arrays)
            partial.rename(self.folder)
        except OSError:
            # Another process was faster with the same examples, or the disk is the problem.
            if not self.folder.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _dataset(self) -> Any:
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        try:
            return self.builder.as_dataset(
                split=self.split, shuffle_files=False, read_config=config
            )
        except AssertionError as error:  # how TFDS says that there are no data
            raise DataError(
                f"{self.builder.info.full_name}: its data are not in {self.builder.data_path} "
                f"({error}); set `download: true`, or prepare it with TFDS"
            ) from None
