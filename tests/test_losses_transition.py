"""Forward and backward correction against their formulas, identities and expectations."""

from __future__ import annotations

import float64
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from keras_robustseg import losses
from keras_robustseg.labels import TransitionMatrix
from keras_robustseg.losses import backward_correction, cross_entropy, forward_correction


def random_matrix(rng, classes, zeros=False):
    matrix = 0.7 * np.eye(classes) + 0.3 * rng.dirichlet(np.ones(classes), classes)
    if zeros:
        matrix = matrix * np.triu(np.ones((classes, classes)))
    return matrix / matrix.sum(1, keepdims=True)


def forward_formula(matrix):
    def pixels(log_p, y):
        noisy = logsumexp(log_p[..., None], axis=-2, b=matrix)
        return -np.where(y > 0, y * noisy, 0).sum(-1)

    return pixels


def backward_formula(matrix):
    return lambda log_p, y: -(np.linalg.solve(matrix.T, y[..., None])[..., 0] * log_p).sum(-1)


def check(loss, formula, classes, rng):
    for logits, y in float64.cases(rng):
        if y.shape[-1] == classes:
            value, gradient = float64.value_and_gradient(loss, logits, y)

            def total(z, y=y):
                return formula(z - logsumexp(z, axis=-1, keepdims=True), y).sum()

            np.testing.assert_allclose(value, total(logits), rtol=1e-5)
            expected = float64.differences(total, logits)
            np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_values_and_gradients_are_those_of_the_formulas(rng, classes, zeros):
    matrix = random_matrix(rng, classes, zeros)
    for loss, formula in (
        (forward_correction, forward_formula),
        (backward_correction, backward_formula),
    ):
        check(lambda log_p, y, loss=loss: loss(log_p, y, matrix), formula(matrix), classes, rng)


@pytest.mark.parametrize("zeros", [False, True])
def test_forward_holds_at_extreme_logits(rng, zeros):
    matrix = random_matrix(rng, 3, zeros)
    logits = rng.choice([-100.0, 0.0, 100.0], (1, 6, 6, 3)).astype("float32")
    mask = np.full((1, 6, 6), 2)
    log_p = logits - logsumexp(logits, axis=-1, keepdims=True)
    expected = forward_formula(matrix)(log_p.astype(float), np.eye(3)[mask]).mean()
    found = float(losses.ForwardCorrection(matrix)(mask, logits))
    assert found == pytest.approx(expected, rel=1e-5)


def test_forward_keeps_the_gradient_of_a_label_that_is_all_but_impossible():
    """At probability e^-200, where the sum over classes in plain float32 would be 0."""
    z = tf.Variable([[[100.0, -100.0, -100.0]]])
    with tf.GradientTape() as tape:
        value = losses.ForwardCorrection(np.eye(3))([[1]], z)
    assert float(value) == pytest.approx(200, rel=1e-6)
    np.testing.assert_allclose(tape.gradient(value, z)[0, 0], [1, -1, 0], atol=1e-6)


@pytest.mark.parametrize("kind", [losses.ForwardCorrection, losses.BackwardCorrection])
def test_the_identity_changes_nothing(rng, kind):
    logits, mask = rng.normal(0, 30, (2, 6, 5, 3)), rng.integers(-1, 3, (2, 6, 5))
    expected = float(losses.CrossEntropy()(mask, logits))
    for identity in (np.eye(3), 0.0, TransitionMatrix(np.eye(3))):
        assert float(kind(identity)(mask, logits)) == pytest.approx(expected, rel=1e-5)


def test_backward_is_unbiased(rng):
    """Its mean over the noise is the cross-entropy of the true label, whatever the prediction."""
    matrix = random_matrix(rng, 4)
    log_p = np.log(rng.dirichlet(np.ones(4), 50)).astype("float32")
    one_hot = np.eye(4, dtype="float32")
    given = np.stack(
        [np.asarray(backward_correction(log_p, one_hot[[j] * 50], matrix)) for j in range(4)], -1
    )
    for true in range(4):
        expected = cross_entropy(log_p, one_hot[[true] * 50])
        np.testing.assert_allclose(given @ matrix[true], expected, rtol=1e-4, atol=1e-5)


def test_forward_is_least_at_the_true_distribution(rng):
    """Under noisy labels y ~ true T the gradient vanishes at p = true."""
    matrix, true = random_matrix(rng, 4), rng.dirichlet(np.ones(4), (1, 5))
    noisy = true @ matrix
    _, gradient = float64.value_and_gradient(
        lambda log_p, y: forward_correction(log_p, y, matrix), np.log(true), noisy
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    _, plain = float64.value_and_gradient(cross_entropy, np.log(true), noisy)
    assert np.abs(plain).max() > 1e-2


def test_a_number_is_the_rate_of_symmetric_noise(rng):
    logits, mask = rng.normal(0, 2, (2, 6, 5, 4)), rng.integers(-1, 4, (2, 6, 5))
    for kind in (losses.ForwardCorrection, losses.BackwardCorrection):
        expected = kind(TransitionMatrix.symmetric(4, 0.3))(mask, logits)
        assert float(kind(0.3)(mask, logits)) == pytest.approx(float(expected), rel=1e-6)


def test_config_of_a_matrix_survives(rng):
    matrix = random_matrix(rng, 3)
    for kind in (losses.ForwardCorrection, losses.BackwardCorrection):
        again = kind.from_config(kind(TransitionMatrix(matrix)).get_config())
        np.testing.assert_array_equal(again.transition, TransitionMatrix(matrix).matrix)


@pytest.mark.parametrize("kind", [losses.ForwardCorrection, losses.BackwardCorrection])
@pytest.mark.parametrize(
    "wrong", [[[0.5, 0.4], [0.2, 0.8]], [[1.2, -0.2], [0, 1]], np.ones((2, 3)) / 3, -0.1, 1.0]
)
def test_what_is_no_transition_is_refused(kind, wrong):
    with pytest.raises(ValueError, match="transition"):
        kind(wrong)


def test_matrices_that_do_not_fit_are_refused(rng):
    with pytest.raises(ValueError, match="no usable inverse"):
        losses.BackwardCorrection([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"4 classes\. Received: a matrix for 2"):
        losses.ForwardCorrection([[0.9, 0.1], [0.2, 0.8]])(
            np.zeros((1, 2, 2), int), rng.normal(size=(1, 2, 2, 4))
        )
