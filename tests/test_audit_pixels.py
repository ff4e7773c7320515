"""Scores of pixels and images: closed forms, brute force, planted noise, and cleanlab."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from audit_cells import samples
from sklearn.metrics import average_precision_score

from keras_robustseg.data import noise
from keras_robustseg.metrics import dice
from keras_robustseg.report import (
    class_severity,
    confident_issues,
    image_severity,
    issue_mask,
    pixel_severity,
    self_confidence,
    softmin,
)
from keras_robustseg.report._audit_passes import ClassLevels, nth_smallest
from keras_robustseg.report._audit_pixels import suggested_mask

GOLDEN = Path(__file__).parent / "golden" / "audit" / "cleanlab.npz"


def draw(rng, *shape, classes=3):
    probabilities = rng.dirichlet(np.ones(classes), shape)
    return probabilities, rng.integers(0, classes, shape)


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 6)])
def test_self_confidence_is_the_probability_of_the_given_class(rng, shape):
    p, mask = draw(rng, *shape)
    mask[0, 0] = -1
    found = self_confidence(p, mask)
    for place in np.ndindex(shape):
        assert found[place] == (1 if mask[place] < 0 else p[(*place, mask[place])])


def test_softmin_lies_between_minimum_and_mean(rng):
    scores = rng.random((6, 5))
    assert scores.min() < softmin(scores) < scores.mean()
    assert softmin(scores, 1e-3) == pytest.approx(scores.min(), abs=1e-3)
    assert softmin(scores, 1e3) == pytest.approx(scores.mean(), abs=1e-3)


def soft_dice(p, m):
    return (2 * p[m].sum() + 1) / (p.sum() + m.sum() + 1)


def test_class_severity_is_the_loss_against_the_best_of_all_masks(rng):
    p, mask = draw(rng, 3, 3, classes=2)
    best = max(
        soft_dice(p[..., 1], np.array(bits, bool).reshape(3, 3))
        for bits in itertools.product((0, 1), repeat=9)
    )
    expected = best - soft_dice(p[..., 1], mask == 1)
    # Thresholds lie on a grid of 1/1024, so the best of them may miss a pixel by that much.
    assert class_severity(p, mask)[1] == pytest.approx(expected, abs=2e-3)


def test_the_best_mask_has_no_severity_and_its_complement_much(rng):
    p = np.zeros((8, 8, 2))
    p[..., 1] = 0.02
    p[2:6, 2:6, 1] = 0.97
    p[..., 0] = 1 - p[..., 1]
    good = (p[..., 1] > 0.5).astype(int)
    assert image_severity(p, good) == 0
    assert image_severity(p, 1 - good) > 0.8
    assert image_severity(p, np.zeros_like(good)) > 0.8


def test_haze_changes_nothing_but_what_lies_everywhere(rng):
    p = rng.dirichlet(np.full(3, 0.2), (12, 10))
    p[rng.random((12, 10)) < 0.3] = [0.98, 0.01, 0.01]
    mask = rng.integers(0, 3, (12, 10))
    smoothed = 0.85 * p + 0.15 / 3  # as label smoothing leaves it
    expected = class_severity(p, mask)
    assert class_severity(smoothed, mask) != pytest.approx(expected, abs=1e-2)
    cleared = class_severity(smoothed, mask, np.full(3, 0.05))
    # The smoothing also takes from the top: p = 1 became 0.9, which is 0.895 without the haze.
    assert cleared == pytest.approx(expected, abs=0.08)
    levels = ClassLevels(3)
    levels.add(smoothed, mask)
    assert levels.haze == pytest.approx(np.quantile(smoothed, 0.1, axis=(0, 1)), abs=2 / 1024)


def test_an_undecided_belief_accuses_nobody():
    p = np.full((8, 8, 2), [0.9, 0.1])
    object_given = np.zeros((8, 8), int)
    object_given[3:5, 3:5] = 1
    assert image_severity(p, np.zeros((8, 8), int)) < 0.15
    assert image_severity(p, object_given) < 0.15


@pytest.mark.parametrize("shape", [(9, 7), (3, 5, 4)])
def test_void_counts_as_cut_away(rng, shape):
    p, mask = draw(rng, *shape)
    mask[1:2] = -1
    other = p.copy()
    other[1:2] = rng.dirichlet(np.ones(3), other[1:2].shape[:-1])
    assert class_severity(p, mask) == pytest.approx(class_severity(other, mask))
    rest = [np.delete(part, 1, axis=0) for part in (p, mask)]
    assert class_severity(p, mask) == pytest.approx(class_severity(*rest))
    assert (pixel_severity(p, mask)[1:2] == 0).all()
    levels = [ClassLevels(3), ClassLevels(3)]
    levels[0].add(p, mask)
    levels[1].add(*rest)
    assert levels[0].thresholds == pytest.approx(levels[1].thresholds)


def test_pixel_severity_is_the_formula_on_a_region():
    p = np.full((5, 5, 2), [0.9, 0.1])
    p[1:3, 1:3] = [0.2, 0.8]
    mask = np.zeros((5, 5), int)
    found = pixel_severity(p, mask, image_severity=0.5)
    logit = np.log(0.8 / 0.2) + 2 * 0.5 + np.log(1 + 4) / 4
    assert found[1, 1] == pytest.approx(1 / (1 + np.exp(-logit)))
    logit = np.log(0.1 / 0.9) + 2 * 0.5
    assert found[4, 4] == pytest.approx(1 / (1 + np.exp(-logit)))


def test_suggested_mask_replaces_confident_regions_whole():
    p = np.full((9, 9, 2), [0.95, 0.05])
    p[1:4, 1:4] = [0.4, 0.6]
    p[2, 2] = [0.1, 0.9]  # one confident pixel carries the region
    p[6:9, 6:9] = [0.4, 0.6]  # no pixel is confident here
    p[1, 7] = [0.01, 0.99]  # confident, and a speck
    mask = np.zeros((9, 9), np.int16)
    mask[8, 0] = -1
    found = suggested_mask(p, mask, np.array([0.9, 0.8]))
    expected = np.zeros_like(mask)
    expected[1:4, 1:4] = 1
    expected[8, 0] = -1
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == mask.dtype


# Planted noise ------------------------------------------------------------------

PLANTED = {
    "dilate": noise.dilate((2, 4)),
    "erode": noise.erode((2, 3)),
    "shift": noise.shift((3, 6)),
    "missing": noise.missing(0.6),
    "extra": noise.extra(2, radius=4),
    "class_flip": noise.class_flip(0.8, num_classes=3),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("shape", [(48, 40), (16, 26, 24)])
def test_planted_noise_is_found_at_least_as_well_as_by_softmin(rng, kind, shape):
    made, truths = samples(rng, 16 if len(shape) == 2 else 10, PLANTED[kind], shape=shape)
    wrong = [(s.mask != truth).ravel() for s, truth in zip(made, truths, strict=True)]
    good = [np.nanmean(dice(s.mask, t, 3)[1:]) for s, t in zip(made, truths, strict=True)]
    bad = np.array(good) < 0.8
    levels = ClassLevels(3)
    for s in made:
        levels.add(s.probabilities, s.mask)
    ours = [image_severity(s.probabilities, s.mask, levels.haze) for s in made]
    confidence = [self_confidence(s.probabilities, s.mask) for s in made]
    if bad.any():
        theirs = average_precision_score(bad, [-softmin(c) for c in confidence])
        assert average_precision_score(bad, ours) >= max(theirs, 0.9)
    pixels = np.concatenate(
        [
            pixel_severity(s.probabilities, s.mask, image_severity=i).ravel()
            for s, i in zip(made, ours, strict=True)
        ]
    )
    theirs = np.concatenate([1 - c.ravel() for c in confidence])
    wrong = np.concatenate(wrong)
    assert average_precision_score(wrong, pixels) >= average_precision_score(wrong, theirs)


# cleanlab -----------------------------------------------------------------------


def issues_of(p, masks):
    """Our form of cleanlab's rule on probabilities (N, *S, C) and masks (N, *S)."""
    levels = ClassLevels(p.shape[-1])
    for pair in zip(p, masks, strict=True):
        levels.add(*pair)
    limit = confident_issues(lambda: zip(p, masks, strict=True), levels.thresholds)
    return np.stack([issue_mask(*pair, limit) for pair in zip(p, masks, strict=True)])


def test_agrees_with_recorded_results_of_cleanlab():
    """Made by cleanlab 2.9.0 from these inputs: get_label_quality_scores, find_label_issues."""
    with np.load(GOLDEN) as file:
        p, masks = file["probabilities"].astype(np.float64), file["masks"]
        pixels = np.stack([self_confidence(*pair) for pair in zip(p, masks, strict=True)])
        np.testing.assert_allclose([softmin(s) for s in pixels], file["image_scores"], atol=1e-6)
        np.testing.assert_allclose(pixels, file["pixel_scores"], atol=1e-6)
        np.testing.assert_array_equal(issues_of(p, masks), file["issues"])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_agrees_with_the_installed_cleanlab(rng, classes):
    rank = pytest.importorskip("cleanlab.segmentation.rank")
    find = pytest.importorskip("cleanlab.segmentation.filter")
    p = rng.dirichlet(np.full(classes, 0.3), (4, 13, 11))
    masks = np.where(rng.random(p.shape[:-1]) < 0.7, p.argmax(-1), rng.integers(0, classes, 1))
    first = np.ascontiguousarray(np.moveaxis(p, -1, 1))
    image_scores, pixel_scores = rank.get_label_quality_scores(masks, first, verbose=False)
    pixels = np.stack([self_confidence(*pair) for pair in zip(p, masks, strict=True)])
    np.testing.assert_allclose(pixels, pixel_scores, atol=1e-6)
    np.testing.assert_allclose([softmin(s) for s in pixels], image_scores, atol=1e-6)
    expected = find.find_label_issues(masks, first, verbose=False, n_jobs=1)
    np.testing.assert_array_equal(issues_of(p, masks), expected)


def test_nothing_is_an_issue_where_predictions_and_masks_agree(rng):
    p = rng.dirichlet(np.ones(3), (2, 6, 6))
    assert not issues_of(p, p.argmax(-1)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nth_smallest_is_exact(rng, dtype):
    parts = [rng.random(n).astype(dtype) for n in (1, 50, 200)]
    parts[1][:20] = parts[1][20]  # ties
    parts[2][:4] = 0, 1, 1e-30, -0.0
    pooled = np.sort(np.concatenate(parts))
    for n in (1, 2, 25, 100, len(pooled)):
        assert nth_smallest(lambda: iter(parts), n) == pooled[n - 1]
