"""A source that gives the truth as its mask, and the recipes that train on it."""

from __future__ import annotations

import numpy as np
import pytest
from test_noise_source import Discs

from keras_robustseg._run_build import build_source
from keras_robustseg.data import LidcSource
from keras_robustseg.data._truth import TruthSource
from keras_robustseg.errors import DataError
from keras_robustseg.recipes import recipe_from_dict


def recipe(init, **data):
    data = {"source": {"kind": "lidc", "size": 32}, **data}
    return recipe_from_dict(
        {"name": "x", "seed": init, "data": data, "method": {"kind": "supervised"}}
    )


def test_the_only_mask_is_the_truth():
    source = LidcSource(size=32)
    wrapped = TruthSource(source)
    before, after = source.load(5), wrapped.load(5)
    np.testing.assert_array_equal(after.mask[..., 0], before.truth)
    np.testing.assert_array_equal(after.truth, before.truth)
    assert after.mask.shape == (32, 32, 1)
    assert after.mask.dtype == before.mask.dtype
    np.testing.assert_array_equal(after.image, before.image)
    assert (wrapped.samples, wrapped.rendered) == (source.samples, source.rendered)


def test_the_mask_of_an_only_reader_is_taken_for_the_truth(tmp_path):
    source = Discs()
    example = TruthSource(source).load(2)
    np.testing.assert_array_equal(example.truth, source.load(2).mask[..., 0])
    TruthSource(source).save_mask(2, example.truth, tmp_path)
    assert source.saved == [(2, tmp_path)]


def test_readers_without_a_truth_are_refused():
    with pytest.raises(DataError, match="does not know the true mask of disc 1"):
        TruthSource(Discs(readers=3)).load(1)


def test_noise_is_put_on_the_truth():
    noise = [{"kind": "dilate", "radius": 1}]
    truth = LidcSource(size=32).load(0).truth
    example = build_source(recipe(0, readers="truth", noise=noise)).load(0)
    assert example.mask.shape == (32, 32, 1)
    np.testing.assert_array_equal(example.truth, truth)
    assert (example.mask[..., 0] >= truth).all()
    assert (example.mask[..., 0] != truth).any()


def test_noise_has_a_seed_of_its_own():
    def noisy(seed, own):
        noise = [{"kind": "shift", "distance": [1, 6]}]
        source = build_source(recipe(seed, readers="truth", noise=noise, seed=own))
        return np.stack([source.load(i).mask for i in range(6)])

    np.testing.assert_array_equal(noisy(1, 9), noisy(2, 9))
    np.testing.assert_array_equal(noisy(9, None), noisy(2, 9))
    assert (noisy(1, 9) != noisy(1, 8)).any()
