"""The ICBM152 source: slabs with gaps, soft tissue maps, windows, 2-D and 3-D."""

from __future__ import annotations

import numpy as np
import pytest
from wheels import installed

from keras_robustseg.data import _icbm
from keras_robustseg.data._icbm import Icbm152TissueSource
from keras_robustseg.errors import DataError


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    """Stand-ins for the three files of the wheel: (z, y, x) = (64, 205, 170), brain off centre."""
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(4)
    shape, brain = (64, 205, 170), (slice(3, 61), slice(12, 150), slice(9, 140))
    image = np.zeros(shape, dtype=np.uint8)
    image[brain] = rng.integers(1, 256, image[brain].shape)
    grey = rng.integers(0, 256, shape).astype(np.uint8)
    white = (rng.random(shape) * (255 - grey.astype(float))).astype(np.uint8)
    stored = dict(zip(("t1", "gm", "wm"), (image, grey, white), strict=True))
    for name, volume in stored.items():
        nibabel.save(
            nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), tmp_path / f"{name}.nii.gz"
        )

    def find(package, path, *, extra):
        assert (package, extra) == ("nilearn", "mri")
        return tmp_path / f"{path.split('icbm152_')[1][:2]}.nii.gz"

    monkeypatch.setattr(_icbm, "bundled_file", find)
    return image, grey, white


def test_slices_are_cut_at_the_brain(volumes):
    image = volumes[0]
    source = Icbm152TissueSource()
    assert source.samples[0].id == "icbm152-z003"
    example = source.load(0)
    np.testing.assert_array_equal(example.image[..., 0], image[3, 12:204, 9:169])
    assert example.image.dtype == np.float32
    assert example.mask.shape == (192, 160, 1)


def test_slabs_keep_their_distance(volumes):
    source = Icbm152TissueSource()
    split = {int(sample.id[-3:]): sample.split for sample in source.samples}
    for z, name in split.items():
        for other in (z - 1, z + 1):
            assert split.get(other, name) == name
    # 58 slices hold brain: two whole turns of 26, and 6 slices of training in the third.
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [26, 4, 8]


def test_mask_is_the_most_probable_tissue(volumes):
    image, grey, white = (v[3, 12:204, 9:169].astype(int) for v in volumes)
    tissue = np.argmax([255 - grey - white, grey, white], axis=0) + 1
    mask = Icbm152TissueSource().load(0).mask[..., 0]
    np.testing.assert_array_equal(mask, np.where(image > 0, tissue, 0))


def test_soft_truth_is_a_distribution(volumes):
    image, grey, white = (v[3, 12:204, 9:169] for v in volumes)
    soft = Icbm152TissueSource().soft_truth(0)
    np.testing.assert_allclose(soft.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(soft[..., 2], np.where(image > 0, grey, 0) / 255, atol=1e-6)
    np.testing.assert_allclose(soft[..., 3], np.where(image > 0, white, 0) / 255, atol=1e-6)


def test_downsampling_averages_blocks(volumes):
    whole, half = Icbm152TissueSource(), Icbm152TissueSource(downsample=2)
    example = half.load(5)
    assert example.image.shape == (96, 80, 1)
    assert example.spacing == (2.0, 2.0)
    for row, column in ((0, 0), (40, 33), (95, 79)):
        block = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        expected = whole.load(5).image[block].mean()
        assert example.image[row, column, 0] == pytest.approx(expected, rel=1e-6)
        soft = whole.soft_truth(5)[block].mean(axis=(0, 1))
        np.testing.assert_allclose(half.soft_truth(5)[row, column], soft, atol=1e-6)


def test_slabs_hold_the_slices(volumes):
    slices, slabs = Icbm152TissueSource(), Icbm152TissueSource(dims=3)
    assert slabs.dims == 3
    assert [len(slabs.split(name)) for name in ("train", "val", "test")] == [3, 2, 2]
    example = slabs.load(0)
    assert example.image.shape == (10, 192, 160, 1)
    assert example.spacing == (1.0, 1.0, 1.0)
    for z in range(10):
        np.testing.assert_array_equal(example.mask[z], slices.load(z).mask)


@pytest.mark.parametrize("size", [(64, 48), (208, 176)])
def test_windows_of_other_sizes(volumes, size):
    example = Icbm152TissueSource(size=size).load(0)
    assert example.image.shape == (*size, 1)
    whole = volumes[0][3]
    top, left = min(12, max(205 - size[0], 0)), min(9, max(170 - size[1], 0))
    part = whole[top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(example.image[: part.shape[0], : part.shape[1], 0], part)
    assert example.image.sum() == part.sum()


@pytest.mark.parametrize(("parcels", "dims"), [(1, 2), (3, 2), (4, 3)])
def test_parcels_cut_every_tissue_from_back_to_front(volumes, parcels, dims):
    whole = Icbm152TissueSource(downsample=4, dims=dims).load(1).mask[..., 0]
    source = Icbm152TissueSource(downsample=4, dims=dims, parcels=parcels)
    cut = source.load(1).mask[..., 0]
    assert len(source.classes) == len(set(source.classes)) == 1 + 3 * parcels
    tissue = np.where(cut > 0, (cut - 1) // parcels + 1, 0)
    np.testing.assert_array_equal(tissue, whole)
    rows = np.broadcast_to(np.arange(48)[:, None] * parcels // 48, cut.shape)
    np.testing.assert_array_equal(((cut - 1) % parcels)[cut > 0], rows[cut > 0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (4, 64)}, r"source\.size: got \(4, 64\)"),
        ({"dims": 4}, r"source\.dims: got 4, expected 2 or 3"),
        ({"downsample": 7}, r"source\.downsample: got 7, expected a divisor"),
        ({"parcels": 0}, r"source\.parcels: got 0"),
    ],
)
def test_wrong_fields_say_what_was_expected(fields, message):
    with pytest.raises(DataError, match=message):
        Icbm152TissueSource(**fields)


@pytest.mark.skipif(not installed("nilearn"), reason="needs the extra mri")
def test_real_volumes():
    source = Icbm152TissueSource()
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [60, 12, 20]
    example = source.load(source.split("test")[8])
    grey = example.mask[..., 0] == 2
    white = example.mask[..., 0] == 3
    # In a T1 image white matter is brighter than grey, and grey than fluid.
    means = [example.image[example.mask == tissue].mean() for tissue in (1, 2, 3)]
    assert means == sorted(means)
    # A human brain has about as much grey as white matter in a middle slice.
    assert 0.5 < white.sum() / grey.sum() < 2.0


@pytest.mark.skipif(installed("nilearn"), reason="needs an environment without the extra mri")
def test_missing_package_names_the_extra():
    with pytest.raises(DataError, match=r'pip install "keras-robustseg\[mri\]"'):
        Icbm152TissueSource()
