"""TFDS: any data set by name, and this package's own builders, all without a network."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from wheels import installed

from keras_robustseg.data._lidc import LidcSource
from keras_robustseg.errors import DataError

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from keras_robustseg.data._tfds import TfdsSource  # noqa: E402

pytestmark = pytest.mark.slow  # imports TensorFlow and TFDS


def _stand_in(masks):
    """A data set whose n-th image is filled with n, and whose masks are the given ones."""

    def as_dataset(self, *args, **kwargs):
        names = {name: name for name in self.info.features}
        image = next(n for n in names if n in ("image", "image_left"))
        mask = next(n for n in names if n in ("segmentation_mask", "segmentation_label", "mask"))

        def examples():
            for number, values in enumerate(masks):
                picture = np.full((*values.shape, 3), number, np.uint8)
                yield {image: picture, mask: values[..., np.newaxis].astype(np.uint8)}

        signature = {
            image: tf.TensorSpec((None, None, 3), tf.uint8),
            mask: tf.TensorSpec((None, None, 1), tf.uint8),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    return tfds.testing.mock_data(as_dataset_fn=as_dataset)


def _masks(values, count=3):
    rng = np.random.default_rng(2)
    return [rng.choice(values, (10 + n, 12 + 2 * n)) for n in range(count)]


CITYSCAPES = {7: 0, 8: 1, 11: 2, 33: 18, 0: -1, 4: -1, 34: -1}


@pytest.mark.parametrize(
    ("name", "meaning", "classes"),
    [
        ("oxford_iiit_pet", {1: 1, 2: 0, 3: -1}, 2),
        ("cityscapes/semantic_segmentation", CITYSCAPES, 19),
        ("voc_segmentation", {0: 0, 7: 7, 20: 20, 255: -1}, 21),
    ],
)
def test_known_data_sets_need_no_more_than_their_name(name, meaning, classes, tmp_path):
    masks = _masks(list(meaning))
    with _stand_in(masks):
        source = TfdsSource(name, data_dir=str(tmp_path), cache_dir=tmp_path / "cache")
    assert len(source.classes) == classes
    assert (source.dims, source.channels) == (2, 3)
    for split in ("train", "val", "test"):
        indices = source.split(split)
        assert len(indices) == 3
        for number in (2, 0, 1):  # any order
            example = source.load(indices[number])
            assert (example.image == number).all()
            assert example.image.dtype == np.float32
            expected = np.vectorize(meaning.get)(masks[number])
            np.testing.assert_array_equal(example.mask[..., 0], expected)
    assert len({sample.id for sample in source.samples}) == 9


def test_a_data_set_with_a_mapping_of_its_own(tmp_path):
    masks = _masks([1, 2, 3])
    with _stand_in(masks):
        source = TfdsSource(
            "oxford_iiit_pet",
            data_dir=str(tmp_path),
            cache_dir=tmp_path / "cache",
            classes=("background", "pet", "border"),
            values={1: 1, 2: 0, 3: 2},
            splits={"train": "train", "test": "test"},
        )
    assert source.split("val") == []
    expected = np.array([9, 1, 0, 2])[masks[1]]
    np.testing.assert_array_equal(source.load(1).mask[..., 0], expected)


def test_random_data_of_tfds_fails_with_a_clear_error(tmp_path):
    # TFDS' automatic stand-in draws image and mask sizes and mask values independently.
    with tfds.testing.mock_data(num_examples=2):
        source = TfdsSource("oxford_iiit_pet", data_dir=str(tmp_path), cache_dir=tmp_path / "c")
    with pytest.raises(DataError, match=r"tfds oxford_iiit_pet, train\[:90%\], example 0"):
        source.load(0)


def test_values_that_are_no_class_are_refused(tmp_path):
    with _stand_in([np.full((4, 5), 9)]):
        source = TfdsSource("oxford_iiit_pet", data_dir=str(tmp_path), cache_dir=tmp_path / "c")
    with pytest.raises(DataError, match="values that are no class"):
        source.load(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "no_such_data_set_here"}, "TFDS knows no data set"),
        ({"name": "mnist"}, "fields, classes and splits have to be given for 'mnist'"),
        ({"fields": {"image": "image", "mask": "labels"}}, "no feature 'labels', expected one of"),
        ({"fields": {"image": "image"}}, "expected image, mask"),
        ({"splits": {"training": "train"}}, "got the keys training"),
    ],
)
def test_wrong_fields_say_what_was_expected(fields, message, tmp_path):
    with pytest.raises(DataError, match=message):
        TfdsSource(**{"name": "oxford_iiit_pet", "data_dir": str(tmp_path), **fields})


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="download: true"):
        TfdsSource("oxford_iiit_pet", data_dir=str(tmp_path), cache_dir=tmp_path / "c")


def test_lidc_builder_holds_what_the_source_holds(tmp_path):
    source = TfdsSource("lidc_nodules", data_dir=str(tmp_path), cache_dir=tmp_path / "cache")
    embedded = LidcSource()
    assert source.rendered
    assert "CC BY 3.0" in source.notice
    with pytest.raises(DataError, match="has no split 'other'"):
        TfdsSource("lidc_nodules", data_dir=str(tmp_path), splits={"train": "other"})
    for split in ("train", "val", "test"):
        assert len(source.split(split)) == len(embedded.split(split))
    # TFDS shuffles examples by their key once, when it writes them: compare as sets.
    split = "val"
    ours = {embedded.load(i).image.tobytes(): embedded.load(i) for i in embedded.split(split)}
    for index in source.split(split):
        example = source.load(index)
        expected = ours.pop(example.image.tobytes())
        np.testing.assert_array_equal(example.mask, expected.mask)
        np.testing.assert_array_equal(example.truth, expected.truth)
        assert example.spacing == expected.spacing
    assert not ours


@pytest.mark.skipif(not installed("nilearn"), reason="needs the extra mri")
def test_icbm_builder(tmp_path):
    source = TfdsSource("icbm152_tissue", data_dir=str(tmp_path), cache_dir=tmp_path / "cache")
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [60, 12, 20]
    example = source.load(source.split("test")[0])
    assert example.image.shape == (192, 160, 1)
    assert set(np.unique(example.mask)) == {0, 1, 2, 3}


def test_voc_builder_reads_the_entry_numbers_of_palette_masks(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = rng.choice([0, 5, 255], (9, 7)).astype(np.uint8)
    for name in ("2007_000001", "2007_000002"):
        Image.fromarray(np.full((9, 7, 3), 100, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        mask = Image.fromarray(entries, mode="P")
        mask.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
        mask.save(root / f"SegmentationClass/{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_000002\n")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path)
    builder = tfds.builder("voc_segmentation", data_dir=str(tmp_path / "data"))
    builder.download_and_prepare(download_config=config)
    source = TfdsSource(
        "voc_segmentation",
        data_dir=str(tmp_path / "data"),
        cache_dir=tmp_path / "cache",
        splits={"train": "train", "test": "validation"},
    )
    expected = np.where(entries == 255, -1, entries.astype(int))
    np.testing.assert_array_equal(source.load(0).mask[..., 0], expected)
    assert source.load(1).image.mean() == pytest.approx(100, abs=1)


def test_a_damaged_cache_says_what_to_delete(tmp_path):
    with _stand_in(_masks([1, 2, 3])):
        source = TfdsSource("oxford_iiit_pet", data_dir=str(tmp_path), cache_dir=tmp_path / "c")
    folders = list((tmp_path / "c").iterdir())
    assert len(folders) == 3  # one a split, and no partial folder is left
    for folder in folders:
        damaged = folder / "000000.npz"
        damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match="delete the folder"):
        source.load(0)
