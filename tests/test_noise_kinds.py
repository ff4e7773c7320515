"""What holds for every kind of noise: seeds, void, difficult masks, two and three dimensions."""

import os
import subprocess
import sys

import numpy as np
import pytest

from keras_robustseg.data import noise
from keras_robustseg.data.noise._geometry import smooth_field
from keras_robustseg.errors import DataError

KINDS = sorted(noise.KINDS)


def labels(seed, shape=(61, 47), classes=3):
    """A random smooth label map with `classes` classes, background first."""
    rng = np.random.default_rng(seed)
    fields = np.stack([smooth_field(rng, shape, 5.0) for _ in range(classes)])
    fields[0] += 0.7
    return fields.argmax(axis=0).astype(np.int16)


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_fields_is_the_signature(kind):
    made = noise.KINDS[kind]()
    assert {name: made.level[name] for name in noise.FIELDS[kind]} == {
        name: field.default for name, field in noise.FIELDS[kind].items()
    }
    assert set(noise.STRENGTH[kind]) <= set(noise.FIELDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_noise_and_other_seed_other_noise(kind):
    mask = labels(1)
    made = noise.KINDS[kind]()
    first = [made(mask, seed=(0, f"patient {k}")) for k in range(8)]
    again = [made(mask, seed=(0, f"patient {k}")) for k in reversed(range(8))][::-1]
    np.testing.assert_array_equal(first, again)
    assert (np.stack(first) != mask).any()
    if kind not in ("dilate", "erode"):
        assert any((a != first[0]).any() for a in first[1:])


def test_noise_is_the_same_in_another_process():
    code = (
        "import numpy as np\n"
        "from keras_robustseg.data import noise\n"
        "m = np.zeros((32, 32), int); m[8:20, 9:25] = 1\n"
        "print(noise.reader()(m, seed=(0, 'a')).sum(), noise.markov(20)(m, seed=(0, 'b')).sum())\n"
        "import sys; assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("shape", [(61, 47), (9, 23, 17)])
@pytest.mark.parametrize("kind", KINDS)
def test_void_stays_and_nothing_else_becomes_void(kind, shape):
    mask = labels(2, shape)
    void = np.random.default_rng(4).random(shape) < 0.05
    void[shape[0] // 2] = True
    mask[void] = -1
    noisy = noise.KINDS[kind]()(mask, seed=7)
    assert noisy.dtype == mask.dtype
    np.testing.assert_array_equal(noisy == -1, void)
    assert set(np.unique(noisy)) <= {-1, 0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (5, 1), (3, 5, 7), (1, 1, 1)])
def test_difficult_masks(kind, shape):
    made = noise.KINDS[kind]()
    one_pixel = np.zeros(shape, np.int32)
    one_pixel[tuple(n // 2 for n in shape)] = 1
    for mask in (one_pixel, np.zeros_like(one_pixel), np.ones_like(one_pixel), one_pixel * 0 - 1):
        before = mask.copy()
        noisy = made(mask, seed=0)
        assert noisy.shape == shape
        assert noisy.min() >= -1
        assert noisy.max() <= 1
        np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"extra", "markov", "pixel_flip"}))
def test_empty_and_full_masks_stay_where_there_is_no_edge(kind):
    made = noise.KINDS[kind](**({} if kind != "missing" else {"rate": 0.0}))
    for value in (0, 1):
        mask = np.full((12, 15), value)
        if kind == "shift" and value:
            continue
        np.testing.assert_array_equal(made(mask, seed=0), mask)


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_noise_leaves_less_dice(kind):
    mask = labels(3)
    made = noise.KINDS[kind]()
    dice = [
        np.mean(
            [
                noise.measure(made.stronger(t)(mask, seed=k), mask, num_classes=3)["dice"]
                for k in range(6)
            ]
        )
        for t in (0.25, 1.0, 3.0)
    ]
    assert dice[0] > dice[1] > dice[2]


def test_a_range_is_drawn_uniformly_and_once_a_seed():
    made = noise.dilate(radius=(1, 4))
    radii = np.array([made.drawn((0, k))["radius"] for k in range(400)])
    assert radii.min() >= 1
    assert radii.max() <= 4
    assert radii.mean() == pytest.approx(2.5, abs=0.15)
    counts = np.bincount([noise.extra(count=(0, 2)).drawn(k)["count"] for k in range(600)])
    np.testing.assert_allclose(counts / 600, 1 / 3, atol=0.06)


@pytest.mark.parametrize("mask", [np.zeros(5, int), np.zeros((4, 4)), np.zeros((0, 3), int)])
def test_a_mask_that_is_none_is_refused(mask):
    with pytest.raises(DataError, match="expected a mask of class indices"):
        noise.dilate()(mask, seed=0)
