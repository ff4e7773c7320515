"""The reader noise against real radiologists, against its formula, and on difficult masks."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from keras_robustseg.data import noise
from keras_robustseg.data.noise._geometry import find_objects, signed_distance, smooth_field
from keras_robustseg.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "lidc_readers.npz"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def dice(a, b):
    return 2.0 * (a & b).sum() / (a.sum() + b.sum())


def disc(radius, shape=(64, 64)):
    centre = [(n - 1) / 2 for n in shape]
    grid = np.indices(shape)
    squared = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
    return (squared <= radius**2).astype(np.int16)


def real_readers():
    """Slices that at least two readers drew: the masks of those who did."""
    with np.load(GOLDEN) as file:
        masks = np.unpackbits(file["masks"], axis=2).reshape(-1, 4, 64, 64).astype(bool)
        drew = file["drew"] & masks.any(axis=(2, 3))
    return [m[d] for m, d in zip(masks, drew, strict=True) if d.sum() >= 2]


@pytest.mark.parametrize("truth", ["majority", "one reader"])
def test_pairs_of_simulated_readers_disagree_as_pairs_of_real_ones(truth):
    """As many readers as drew the slice are simulated from one truth; all pairs are pooled.

    The truth of a slice is not known. Either at least half of its readers, or one of them at
    random, stands for it. The patients are not those of the fit.
    """
    real, simulated = [], []
    simulate = noise.reader()
    for number, masks in enumerate(real_readers()):
        chosen = np.random.default_rng(number).integers(len(masks))
        clean = masks.mean(0) >= 0.5 if truth == "majority" else masks[chosen]
        noisy = [simulate(clean.astype(int), seed=(number, k)) > 0 for k in range(len(masks))]
        for pairs, found in ((masks, real), (noisy, simulated)):
            found += [dice(a, b) for a, b in itertools.combinations(pairs, 2)]
    error = np.quantile(simulated, QUANTILES) - np.quantile(real, QUANTILES)
    print(truth, np.quantile(simulated, QUANTILES).round(3), np.quantile(real, QUANTILES).round(3))
    assert abs(error[2]) < 0.02
    assert abs(error[0]) < 0.05
    assert np.abs(error[[1, 3, 4]]).max() < 0.03


def test_strength_zero_changes_nothing():
    rng = np.random.default_rng(0)
    blobs = (smooth_field(rng, (61, 47), 5.0) > 0.5).astype(int)
    labels = blobs * (1 + (smooth_field(rng, (61, 47), 9.0) > 0))
    np.testing.assert_array_equal(noise.reader(0.0)(labels, seed=1), labels)


def test_offset_and_wiggle_have_the_fitted_spread():
    """The edge of a wide disc moves by b + w; its radial displacement has the model's variance."""
    radius, size = 24, 120
    clean = disc(radius, (size, size))
    areas = [noise.reader()(clean, seed=k).sum() for k in range(300)]
    offsets = np.sqrt(np.array(areas) / np.pi) - np.sqrt(clean.sum() / np.pi)
    p = noise.LIDC_READERS
    # E f^2 = exp(2 tau^2 - 2 tau^2) = 1; averaging w over the circle leaves about
    # ell sqrt(2 pi) / (2 pi r) of its variance.
    left = p.length * np.sqrt(2 * np.pi) / (2 * np.pi * radius)
    expected = np.sqrt(p.offset**2 + p.wiggle**2 * left) * radius**p.exponent
    assert offsets.std() == pytest.approx(expected, rel=0.25)
    assert abs(offsets.mean()) < 0.3


def test_field_has_unit_variance_and_the_stated_covariance():
    rng = np.random.default_rng(3)
    fields = np.stack([smooth_field(rng, (40, 40), 3.8) for _ in range(300)])
    assert fields.std() == pytest.approx(1.0, abs=0.03)
    for lag in (1, 2, 4, 6):
        covariance = (fields[:, :-lag] * fields[:, lag:]).mean()
        assert covariance == pytest.approx(np.exp(-(lag**2) / (2 * 3.8**2)), abs=0.04)


def test_signed_distance_of_a_disc_is_the_closed_form():
    clean = disc(20) > 0
    distance = signed_distance(clean)
    grid = np.indices(clean.shape) - 31.5
    exact = np.sqrt((grid**2).sum(0)) - 20.0
    assert ((distance < 0) == clean).all()
    assert np.abs(distance - exact).max() < 1.0


def test_edge_between_touching_classes_opens_no_gap():
    halves = np.full((40, 60), 1)
    halves[:, 30:] = 2
    halves[:4] = halves[-4:] = 0
    edges = []
    for seed in range(60):
        noisy = noise.reader()(halves, seed=seed)
        assert (noisy[15:25] > 0).all()
        edges.append((noisy[15:25] == 1).sum(axis=1).mean() - 30.0)
    assert np.std(edges) > 0.3


def test_each_object_has_its_own_draw():
    pair = np.concatenate([disc(8, (40, 40)), disc(8, (40, 40))], axis=1)
    change = [
        [(noisy[:, :40] > 0).sum(), (noisy[:, 40:] > 0).sum()]
        for noisy in (noise.reader()(pair, seed=k) for k in range(200))
    ]
    assert abs(np.corrcoef(np.array(change).T)[0, 1]) < 0.2


def test_objects_are_kept_whole_and_never_vanish():
    rng = np.random.default_rng(5)
    for seed in range(40):
        radius = rng.uniform(0.3, 6)
        noisy = noise.reader(3.0)(disc(radius, (33, 35)), seed=seed)
        parts, _ = find_objects(noisy)
        assert parts.max() == 1


def test_missing_rate_is_met():
    grid = np.zeros((100, 100), int)
    grid[5::10, 5::10] = 1
    left = [noise.reader(0.0, missing=0.3)(grid, seed=k).sum() for k in range(20)]
    assert np.mean(left) == pytest.approx(70.0, abs=4.0)


def test_physical_noise_follows_the_size_of_the_pixels():
    """The same nodule on pixels half as large gets about the same Dice, not a better one."""
    coarse = disc(8, (40, 40))
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)
    physical = noise.reader(physical=True)

    def at(mask, mm):
        noisy = [physical(mask, seed=k, spacing=(mm, mm)) for k in range(150)]
        return np.mean([dice(after > 0, mask > 0) for after in noisy])

    assert at(fine, 0.34) == pytest.approx(at(coarse, 0.68), abs=0.02)
    assert at(coarse, 0.34) < at(coarse, 0.68) - 0.02
    with pytest.raises(DataError, match="spacing"):
        physical(coarse, seed=0)


def test_offset_of_a_ball_has_the_fitted_spread():
    """As for the disc; averaging w over the sphere leaves about ell^2 / (2 r^2) of its variance."""
    radius = 8
    clean = disc(radius, (31, 31, 31))
    volumes = [noise.reader()(clean, seed=k).sum() for k in range(80)]
    offsets = np.cbrt(0.75 / np.pi * np.array(volumes)) - np.cbrt(0.75 / np.pi * clean.sum())
    p = noise.LIDC_READERS
    expected = (
        np.sqrt(p.offset**2 + p.wiggle**2 * p.length**2 / (2 * radius**2)) * radius**p.exponent
    )
    assert offsets.std() == pytest.approx(expected, rel=0.3)
