"""A source with noise: what it changes, what it keeps, and its manifest."""

import json

import numpy as np
import pytest

from keras_robustseg.data._noisy import NoisySource
from keras_robustseg.data._source import Example, Sample, Source
from keras_robustseg.errors import DataError


class Discs(Source):
    """Twelve discs; even ones train, then val and test; with `readers` masks each."""

    name, classes, dims, rendered = "discs", ("background", "disc"), 2, True

    def __init__(self, readers=1):
        splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
        self.samples = tuple(
            Sample(f"disc {k}", split, f"disc {k}", f"disc {k}") for k, split in enumerate(splits)
        )
        self.readers = readers
        self.saved = []

    def load(self, index):
        distance = np.hypot(*(np.indices((33, 35)) - 16))
        mask = (distance < 5 + index / 2).astype(np.int16)
        mask[0] = -1
        masks = np.repeat(mask[..., None], self.readers, axis=-1)
        if self.readers > 1:
            masks[..., -1] = -1
        image = mask[..., None].astype(np.float32)
        return Example(image, masks, None, (0.5, 0.5))

    def save_mask(self, index, mask, path_stem):
        self.saved.append((index, path_stem))
        return path_stem


ITEMS = [
    {"kind": "dilate", "radius": [1, 3], "probability": 0.5},
    {"kind": "erode", "probability": 0.3},
]


def test_noise_is_put_on_the_train_split_and_the_given_mask_becomes_the_truth():
    clean, noisy = Discs(), NoisySource(Discs(), ITEMS, 3)
    changed = 0
    for index, sample in enumerate(clean.samples):
        before, after = clean.load(index), noisy.load(index)
        np.testing.assert_array_equal(after.image, before.image)
        np.testing.assert_array_equal(after.mask == -1, before.mask == -1)
        differs = (after.mask != before.mask).any()
        changed += differs
        if sample.split == "train":
            np.testing.assert_array_equal(after.truth, before.mask[..., 0])
            assert after.mask.dtype == np.int16
        else:
            assert not differs
            assert after.truth is None
    assert 3 <= changed <= 8
    assert noisy.split("train") == clean.split("train")


def test_noise_does_not_depend_on_the_order_of_loading():
    first, second = NoisySource(Discs(), ITEMS, 3), NoisySource(Discs(), ITEMS, 3)
    forward = [first.load(k).mask for k in range(8)]
    backward = [second.load(k).mask for k in reversed(range(8))][::-1]
    np.testing.assert_array_equal(forward, backward)
    other = [NoisySource(Discs(), ITEMS, 4).load(k).mask for k in range(8)]
    assert (np.array(forward) != np.array(other)).any()


def test_each_reader_has_noise_of_its_own_and_a_missing_reader_stays_missing():
    noisy = NoisySource(Discs(readers=3), [{"kind": "reader"}], 0)
    masks = [noisy.load(k).mask for k in range(8)]
    assert all((m[..., 2] == -1).all() for m in masks)
    assert any((m[..., 0] != m[..., 1]).any() for m in masks)
    assert noisy.load(0).truth is None
    assert {row["reader"] for row in noisy.manifest()} == {0, 1}


def test_manifest_measures_what_was_done():
    noisy = NoisySource(Discs(), ITEMS, 3, splits=("train", "val"))
    rows = noisy.manifest()
    assert [row["id"] for row in rows] == [f"disc {k}" for k in range(10)]
    assert {row["kind"] for row in rows} == {"dilate", "erode", "none"}
    json.dumps(rows)
    for index, row in enumerate(rows):
        clean, given = Discs().load(index).mask[..., 0], noisy.load(index).mask[..., 0]
        known, true, new = clean >= 0, clean == 1, given == 1
        assert row["dice"] == pytest.approx(2 * (true & new).sum() / (true.sum() + new.sum()))
        assert row["iou"] == pytest.approx((true & new).sum() / (true | new).sum())
        assert row["lost"] == [pytest.approx((true & ~new).sum() / true.sum())]
        assert row["gained"] == [pytest.approx((new & ~true).sum() / (known & ~true).sum())]
        if row["kind"] == "dilate":
            # The outline moves out by the radius, to the nearest pixel, of 0.5 mm each.
            assert row["hd95"] == pytest.approx(0.5 * row["level"]["radius"], abs=0.5)
        if row["kind"] == "none":
            assert (row["dice"], row["hd95"], row["level"]) == (1.0, 0.0, {})


def test_target_dice_is_solved_on_the_noisy_splits():
    noisy = NoisySource(Discs(), [{"kind": "shift", "target_dice": 0.6}], 1)
    assert np.mean([row["dice"] for row in noisy.manifest()]) == pytest.approx(0.6, abs=0.01)


def test_masks_are_saved_by_the_wrapped_source_and_unknown_splits_are_refused(tmp_path):
    source = Discs()
    assert (
        NoisySource(source, []).save_mask(4, np.zeros((3, 3), int), tmp_path / "a")
        == tmp_path / "a"
    )
    assert source.saved == [(4, tmp_path / "a")]
    with pytest.raises(DataError, match="unknown split 'training'"):
        NoisySource(source, [], splits=("training",))
