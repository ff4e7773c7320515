"""The generalised Jensen-Shannon loss against the problem it solves, SciPy, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import approx_fprime, minimize
from scipy.spatial.distance import jensenshannon
from scipy.special import entr, log_softmax, rel_entr, softmax

from keras_robustseg import losses
from keras_robustseg.losses import generalized_jensen_shannon


def closed_form(logits, labels, trust, entropy=0.0):
    """(1/C + alpha) GJS_w + (beta/C) H(p) in float64, from entropies."""
    p, classes = softmax(logits), len(logits)
    q = (1 - trust) * p + trust * labels
    alpha = trust / ((1 - trust) * classes)
    divergence = entr(q).sum() - trust * entr(labels).sum() - (1 - trust) * entr(p).sum()
    return (1 / classes + alpha) * divergence + entropy / classes * entr(p).sum()


def pencil_problem(logits, labels, trust):
    """min over q of (1/C) KL(p || q) + alpha CE(y, q) - alpha H(y), by a general solver."""
    p, classes = softmax(logits), len(logits)
    alpha = trust / ((1 - trust) * classes)

    def cost(q_logits):
        log_q = log_softmax(q_logits)
        divergence = rel_entr(p, np.exp(log_q)).sum() / classes
        return divergence - alpha * labels @ log_q - alpha * entr(labels).sum()

    return minimize(cost, np.log(p + 0.1), method="BFGS", options={"gtol": 1e-9}).fun


def cases(rng):
    """Logits and labels, hard and soft, for several numbers of classes."""
    for classes in (2, 3, 6):
        for labels in (np.eye(classes)[rng.integers(classes)], rng.dirichlet(np.ones(classes))):
            yield rng.normal(0, 2, classes), labels


def loss_of(logits, labels, **options):
    log_p = tf.nn.log_softmax(tf.constant(logits, "float32"))
    return generalized_jensen_shannon(log_p, tf.constant(labels, "float32"), **options)


def gradient_of(logits, labels, **options):
    logits = tf.constant(logits, "float32")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss_of(logits, labels, **options)
    return tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("trust", [0.01, 0.17, 0.5, 0.95])
def test_is_the_least_cost_of_pencils_label_problem(rng, trust):
    for logits, labels in cases(rng):
        found = float(loss_of(logits, labels, trust=trust))
        assert found == pytest.approx(pencil_problem(logits, labels, trust), rel=1e-4, abs=1e-6)
        assert found == pytest.approx(closed_form(logits, labels, trust), rel=1e-5, abs=1e-7)


def test_at_one_half_is_the_jensen_shannon_divergence_of_scipy(rng):
    for logits, labels in cases(rng):
        expected = jensenshannon(softmax(logits), labels) ** 2 * 2 / len(logits)
        found = float(loss_of(logits, labels, trust=0.5))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("entropy", [0.0, 0.4])
@pytest.mark.parametrize("trust", [0.17, 0.8])
def test_gradient_is_that_of_the_closed_form_and_of_the_envelope(rng, trust, entropy):
    for logits, labels in cases(rng):
        found = gradient_of(logits, labels, trust=trust, entropy=entropy)
        slope = approx_fprime(logits, closed_form, 1e-7, labels, trust, entropy)
        np.testing.assert_allclose(found, slope, rtol=1e-3, atol=2e-6)
        q = (1 - trust) * softmax(logits) + trust * labels

        def envelope(z, q=q):
            return (rel_entr(softmax(z), q) + entropy * entr(softmax(z))).sum() / len(z)

        slope = approx_fprime(logits, envelope, 1e-7)
        np.testing.assert_allclose(found, slope, rtol=1e-3, atol=2e-6)


def test_tends_to_cross_entropy_for_little_trust(rng):
    trust = 1e-5
    for logits, labels in cases(rng):
        alpha = trust / ((1 - trust) * len(logits))
        # -alpha H(y) is in the loss: the limit is KL(y || p), cross-entropy for hard labels.
        expected = rel_entr(labels, softmax(logits)).sum()
        found = float(loss_of(logits, labels, trust=trust)) / alpha
        assert found == pytest.approx(expected, rel=2e-3)


def test_tends_to_the_absolute_error_for_much_trust(rng):
    rest = 1e-6
    p = rng.uniform(0.05, 0.95, 8)
    logits, labels = np.stack([np.log(p), np.log1p(-p)], -1), np.tile([1.0, 0.0], (8, 1))
    # GJS_w -> -(1 - w) log(1 - w) (1 - p_y), and 1 - p_y is half the absolute error.
    scale = 1 / 2 * -np.log(rest)
    found = loss_of(logits, labels, trust=1 - rest).numpy() / scale
    np.testing.assert_allclose(found, 1 - p, atol=0.7 / -np.log(rest))


def test_is_bounded_and_zero_only_where_prediction_and_label_agree(rng):
    trust = 0.3
    logits = 40 * rng.normal(size=(50, 3))
    labels = np.eye(3)[rng.integers(3, size=50)]
    found = loss_of(logits, labels, trust=trust).numpy()
    bound = (entr(trust) + entr(1 - trust)) / (3 * (1 - trust))
    assert (found >= 0).all()
    assert (found <= bound * (1 + 1e-5)).all()
    soft = rng.dirichlet(np.ones(3), 50)
    np.testing.assert_allclose(loss_of(np.log(soft), soft, trust=trust), 0, atol=1e-6)


def test_never_overflows_however_wrong_the_prediction():
    trust = 0.3
    for size in (1e2, 1e4, 1e30):
        found = float(loss_of([size, -size], [0.0, 1.0], trust=trust))
        expected = (entr(trust) + entr(1 - trust)) / (2 * (1 - trust))
        assert found == pytest.approx(expected, rel=1e-5)
        assert np.isfinite(gradient_of([size, -size], [0.0, 1.0], trust=trust)).all()


@pytest.mark.parametrize("trust", [0.0, 1.0, -0.1, float("nan")])
def test_trust_out_of_range_is_refused(trust):
    with pytest.raises(ValueError, match="trust"):
        losses.GeneralizedJensenShannon(trust=trust)


@pytest.mark.parametrize("entropy", [-0.1, 1.0, float("nan")])
def test_entropy_out_of_range_is_refused(entropy):
    with pytest.raises(ValueError, match="entropy"):
        losses.GeneralizedJensenShannon(trust=0.5, entropy=entropy)
