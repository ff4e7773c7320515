"""Transition matrices: making them, Bayes' rule, and estimates against cleanlab and the truth."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.special import logsumexp

from keras_robustseg.labels import (
    TransitionMatrix,
    estimate_transition,
    noisy_log_probabilities,
    transition_posterior,
)


def test_symmetric_and_asymmetric():
    np.testing.assert_allclose(
        TransitionMatrix.symmetric(3, 0.2).matrix, 0.1 + 0.7 * np.eye(3), rtol=1e-12
    )
    found = TransitionMatrix.asymmetric(3, 0.25).matrix
    np.testing.assert_allclose(found, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])
    found = TransitionMatrix.asymmetric(3, 0.4, flips={1: 0, 2: 0}).matrix
    np.testing.assert_allclose(found, [[1, 0, 0], [0.4, 0.6, 0], [0.4, 0, 0.6]])


def test_matrix_is_normalised_read_only_and_serialisable():
    made = TransitionMatrix([[0.9, 0.1 + 1e-7], [0.25, 0.75]])
    np.testing.assert_allclose(made.matrix.sum(1), 1, rtol=1e-15)
    with pytest.raises(ValueError, match="read-only"):
        made.matrix[0, 0] = 1
    config = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(again.matrix, made.matrix)
    assert again.num_classes == 2


def test_inverse(rng):
    made = TransitionMatrix(0.6 * np.eye(4) + 0.4 * rng.dirichlet(np.ones(4), 4))
    np.testing.assert_allclose(made.matrix @ made.inverse(), np.eye(4), atol=1e-12)
    with pytest.raises(ValueError, match="no usable inverse"):
        TransitionMatrix.symmetric(4, 0.75).inverse()


@pytest.mark.parametrize(
    "wrong",
    [[[0.5, 0.4], [0, 1]], [[-0.1, 1.1], [0, 1]], [[1.0]], [0.5, 0.5], [[np.nan, 1], [0, 1]]],
)
def test_what_is_no_transition_matrix_is_refused(wrong):
    with pytest.raises(ValueError, match="transition matrix"):
        TransitionMatrix(wrong)


def test_rates_and_flips_out_of_range_are_refused():
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`rate`"):
            TransitionMatrix.symmetric(3, rate)
    with pytest.raises(ValueError, match="`flips`"):
        TransitionMatrix.asymmetric(3, 0.1, flips={0: 3})


def test_shares_of_masks_whose_truth_is_known(rng):
    from sklearn.metrics import confusion_matrix

    true, given = rng.integers(-1, 3, (2, 6, 7)), rng.integers(-1, 3, (2, 6, 7, 2))
    found = TransitionMatrix.from_masks(given, true, 4).matrix
    pairs = [(t, g) for r in range(2) for t, g in zip(true.flat, given[..., r].flat, strict=True)]
    pairs = np.array([pair for pair in pairs if min(pair) >= 0])
    expected = confusion_matrix(*pairs.T, labels=range(3), normalize="true")
    np.testing.assert_allclose(found[:3, :3], expected)
    np.testing.assert_array_equal(found[3], [0, 0, 0, 1])


def test_noisy_probabilities_and_posterior_are_bayes_rule(rng):
    matrix = 0.6 * np.eye(3) + 0.4 * rng.dirichlet(np.ones(3), 3)
    p, mask = rng.dirichlet(np.ones(3), (2, 4)), rng.integers(0, 3, (2, 4))
    log_p, y = np.log(p).astype("float32"), np.eye(3, dtype="float32")[mask]
    noisy = np.exp(noisy_log_probabilities(log_p, matrix))
    np.testing.assert_allclose(noisy, p @ matrix, rtol=1e-5)
    joint = p * matrix[:, mask].transpose(1, 2, 0)
    expected = joint / joint.sum(-1, keepdims=True)
    found = transition_posterior(log_p, y, TransitionMatrix(matrix))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_posterior_of_several_independent_readers(rng):
    matrix = np.array([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.3, 0.0, 0.7]])
    p, masks = rng.dirichlet(np.ones(3), 6), rng.integers(0, 2, (6, 3))
    y = np.eye(3, dtype="float32")[masks].mean(1)
    with np.errstate(divide="ignore"):
        log_joint = np.log(p) + np.log(matrix)[:, masks].sum(-1).T
    expected = np.exp(log_joint - logsumexp(log_joint, axis=-1, keepdims=True))
    found = transition_posterior(np.log(p).astype("float32"), y, matrix, answers=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    void = transition_posterior(np.log(p).astype("float32"), 0 * y, matrix)
    np.testing.assert_allclose(void, p, rtol=1e-5)


def planted(rng, count, classes=3, sharpness=6.0):
    """True and given labels, a T, and calibrated predictions of the given labels."""
    matrix = 0.7 * np.eye(classes) + 0.3 * rng.dirichlet(np.ones(classes), classes)
    logits = rng.normal(0, sharpness, (count, classes))
    clean = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    true = (clean.cumsum(-1) > rng.random((count, 1))).argmax(-1)
    given = (matrix[true].cumsum(-1) > rng.random((count, 1))).argmax(-1)
    return matrix, true, given, clean @ matrix


def test_confident_joint_is_cleanlabs(rng):
    count = pytest.importorskip("cleanlab.count")
    for classes in (2, 3, 5):
        _, _, given, p = planted(rng, 600, classes, sharpness=2.0)
        joint = count.compute_confident_joint(given, p, calibrate=True)
        expected = (joint / joint.sum(0)).T
        found = estimate_transition(p, given).matrix
        # cleanlab rounds each count to a whole number.
        np.testing.assert_allclose(found, expected, atol=1.0 / joint.sum(0).min())


@pytest.mark.parametrize("method", ["confident_joint", "anchor"])
def test_a_planted_matrix_is_found(rng, method):
    matrix, _, given, p = planted(rng, 20_000)
    found = estimate_transition(p.reshape(100, 200, 3), given.reshape(100, 200), method=method)
    np.testing.assert_allclose(found.matrix, matrix, atol=0.05)


def test_anchor_at_quantile_1_is_the_prediction_where_a_class_is_surest(rng):
    _, _, given, p = planted(rng, 500)
    found = estimate_transition(p, given, method="anchor", quantile=1.0).matrix
    np.testing.assert_allclose(found, p[p.argmax(0)], rtol=1e-9)


def test_void_does_not_count_and_readers_count_one_by_one(rng):
    _, _, given, p = planted(rng, 400)
    void = rng.random(400) < 0.3
    expected = estimate_transition(p[~void], given[~void]).matrix
    broken = np.where(void[:, None], np.nan, p)
    np.testing.assert_allclose(
        estimate_transition(broken, np.where(void, -1, given)).matrix, expected
    )
    readers = np.stack([given, np.where(void, -1, (given + 1) % 3)], -1)
    twice = estimate_transition(
        np.concatenate([p, p[~void]]), np.concatenate([given, (given[~void] + 1) % 3])
    )
    np.testing.assert_allclose(estimate_transition(p, readers).matrix, twice.matrix, rtol=1e-9)


def test_a_class_without_evidence_stands_for_itself(rng):
    p = rng.dirichlet(np.ones(3), 50) * [1, 1, 0]
    p /= p.sum(1, keepdims=True)
    found = estimate_transition(p, p.argmax(1)).matrix
    np.testing.assert_array_equal(found[2], [0, 0, 1])


@pytest.mark.parametrize(
    ("p", "given", "options", "message"),
    [
        (np.full((4, 2), 0.5), np.zeros((3,), int), {}, "shape of the pixels"),
        (np.full((4, 2), 0.5), np.full(4, 2), {}, "class ids below 2"),
        (np.full((4, 2), 0.5), np.zeros(4), {}, "integer class ids"),
        (np.full((4, 2), 0.5), np.full(4, -1), {}, "at least one pixel"),
        (np.full((4, 2), 3.0), np.zeros(4, int), {}, "in \\[0, 1\\]"),
        (np.full((4, 2), 0.5), np.zeros(4, int), {"method": "median"}, "`method`"),
        (np.full((4, 2), 0.5), np.zeros(4, int), {"method": "anchor", "quantile": 0}, "`quantile`"),
    ],
)
def test_bad_input_is_refused(p, given, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_transition(p, given, **options)
