"""Statistics of paired comparisons, against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from keras_robustseg.benchmark import holm, paired_bootstrap, ranks, wilcoxon
from keras_robustseg.benchmark._statistics import image_dice, mean_dice


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence().entropy)


def with_gaps(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.random(shape)
    values[rng.random(shape) < 0.2] = np.nan
    values[:, 0] = rng.random((shape[0], shape[2]))  # every class is defined somewhere
    return values


def test_mean_dice_is_the_mean_over_classes_of_the_mean_over_images(rng) -> None:
    values = with_gaps(rng, (3, 7, 4))
    expected = [np.nanmean(np.nanmean(one, axis=0)) for one in values]
    np.testing.assert_allclose(mean_dice(values), expected, rtol=1e-12)


def test_the_difference_is_that_of_the_means(rng) -> None:
    a, b = with_gaps(rng, (3, 11, 2)), with_gaps(rng, (3, 11, 2))
    found = paired_bootstrap(a, b, samples=50)
    assert found.difference == pytest.approx(np.mean(mean_dice(a) - mean_dice(b)), abs=1e-12)
    assert found.low <= found.high


def test_the_interval_is_scipys_for_one_seed_and_one_class(rng) -> None:
    a, b = rng.random(80), rng.random(80) ** 2
    found = paired_bootstrap(a[None, :, None], b[None, :, None], samples=8000)
    theirs = stats.bootstrap(
        (a - b,), np.mean, n_resamples=8000, method="percentile", random_state=1
    ).confidence_interval
    spread = (a - b).std() / np.sqrt(80)
    np.testing.assert_allclose([found.low, found.high], theirs, atol=0.15 * spread)


def test_a_constant_difference_has_no_width(rng) -> None:
    a = rng.random((2, 9, 3))
    found = paired_bootstrap(a + 0.125, a)
    np.testing.assert_allclose([found.difference, found.low, found.high], 0.125, atol=1e-12)


def test_pairs_narrow_the_interval(rng) -> None:
    hard = rng.random((1, 60, 1))
    near = hard + rng.normal(0, 0.01, hard.shape)
    mixed = near[:, rng.permutation(60)]
    paired, loose = paired_bootstrap(hard, near), paired_bootstrap(hard, mixed)
    assert paired.high - paired.low < 0.5 * (loose.high - loose.low)


def test_the_same_seed_gives_the_same_interval(rng) -> None:
    a, b = rng.random((2, 20, 1)), rng.random((2, 20, 1))
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)


@pytest.mark.parametrize("shape", [(2, 5, 1), (3, 4, 1), (3, 5, 2)])
def test_methods_must_share_seeds_and_images(shape) -> None:
    with pytest.raises(ValueError, match="same seeds on the same images"):
        paired_bootstrap(np.zeros((3, 5, 1)), np.zeros(shape))


def test_image_dice_averages_classes_then_seeds(rng) -> None:
    values = with_gaps(rng, (2, 6, 3))
    values[0, 3] = np.nan  # an image that one seed says nothing about
    expected = [
        np.nanmean([np.nanmean(one) for one in values[:, i] if not np.isnan(one).all()])
        for i in range(6)
        if not np.isnan(values[:, i]).all()
    ]
    found = image_dice(values)
    np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-12)


def test_wilcoxon_is_exact_for_few_pairs() -> None:
    # Of the 2^5 signs, only all plus and all minus are as far out as these.
    assert wilcoxon([0.6, 0.7, 0.8, 0.9, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5]) == pytest.approx(2 / 32)


def test_wilcoxon_leaves_out_what_is_undefined(rng) -> None:
    a, b = rng.random(30), rng.random(30)
    gaps = np.append(a, [np.nan, 0.3]), np.append(b, [0.2, np.nan])
    assert wilcoxon(*gaps) == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert wilcoxon(a, a) == 1.0
    assert wilcoxon([], []) == 1.0


def test_holm_is_its_definition(rng) -> None:
    p = rng.random(9) ** 3
    order = np.argsort(p)
    expected = np.empty(9)
    for place, index in enumerate(order):
        expected[index] = max(min(1.0, (9 - k) * p[order[k]]) for k in range(place + 1))
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_holm_of_known_values() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_controls_at_most_as_bonferroni(rng) -> None:
    p = rng.random(12)
    adjusted = np.array(holm(p))
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(1.0, 12 * p) + 1e-12)


def test_ranks_share_ties_and_leave_gaps() -> None:
    found = ranks([[0.5, 0.9, 0.5], [0.1, np.nan, 0.3]])
    np.testing.assert_array_equal(found, [[2.5, 1.0, 2.5], [2.0, np.nan, 1.0]])
