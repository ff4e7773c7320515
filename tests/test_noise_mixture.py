"""Mixtures, recipes' noise lists, and strengths solved for a target Dice."""

import numpy as np
import pytest

from keras_robustseg.data import noise
from keras_robustseg.data.noise._geometry import smooth_field
from keras_robustseg.errors import DataError, RecipeError

LEVELLED = sorted(set(noise.KINDS) - {"class_flip", "extra"})


def blobs(count, shape=(48, 41)):
    return [
        (smooth_field(np.random.default_rng(k), shape, 6.0) > 0.6).astype(int) for k in range(count)
    ]


def mean_dice(made, masks, seeds):
    values = []
    for mask, seed in zip(masks, seeds, strict=True):
        if mask.any():
            noisy = made(mask, seed=seed)
            values.append(2 * (noisy & mask).sum() / (noisy.sum() + mask.sum()))
    return np.mean(values)


def test_mixture_chooses_by_its_probabilities_and_says_what_it_chose():
    mask = blobs(1)[0]
    made = noise.mixture([(noise.dilate((1, 3)), 0.5), (noise.erode(1), 0.2)])
    kinds = [noise.describe(made, (0, k))[0] for k in range(500)]
    for kind, share in (("dilate", 0.5), ("erode", 0.2), ("none", 0.3)):
        assert kinds.count(kind) / 500 == pytest.approx(share, abs=0.07)
    for k, kind in enumerate(kinds[:40]):
        change = made(mask, seed=(0, k)).sum() - mask.sum()
        assert np.sign(change) == {"dilate": 1, "erode": -1, "none": 0}[kind]


def test_described_level_is_the_one_applied():
    made = noise.mixture([(noise.dilate((1, 6)), 1.0)])
    point = np.zeros((31, 31), int)
    point[15, 15] = 1
    distance = np.hypot(*(np.indices(point.shape) - 15))
    for k in range(10):
        radius = noise.describe(made, k)[1]["radius"]
        np.testing.assert_array_equal(made(point, seed=k), distance <= radius)


@pytest.mark.parametrize("chances", [(0.7, 0.4), (-0.1,), (1.2,)])
def test_impossible_probabilities_are_refused(chances):
    with pytest.raises(RecipeError, match="'probability'"):
        noise.mixture([(noise.dilate(), chance) for chance in chances])


@pytest.mark.parametrize("kind", LEVELLED)
def test_target_dice_is_met(kind):
    masks = blobs(24)
    solved = noise.to_target_dice(noise.KINDS[kind](), masks, 0.85, seed=5)
    achieved = mean_dice(solved, masks, [(5, k) for k in range(24)])
    assert achieved == pytest.approx(0.85, abs=0.01)


def test_target_dice_is_met_by_a_family_and_on_new_seeds_nearly():
    masks = blobs(40)
    solved = noise.to_target_dice(lambda t: noise.shift(2 * t, rotation=5 * t), masks, 0.7)
    achieved = mean_dice(solved, masks, [(1, k) for k in range(40)])
    assert achieved == pytest.approx(0.7, abs=0.05)


def test_unreachable_targets_name_the_range():
    masks = blobs(10)
    with pytest.raises(DataError, match=r"only 0\.\d+ to 1\.000"):
        noise.to_target_dice(noise.pixel_flip(rate=0.1, include_true=True), masks, 0.05)
    with pytest.raises(DataError, match="cannot be reached"):
        noise.to_target_dice(noise.dilate(), masks, 1.1)
    with pytest.raises(DataError, match="nearest that can be reached"):
        noise.to_target_dice(noise.dilate(), [np.pad([[1]], 20)], 0.9)
    with pytest.raises(DataError, match="foreground"):
        noise.to_target_dice(noise.dilate(), [np.zeros((5, 5), int)], 0.9)


def test_config_is_the_functions_it_names():
    mask = blobs(1)[0]
    made = noise.from_config([{"kind": "dilate", "radius": [1, 4], "relative": False}])
    direct = noise.mixture([(noise.dilate((1, 4)), 1.0)])
    for k in range(5):
        np.testing.assert_array_equal(made(mask, seed=k), direct(mask, seed=k))
    np.testing.assert_array_equal(noise.from_config([])(mask, seed=0), mask)


def test_config_solves_targets_for_the_seeds_it_will_be_called_with():
    masks, seeds = blobs(30), [(0, f"case {k}") for k in range(30)]
    items = [{"kind": "reader", "target_dice": 0.75, "seed": 3}]
    made = noise.from_config(items, masks=masks, seeds=seeds)
    assert mean_dice(made, masks, seeds) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(DataError, match="needs a mask"):
        noise.from_config(items)


def test_an_items_own_seed_changes_only_its_draws():
    mask = blobs(1)[0]
    items = [{"kind": "dilate", "probability": 0.5}, {"kind": "reader", "probability": 0.5}]
    first = noise.from_config(items)
    second = noise.from_config([items[0], {**items[1], "seed": 1}])
    for k in range(20):
        same = (first(mask, seed=k) == second(mask, seed=k)).all()
        assert same == (noise.describe(first, k)[0] == "dilate")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"kind": "dilat"}, "'kind': expected one of reader, dilate"),
        ({"radius": 2}, "'kind'"),
        ({"kind": "dilate", "radios": 2}, "'dilate': unknown field 'radios'"),
        ({"kind": "dilate", "radius": -1}, "'dilate', field 'radius': expected a number from 0"),
        ({"kind": "dilate", "radius": [4, 1]}, "'dilate', field 'radius': expected .* lo <= hi"),
        ({"kind": "dilate", "radius": "two"}, "'dilate', field 'radius'"),
        ({"kind": "markov", "steps": 1.5}, "'markov', field 'steps': expected a whole number"),
        ({"kind": "erode", "classes": [0]}, "'erode', field 'classes'"),
        ({"kind": "reader", "keep_largest": 1}, "'reader', field 'keep_largest': expected true"),
        ({"kind": "dilate", "probability": 1.5}, "'probability'"),
    ],
)
def test_config_errors_name_the_kind_and_the_field(item, message):
    with pytest.raises(RecipeError, match=message):
        noise.from_config([item])


def test_every_default_recipe_block_builds_its_noise():
    from keras_robustseg._recipe_noise import noise_blocks

    mask = blobs(1)[0]
    for block in noise_blocks():
        kind = block.model_fields["kind"].default
        item = {**block(kind=kind).model_dump(), "probability": 1.0}
        made = noise.from_config([item], num_classes=3)
        assert noise.describe(made, 0)[0] == kind
        assert made(mask, seed=0).max() <= 2
