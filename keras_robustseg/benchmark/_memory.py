"""Sources whose samples stay in memory, so that cells on the same data load them once."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from keras_robustseg._run_build import derived_source
from keras_robustseg.data import Source, source_from_config
from keras_robustseg.data._source import Example
from keras_robustseg.recipes import Recipe


class RememberedSource(Source):
    """A source that loads every sample once.

    Args:
        source: the source to wrap.

    Example:
        `RememberedSource(LidcSource()).load(0)`
    """

    kind = "remembered"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.classes, self.channels = source.name, source.classes, source.channels
        self.dims, self.rendered, self.notice = source.dims, source.rendered, source.notice
        self.samples = source.samples
        self._examples: dict[int, Example] = {}

    def load(self, index: int) -> Example:
        """Load one sample, from memory from the second time on."""
        if index not in self._examples:
            self._examples[index] = self._source.load(index)
        return self._examples[index]

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Write a mask as the wrapped source does."""
        return self._source.save_mask(index, mask, path_stem)


def remembered_source(recipe: Recipe) -> Source:
    """Return a recipe's data; what the noise is put on is shared by the recipes of a process."""
    settings = json.dumps(recipe.data.source.model_dump(mode="json"), sort_keys=True)
    return RememberedSource(derived_source(recipe, _base(settings)))


@functools.lru_cache(maxsize=4)
def _base(settings: str) -> Source:
    return RememberedSource(source_from_config(json.loads(settings)))
