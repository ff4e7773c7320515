"""What every data set looks like to the rest of the package: `Sample`, `Example`, `Source`.

A source is a list of samples, cheap to hold (no pixels), and a way to load one. A loaded sample
has one image, the masks of one or several readers, and the true mask only where it is known.
Void (a pixel nobody may be asked about) is never a class: it is -1.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from keras_robustseg.data._problem import Problem
from keras_robustseg.errors import DataError

__all__ = ["SPLITS", "VOID", "Example", "Sample", "Source"]

SPLITS: tuple[str, ...] = ("train", "val", "test")
VOID: int = -1


@dataclass(frozen=True)
class Sample:
    """One entry of a source's list.

    Args:
        id: Name of the sample, unique in its source and the same on every machine.
        split: `"train"`, `"val"` or `"test"`.
        image: Where the image is, for messages (a path, or `"lidc: nodule 12, slice 3"`).
        mask: Where the mask is, for messages; `None` where there is none.
        group: Patient or volume. All samples of a group are in one split.
    """

    id: str
    split: str
    image: str
    mask: str | None
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """One loaded sample. `*S` is `(H, W)` or `(D, H, W)`, R the number of readers.

    Args:
        image: float32 `(*S, channels)`, in the units of the file.
        mask: int16 `(*S, R)`, the masks that were given; -1 is void or not given.
        truth: int16 `(*S)`, or `None` where the source does not know it. Never trained on.
        spacing: Size of a pixel along each spatial axis in mm, 1.0 where unknown.
    """

    image: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None
    spacing: tuple[float, ...]


class Source(abc.ABC):
    """A data set: its samples, its classes, and how to load one sample.

    A subclass sets the attributes below in its constructor, whose keyword arguments are the
    fields of the recipe, and implements `load`.

    Attributes:
        kind: Name of the source in a recipe.
        name: Name of this data set, for tables and figures.
        classes: Class names; index 0 is the background.
        channels: Channels of an image.
        dims: 2 for images, 3 for volumes.
        rendered: True where the images were drawn by this package and not taken by a camera
            or scanner; every figure of such data has to say so.
        notice: Licence and origin, to be shown with the data; may be empty.
        samples: The samples, in an order that is the same on every machine.
        listing_problems: What was found wrong while the samples were listed (masks without an
            image, two samples of one name); `data.check` reports it.
    """

    kind: ClassVar[str] = ""
    name: str = ""
    classes: tuple[str, ...] = ()
    channels: int = 1
    dims: int = 2
    rendered: bool = False
    notice: str = ""
    samples: tuple[Sample, ...] = ()
    listing_problems: tuple[Problem, ...] = ()

    @abc.abstractmethod
    def load(self, index: int) -> Example:
        """Loads one sample.

        Args:
            index: Position in `samples`.

        Returns:
            The image, the masks, the truth where known, and the spacing.

        Raises:
            DataError: The file is missing, damaged, or not what the source says it is.
        """

    def inspect(self, index: int) -> tuple[Example | None, list[Problem]]:
        """Loads one sample and lists all that is wrong with it, instead of stopping at the first.

        Args:
            index: Position in `samples`.

        Returns:
            The sample, `None` where it cannot be loaded, and the problems, `[]` for a sound one.
        """
        from keras_robustseg.data._check_guard import examine, problem_of

        sample = self.samples[index]
        try:
            example = self.load(index)
        except DataError as error:
            return None, [problem_of(error, sample.image)]
        return example, examine(example, sample, self)

    def split(self, name: str) -> list[int]:
        """Positions in `samples` of one split, in the order of `samples`.

        Args:
            name: `"train"`, `"val"` or `"test"`.

        Returns:
            A list of indices, empty where the source has no such split.

        Raises:
            DataError: There is no split of this name.
        """
        if name not in SPLITS:
            raise DataError(f"split: unknown name {name!r}, expected one of {', '.join(SPLITS)}")
        return [i for i, sample in enumerate(self.samples) if sample.split == name]

    def save_mask(self, index: int, mask: np.ndarray, path_stem: str | Path) -> Path:
        """Writes a corrected mask in the format and geometry of the given one.

        The default writes a PNG for 2-D, and for 3-D a `.nii.gz` where nibabel is installed and
        a `.npy` where it is not. Void is written as 255. A file that exists is never replaced.

        Args:
            index: Position in `samples` of the sample that the mask belongs to.
            mask: Class indices `(*S)`, -1 is void.
            path_stem: Where to write, without an extension.

        Returns:
            The file that was written.

        Raises:
            DataError: The file exists already, or cannot be written.
        """
        from keras_robustseg.data._files_write import write_plain_mask

        del index  # the default format is the same for all samples
        return write_plain_mask(mask, path_stem)
