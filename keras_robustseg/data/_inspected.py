"""A source that finds all problems of a sample in one reading: loading it is the strict form."""

from __future__ import annotations

from keras_robustseg.data._check_guard import raise_first
from keras_robustseg.data._source import Example, Source
from keras_robustseg.errors import DataError


class InspectedSource(Source):
    """A source whose subclasses implement `inspect`; `load` raises the first thing it finds."""

    def load(self, index: int) -> Example:
        """Loads one sample; see `Source.load`."""
        example, problems = self.inspect(index)
        raise_first(problems)
        if example is None:
            raise DataError(f"{self.samples[index].image}: cannot be loaded")
        return example
