"""ELR's equations against NumPy, finite differences and the closed form of the moving average."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg.labels import EarlyLearning, early_learning_term
from keras_robustseg.labels._early_learning import FLOOR, agreement_gap, next_target


def problem(seed, shape=(3, 4, 5), classes=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (*shape, classes))
    target = rng.dirichlet(np.ones(classes), shape) * rng.uniform(0, 1, (*shape, 1))
    return logits.astype("float32"), target.astype("float32")


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(("classes", "shape"), [(2, (2, 5, 4)), (5, (1, 3, 4, 2))])
def test_the_term_is_the_papers(classes, shape):
    logits, target = problem(classes, shape, classes)
    found = early_learning_term(ops.log_softmax(logits), target)
    p = np.exp(log_softmax(logits))
    np.testing.assert_allclose(found, np.log(1 - (target * p).sum(-1)), rtol=2e-5, atol=1e-6)


def test_the_gradient_is_the_closed_form_and_that_of_finite_differences():
    import tensorflow as tf

    logits, target = problem(1, (6,), 4)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = ops.sum(early_learning_term(ops.log_softmax(variable), target))
    found = tape.gradient(value, variable).numpy()
    p = np.exp(log_softmax(logits))
    inner = (target * p).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, p * (inner - target) / (1 - inner), atol=2e-6)

    def total(z):
        return np.log(1 - (target * np.exp(log_softmax(z))).sum(-1)).sum()

    step = 1e-5
    for place in np.ndindex(logits.shape):
        bump = np.zeros(logits.shape)
        bump[place] = step
        slope = (total(logits + bump) - total(logits - bump)) / (2 * step)
        assert found[place] == pytest.approx(slope, abs=1e-5)


def test_sure_agreement_is_exact_and_flat_below_the_floor():
    import tensorflow as tf

    logits = np.array([[20.0, 0.0], [9.0, 0.0], [200.0, 0.0]], "float32")
    target = np.array([[0.99, 0.0], [0.999, 0.0], [1.0, 0.0]], "float32")
    gap = ops.convert_to_numpy(agreement_gap(ops.log_softmax(logits), target))
    exact = 1 - (target.astype("float64") * np.exp(log_softmax(logits))).sum(-1)
    np.testing.assert_allclose(gap, exact, rtol=1e-4, atol=1e-12)
    variable = tf.Variable(logits[2:])
    with tf.GradientTape() as tape:
        value = early_learning_term(ops.log_softmax(variable), target[2:])
    assert float(value[0]) == pytest.approx(np.log(FLOOR))
    assert np.abs(tape.gradient(value, variable)).max() == 0


def test_targets_are_the_weighted_sum_of_all_predictions():
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(3), (7, 4, 5)).astype("float32")
    target = np.zeros((4, 5, 3), "float32")
    for each in p:
        target = next_target(target, each, 0.7)
    weights = 0.3 * 0.7 ** np.arange(6, -1, -1)
    np.testing.assert_allclose(target, np.einsum("n,n...->...", weights, p), atol=1e-6)
    np.testing.assert_allclose(target.sum(-1), 1 - 0.7**7, atol=1e-6)


def test_settings_go_through_keras_and_bad_ones_are_refused():
    model = EarlyLearning(momentum=0.9, weight=7.0, storage="float16")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert again.get_config() == model.get_config()
    for wrong in (
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"store": "none"},
        {"storage": "uint8"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EarlyLearning(**wrong)


def test_weight_zero_is_cross_entropy():
    logits, target = problem(4)
    yhat = np.eye(3, dtype="float32")[np.random.default_rng(0).integers(0, 3, (3, 4, 5))]
    log_p = ops.log_softmax(logits)
    found = EarlyLearning(weight=0.0).pixel_loss(log_p, target, yhat)
    np.testing.assert_allclose(found, -(yhat * log_softmax(logits)).sum(-1), rtol=1e-5, atol=1e-6)
