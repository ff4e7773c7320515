"""Objects of two masks: what is missing, too many, of another class, or misshapen."""

from __future__ import annotations

import numpy as np
import pytest

from keras_robustseg.report import compare_objects


def box(shape, *corners, label=1):
    mask = np.zeros(shape, np.int16)
    for corner in corners:
        mask[tuple(slice(start, stop) for start, stop in corner)] = label
    return mask


def only(given, suggested, confidence=None):
    found = compare_objects(
        given, suggested, np.ones(given.shape) if confidence is None else confidence
    )
    assert len(found) == 1, found
    return found[0]


SHAPES = [(12, 14), (9, 12, 14)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_missing_and_an_extra_object(rng, shape):
    edges = [(2, 5)] * len(shape)
    mask, empty = box(shape, edges), np.zeros(shape, np.int16)
    confidence = rng.uniform(0.5, 1, shape)
    pixels = 3 ** len(shape)
    expected = confidence[mask > 0].sum() / (pixels + 4)
    missing = only(empty, mask, confidence)
    assert (missing.kind, missing.given, missing.suggested) == ("missing", 0, 1)
    extra = only(mask, empty, confidence)
    assert (extra.kind, extra.given, extra.suggested) == ("extra", 1, 0)
    for issue in (missing, extra):
        assert issue.severity == pytest.approx(expected)
        assert issue.wrong_pixels == pixels
        assert issue.box == tuple(edges)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_of_another_class_is_reported_once(shape):
    edges = [(3, 7)] * len(shape)
    issue = only(box(shape, edges), box(shape, edges, label=2))
    assert (issue.kind, issue.given, issue.suggested) == ("wrong_class", 1, 2)


@pytest.mark.parametrize(
    ("given", "suggested", "kind"),
    [
        ([(2, 10), (2, 10)], [(4, 8), (4, 8)], "too_large"),
        ([(4, 8), (4, 8)], [(2, 10), (2, 10)], "too_small"),
        ([(2, 6), (2, 6)], [(3, 7), (3, 7)], "shape"),
    ],
)
def test_misshapen_objects(given, suggested, kind):
    shape = (12, 14)
    issue = only(box(shape, given), box(shape, suggested))
    assert issue.kind == kind
    a, b = box(shape, given) > 0, box(shape, suggested) > 0
    assert issue.wrong_pixels == (a ^ b).sum()
    assert issue.severity == pytest.approx((a ^ b).sum() / ((a | b).sum() + 4))


def test_equal_masks_have_no_issues_and_good_neighbours_are_left_alone(rng):
    mask = rng.integers(0, 3, (12, 14)).astype(np.int16)
    mask[0] = -1
    assert compare_objects(mask, mask, np.ones(mask.shape)) == []
    three = [[(1, 4), (1, 4)], [(1, 4), (8, 11)], [(8, 11), (1, 4)]]
    issue = only(box((12, 14), *three[:2]), box((12, 14), *three))
    assert issue.box == ((8, 11), (1, 4))


def test_two_objects_that_should_be_one_and_one_that_should_be_two():
    shape = (8, 14)
    halves, whole = box(shape, [(2, 6), (1, 5)], [(2, 6), (7, 11)]), box(shape, [(2, 6), (1, 11)])
    kinds = [i.kind for i in compare_objects(halves, whole, np.ones(shape))]
    assert kinds == ["too_small", "too_small"]
    issue = only(whole, halves)
    assert (issue.kind, issue.wrong_pixels) == ("too_large", 8)


def test_large_objects_weigh_more_than_specks_of_the_same_confidence():
    shape = (20, 20)
    speck, large = box(shape, [(1, 2), (1, 2)]), box(shape, [(1, 11), (1, 11)])
    empty = np.zeros(shape, np.int16)
    assert only(empty, speck).severity == pytest.approx(1 / 5)
    assert only(empty, large).severity == pytest.approx(100 / 104)
