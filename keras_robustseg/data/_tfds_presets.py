"""What some well-known TFDS data sets call their fields, and what their mask values mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """The fields of one data set, as `TfdsSource` takes them.

    Args:
        fields: "image", "mask" and perhaps "truth" and "spacing" -> name of the feature.
        classes: Class names; index 0 is the background.
        splits: "train", "val", "test" -> split of the data set, in TFDS' own notation.
        values: Mask value -> class index, -1 for void; None means that they are the same.
        void: A mask value that is void.
    """

    fields: Mapping[str, str]
    classes: tuple[str, ...]
    splits: Mapping[str, str]
    values: Mapping[int, int] | None = None
    void: int | None = None


_OWN_SPLITS = {"train": "train", "val": "val", "test": "test"}
# Where a data set has no public third split, a tenth of its training data is for validation.
_TENTH = {"train": "train[:90%]", "val": "train[90%:]"}

_VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip

# Cityscapes' own number of each of the 19 classes that its benchmark scores; it scores no
# background, so that index 0 is the road.
_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
_CITYSCAPES_NUMBERS = (*range(35), 255)

PRESETS: dict[str, Preset] = {
    "oxford_iiit_pet": Preset(
        {"image": "image", "mask": "segmentation_mask"},
        ("background", "pet"),
        {**_TENTH, "test": "test"},
        values={1: 1, 2: 0, 3: -1},  # 3 is the border, which the annotators left undecided
    ),
    "voc_segmentation": Preset(
        {"image": "image", "mask": "mask"},
        _VOC_CLASSES,
        {**_TENTH, "test": "validation"},
        void=255,
    ),
    "cityscapes": Preset(
        {"image": "image_left", "mask": "segmentation_label"},
        tuple(_CITYSCAPES),
        {**_TENTH, "test": "validation"},  # the masks of its test split are withheld
        values=dict.fromkeys(_CITYSCAPES_NUMBERS, -1)
        | {number: index for index, number in enumerate(_CITYSCAPES.values())},
    ),
    "lidc_nodules": Preset(
        {"image": "image", "mask": "mask", "truth": "truth", "spacing": "spacing"},
        ("background", "nodule"),
        _OWN_SPLITS,
    ),
    "icbm152_tissue": Preset(
        {"image": "image", "mask": "mask", "spacing": "spacing"},
        ("background", "csf/rest", "grey", "white"),
        _OWN_SPLITS,
    ),
}
