"""TFDS builders of this package. Importing the module registers them with TFDS.

`lidc_nodules` and `icbm152_tissue` build with no network. `voc_segmentation` reads the archive
that its user downloaded: TFDS' own `voc` has boxes and no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from keras_robustseg.data._icbm import ICBM_NOTICE, Icbm152TissueSource
from keras_robustseg.data._lidc import LIDC_NOTICE, READERS, WINDOW, LidcSource
from keras_robustseg.data._source import SPLITS, Source
from keras_robustseg.errors import DataError

__all__ = ["Icbm152Tissue", "LidcNodules", "VocSegmentation"]

_VERSION = "1.0.0"


# TFDS ships no type information, so that mypy takes its base class for `object`.
class _FromSource(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder whose examples are the samples of one of this package's sources."""

    VERSION = tfds.core.Version(_VERSION)
    OFFLINE: ClassVar[bool] = True
    RENDERED: ClassVar[bool] = False

    def _source(self) -> Source:
        raise NotImplementedError

    def _features(self, shape: tuple[int, int], readers: int) -> dict[str, Any]:
        tensor = tfds.features.Tensor
        packed = tfds.features.Encoding.ZLIB
        return {
            "id": tfds.features.Text(),
            "group": tfds.features.Text(),
            "image": tensor(shape=(*shape, 1), dtype=np.float32, encoding=packed),
            "mask": tensor(shape=(*shape, readers), dtype=np.int16, encoding=packed),
            "spacing": tensor(shape=(len(shape),), dtype=np.float32),
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        source = self._source()
        return {name: self._generate_examples(source, name) for name in SPLITS}

    def _generate_examples(self, source: Source, split: str) -> Iterator[tuple[str, Any]]:
        for index in source.split(split):
            sample, example = source.samples[index], source.load(index)
            features = {
                "id": sample.id,
                "group": sample.group or "",
                "image": example.image,
                "mask": example.mask,
                "spacing": np.asarray(example.spacing, dtype=np.float32),
            }
            if example.truth is not None:
                features["truth"] = example.truth
            yield sample.id, features


class LidcNodules(_FromSource):
    """The embedded LIDC nodules: masks by up to four radiologists on rendered patches."""

    RELEASE_NOTES: ClassVar[dict[str, str]] = {_VERSION: "200 nodules, at most 3 slices each."}
    RENDERED = True

    def _source(self) -> Source:
        return LidcSource()

    def _info(self) -> Any:
        features = self._features((WINDOW, WINDOW), READERS)
        features["truth"] = tfds.features.Tensor(
            shape=(WINDOW, WINDOW), dtype=np.int16, encoding=tfds.features.Encoding.ZLIB
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"LIDC nodules on rendered patches. {LIDC_NOTICE}",
            features=tfds.features.FeaturesDict(features),
            homepage="https://www.cancerimagingarchive.net/collection/lidc-idri/",
            redistribution_info={"license": LIDC_NOTICE},
        )


class Icbm152Tissue(_FromSource):
    """Axial slices of the ICBM152 head MRI with three tissues (extra `mri`)."""

    RELEASE_NOTES: ClassVar[dict[str, str]] = {_VERSION: "92 slices of 192 x 160 voxels."}

    def _source(self) -> Source:
        return Icbm152TissueSource()

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Tissue classes of the ICBM152 2009a head MRI. {ICBM_NOTICE}",
            features=tfds.features.FeaturesDict(self._features((192, 160), 1)),
            homepage="https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
            redistribution_info={"license": ICBM_NOTICE},
        )


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """The segmentation part of PASCAL VOC 2012, from the archive that its user downloaded."""

    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES: ClassVar[dict[str, str]] = {_VERSION: "train and validation."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack VOCtrainval_11-May-2012.tar (host.robots.ox.ac.uk/pascal/VOC/voc2012) so that the "
        "manual directory holds VOCdevkit/VOC2012."
    )

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="PASCAL VOC 2012 segmentation: 20 object classes, 255 is void.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                }
            ),
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            citation="Everingham et al., International Journal of Computer Vision 88 (2010) 303.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir) / "VOCdevkit" / "VOC2012"
        lists = root / "ImageSets" / "Segmentation"
        found = {"train": lists / "train.txt", "validation": lists / "val.txt"}
        for path in found.values():
            if not path.is_file():
                raise DataError(f"{path}: no such file; {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return {split: self._generate_examples(root, path) for split, path in found.items()}

    def _generate_examples(self, root: Path, names: Path) -> Iterator[tuple[str, Any]]:
        for name in names.read_text().split():
            # Opened as a palette picture: the entry numbers are the classes.
            with Image.open(root / "SegmentationClass" / f"{name}.png") as mask:
                entries = np.array(mask)[..., np.newaxis]
            image = root / "JPEGImages" / f"{name}.jpg"
            yield name, {"id": name, "image": str(image), "mask": entries}
