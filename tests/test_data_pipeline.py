"""Ingest, slices and the pipeline: what is read, chosen, cached, cropped and weighted."""

import numpy as np
import pytest
from toy import ToySource

from keras_robustseg.data import Augment, Ingest, Intensity, Pipeline, SliceSource
from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.errors import DataError


def batches(pipeline, epoch=0):
    pipeline.start_at(epoch)
    return list(pipeline.dataset().as_numpy_iterator())


def ingest(source=None, **options):
    source = source or ToySource(18)
    return Ingest(source, source.split("train"), **options)


def test_readers_are_chosen_by_name_and_seed_alone():
    mask = np.stack([np.full((4, 5), r, "int16") for r in (0, 1, 2)] + [np.full((4, 5), -1)], -1)
    picks = {choose_reader(mask, "random", seed=s, sample_id="a")[0, 0] for s in range(40)}
    assert picks == {0, 1, 2}  # never the reader who did not see the image
    again = [choose_reader(mask, "random", seed=3, sample_id="a")[0, 0] for _ in range(3)]
    assert len(set(again)) == 1
    assert (choose_reader(mask, "first", seed=0, sample_id="a") == 0).all()
    assert choose_reader(mask, "all", seed=0, sample_id="a").shape == (4, 5, 4)
    with pytest.raises(DataError, match="best"):
        choose_reader(mask, "best", seed=0, sample_id="a")


def test_majority_counts_the_readers_who_answered():
    votes = np.array([[[1, 1, 0], [0, -1, 1], [2, 2, 1], [-1, -1, -1], [2, 1, 0]]], "int16")
    found = choose_reader(votes, "majority", seed=0, sample_id="a")
    assert found.tolist() == [[1, 0, 2, -1, 0]]  # ties go to the lower class


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_every_cache_gives_the_same_batches(cache, tmp_path):
    options = {"batch_size": 4, "augment": Augment(rotate90=True), "seed": 5}
    expected = batches(Pipeline(ingest(), **options), epoch=2)
    found = batches(Pipeline(ingest(cache=cache, directory=tmp_path / "c"), **options), epoch=2)
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert bool(list(tmp_path.rglob("*.npy"))) == (cache == "disk")


def test_statistics_and_fingerprint():
    source = ToySource(18)
    found = ingest(source)
    images = np.stack([source.load(i).image for i in source.split("train")])
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.variance, images.var((0, 1, 2)), rtol=1e-4)
    assert found.pixels_per_class.sum() == images[..., 0].size
    assert found.fingerprint == ingest(ToySource(18)).fingerprint
    assert found.fingerprint != ingest(ToySource(18, shift=1)).fingerprint


def test_label_rows_point_at_the_pixels_they_came_from():
    pipeline = Pipeline(
        ingest(ToySource(18, vary=True)),
        batch_size=4,
        crop=(16, 12),
        augment=Augment(rotate90=True),
        label_rows=True,
    )
    table = np.concatenate([pipeline.ingest.load(i)[0].reshape(-1) for i in range(12)])
    for inputs, mask, weight in batches(pipeline):
        assert inputs["image"].shape == (4, 16, 12, 1)
        index = inputs["pixel_index"][..., 0]
        np.testing.assert_array_equal(table[index], inputs["image"][..., 0])
        assert (weight == (mask >= 0)).all()


def test_void_and_padding_weigh_nothing():
    source = ToySource(18)
    load = source.load

    def with_void(index):
        example = load(index)
        example.mask[:3] = -1
        return example

    source.load = with_void
    pipeline = Pipeline(ingest(source), batch_size=4, crop=(40, 40), shuffle=False)
    for _, mask, weight in batches(pipeline):
        assert (weight[:, 4:7] == 0).all()  # 4 rows of padding, then the void ones
        assert weight[:, 7:36, 4:36].all()
        assert weight[:, :, :4].max() == 0
        assert (mask[weight == 0] == -1).all()


def test_without_augmentation_and_shuffling_images_come_as_they_are():
    source = ToySource(18)
    pipeline = Pipeline(ingest(source), batch_size=5, shuffle=False, drop_remainder=False)
    found = np.concatenate([image for image, *_ in batches(pipeline)])
    expected = np.stack([source.load(i).image for i in source.split("train")])
    np.testing.assert_array_equal(found, expected)
    assert pipeline.steps_per_epoch == 3


def test_every_epoch_sees_each_sample_once_in_its_own_order():
    pipeline = Pipeline(ingest(), batch_size=4, label_rows=True)
    orders = []
    for epoch in range(3):
        orders.append(
            np.concatenate([inputs["sample_id"] for inputs, *_ in batches(pipeline, epoch)])
        )
        assert sorted(orders[-1]) == list(range(12))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_augmentation_depends_on_sample_and_epoch_not_on_the_batch():
    augment = Augment(rotate90=True, intensity=Intensity(noise=0.2))
    found = {}
    for batch_size in (2, 4):
        pipeline = Pipeline(ingest(), batch_size=batch_size, augment=augment, label_rows=True)
        rows = {}
        for inputs, *_ in batches(pipeline, 1):
            rows.update(zip(inputs["sample_id"].tolist(), inputs["image"], strict=True))
        found[batch_size] = rows
    for sample, image in found[2].items():
        np.testing.assert_array_equal(image, found[4][sample])


def test_images_of_different_size_need_a_crop():
    with pytest.raises(DataError, match=r"pipeline\.crop"):
        Pipeline(ingest(ToySource(18, vary=True)), batch_size=4)
    with pytest.raises(DataError, match="2 spatial axes"):
        Pipeline(ingest(), batch_size=4, crop=(8, 8, 8))


def test_no_samples_and_an_unknown_cache_are_refused():
    with pytest.raises(DataError, match="no samples"):
        Ingest(ToySource(18), [])
    with pytest.raises(DataError, match=r"pipeline\.cache"):
        ingest(cache="cloud")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_those_of_the_volume(axis):
    volumes = ToySource(6, shape=(5, 8, 7), readers=2, vary=True)
    slices = SliceSource(volumes, axis=axis)
    assert len({sample.id for sample in slices.samples}) == len(slices.samples)
    assert {s.group for s in slices.samples} == {v.id for v in volumes.samples}
    start = 0
    for volume in range(6):
        whole = volumes.load(volume)
        count = whole.image.shape[axis]
        parts = [slices.load(start + cut) for cut in range(count)]
        np.testing.assert_array_equal(np.stack([p.image for p in parts], axis), whole.image)
        np.testing.assert_array_equal(np.stack([p.mask for p in parts], axis), whole.mask)
        np.testing.assert_array_equal(np.stack([p.truth for p in parts], axis), whole.truth)
        assert slices.samples[start].split == volumes.samples[volume].split
        start += count
    assert start == len(slices.samples)


def test_only_volumes_can_be_cut():
    with pytest.raises(DataError, match=r"pipeline\.slices"):
        SliceSource(ToySource(6))
