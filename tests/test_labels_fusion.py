"""Majority vote and soft mean against a vote counted pixel by pixel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.stats

from keras_robustseg.labels import label_distribution, majority_vote, soft_mean
from keras_robustseg.labels._fusion import vote_patterns

SHAPES = [(7, 5, 3), (1, 1, 1), (3, 4, 5, 2), (2, 3, 4, 3, 6), (40, 1)]


def random_masks(rng, shape, classes, missing=0.3):
    masks = rng.integers(0, classes, shape)
    return np.where(rng.random(shape) < missing, rng.integers(-9, 0, shape), masks)


def counted(row, ties):
    """A vote of one pixel as one would count it by hand."""
    tally = Counter(int(v) for v in row if v >= 0)
    if not tally:
        return -1
    most = max(tally.values())
    tied = sorted(c for c, n in tally.items() if n == most)
    if len(tied) > 1 and isinstance(ties, str) and ties == "void":
        return -1
    return tied[0] if isinstance(ties, str) else max(tied, key=lambda c: (ties[c], -c))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [2, 3, 30])
@pytest.mark.parametrize("rule", ["lowest", "void", "prior"])
def test_majority_is_the_vote_counted_by_hand(shape, classes, rule, rng):
    masks = random_masks(rng, shape, classes)
    ties = rng.random(classes).round(1) if rule == "prior" else rule
    found = majority_vote(masks, classes, ties=ties)
    expected = [counted(row, ties) for row in masks.reshape(-1, shape[-1])]
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, np.reshape(expected, shape[:-1]))


def test_ties_can_go_to_the_prior_of_the_pixel(rng):
    masks = random_masks(rng, (6, 5, 4), 3)
    prior = rng.random((6, 5, 3))
    found = majority_vote(masks, ties=prior)
    rows, priors = masks.reshape(-1, 4), prior.reshape(-1, 3)
    expected = [counted(row, p) for row, p in zip(rows, priors, strict=True)]
    np.testing.assert_array_equal(found.ravel(), expected)


def test_absent_readers_are_no_votes_for_background():
    masks = np.array([[1, -1, -1, -1, -1], [0, 2, 2, -1, -1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(majority_vote(masks, 3), [1, 2, -1])
    np.testing.assert_allclose(soft_mean(masks, 3)[0], [0, 1, 0])


def test_a_vote_of_five_finds_what_independent_flips_hide(rng):
    truth = rng.integers(0, 2, (64, 64))
    masks = np.where(rng.random((64, 64, 5)) < 0.2, 1 - truth[..., None], truth[..., None])
    right = scipy.stats.binom.cdf(2, 5, 0.2)
    found = majority_vote(masks)
    assert abs((found == truth).mean() - right) < 4 * np.sqrt(right * (1 - right) / truth.size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [2, 5])
def test_soft_mean_is_what_the_losses_read(shape, classes, rng):
    masks = random_masks(rng, shape, classes)
    batch = masks[None]
    yhat, valid = label_distribution(batch.astype("int32"), classes, rank=batch.ndim)
    found = soft_mean(masks, classes)
    np.testing.assert_allclose(found, np.asarray(yhat)[0], atol=1e-7)
    np.testing.assert_array_equal(found.any(axis=-1), np.asarray(valid)[0] > 0)


def test_ignore_class_is_an_absent_reader(rng):
    masks = random_masks(rng, (6, 7, 4), 3)
    other = np.where(masks < 0, 255, masks).astype("uint8")
    np.testing.assert_array_equal(
        soft_mean(other, 3, ignore_class=255), soft_mean(masks, 3, ignore_class=255)
    )
    np.testing.assert_array_equal(
        majority_vote(other, 3, ignore_class=255), majority_vote(masks, 3)
    )


def test_classes_are_found_from_the_masks():
    assert soft_mean(np.array([[0, 4]])).shape == (1, 5)
    assert soft_mean(np.array([[-1, -1]])).shape == (1, 2)
    assert soft_mean(np.zeros((0, 3), "int8")).shape == (0, 2)


@pytest.mark.parametrize(("readers", "classes"), [(3, 4), (9, 30), (70, 2), (40, 3)])
def test_patterns_are_the_unique_rows(readers, classes, rng):
    """Few codes are tabled, more are sorted, and too many for 64 bits are packed on the way."""
    rows = random_masks(rng, (12, readers), classes).clip(-1)
    masks = rows[rng.integers(0, 12, 500)]
    seen = vote_patterns(masks, classes)
    unique, count = np.unique(masks, axis=0, return_counts=True)
    np.testing.assert_array_equal(seen.votes[seen.index], masks)
    order = np.lexsort(seen.votes.T[::-1])
    np.testing.assert_array_equal(seen.votes[order], unique)
    np.testing.assert_array_equal(seen.count[order], count)


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        (np.zeros((4, 4, 2)), {}, "Expected integers"),
        (np.zeros(4, "int32"), {}, r"shape \(\*space, readers\)"),
        (np.zeros((4, 0), "int32"), {}, "several readers"),
        (np.full((4, 2), 3), {"num_classes": 3}, "holds class 3"),
        (np.zeros((4, 2), "int32"), {"ties": "highest"}, "'highest'"),
        (np.zeros((4, 2), "int32"), {"num_classes": 2, "ties": [1.0, 2.0, 3.0]}, r"\(3,\)"),
        (np.zeros((4, 2), "int32"), {"ties": [1.0, np.nan]}, "without NaN"),
    ],
)
def test_what_cannot_be_fused_is_refused(masks, options, message):
    with pytest.raises(ValueError, match=message):
        majority_vote(masks, **options)
