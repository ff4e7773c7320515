"""Hypergradients of networks against those of the network trained to convergence."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_robustseg import losses
from keras_robustseg.training import RobustSegmenter
from keras_robustseg.tuning import Hyperparameter, NetworkTuner, neumann_hypergradient
from keras_robustseg.tuning._network import _assign, _flat


def images(seed, count, flips=0.0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (count, 4, 4))
    centres = np.random.default_rng(7).normal(size=(3, 2))
    x = centres[truth] + 0.7 * rng.normal(size=(count, 4, 4, 2))
    wrong = rng.random(truth.shape) < flips
    return x.astype("float32"), np.where(wrong, (truth + 1) % 3, truth)


def test_many_terms_of_a_quadratic_are_its_hypergradient():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    H, b, back = root @ root.T + np.eye(5), rng.normal(size=5), rng.normal(size=5)
    at = np.linalg.solve(H, 0.7 * b)
    found = neumann_hypergradient(lambda w, v: H @ w - v["h"] * b, at, {"h": 0.7}, back, terms=2000)
    np.testing.assert_allclose(found["h"], back @ np.linalg.solve(H, b), rtol=1e-6)
    once = neumann_hypergradient(
        lambda w, v: H @ w - v["h"] * b, at, {"h": 0.7}, back, terms=0, step=0.1
    )
    np.testing.assert_allclose(once["h"], 0.1 * back @ b, rtol=1e-6)


def small_network():
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(0.01)
    layer = keras.layers.Conv2D(3, 1, kernel_regularizer=penalty, bias_regularizer=penalty)
    inputs = keras.Input((4, 4, 2))
    return RobustSegmenter(keras.Model(inputs, layer(inputs)))


def converged(tuner, model, data, weights):
    """Newton's method, with the Hessian by differences of the gradient."""
    for _ in range(12):
        slope = tuner._loss_and_slope(weights, model.loss, data, True)[1]
        if np.abs(slope).max() < 2e-7:
            return weights
        pairs = [
            tuner._loss_and_slope(weights + step, model.loss, data, True)[1]
            for unit in 1e-2 * np.eye(len(weights))
            for step in (unit, -unit)
        ]
        hessian = (np.stack(pairs[::2]) - np.stack(pairs[1::2])) / 2e-2
        move = np.linalg.solve((hessian + hessian.T) / 2, slope)
        weights = weights - move * min(1.0, 1.0 / np.linalg.norm(move))
    raise AssertionError("not converged")


@pytest.mark.slow
def test_error_on_a_small_network_trained_to_convergence():
    model, noisy, clean = small_network(), images(0, 20, 0.3), images(1, 20)
    model.compile("sgd", losses.GeneralizedJensenShannon(0.4, entropy=0.1))
    tuner = NetworkTuner([Hyperparameter("trust", "sigmoid")], clean, noisy)
    tuner.set_model(model)
    at = converged(tuner, model, noisy, _flat(model.trainable_variables))
    ends = []
    for trust in (0.45, 0.35):
        tuner._set({"trust": trust})
        weights = converged(tuner, model, noisy, at)
        ends.append(tuner._loss_and_slope(weights, losses.CrossEntropy(), clean)[0])
    expected = (ends[0] - ends[1]) / 0.1
    tuner._set({"trust": 0.4})
    _assign(model.trainable_variables, at)
    errors = {}
    for tuner.terms in (0, 20):
        found = tuner.hypergradient()[1]["trust"]
        errors[tuner.terms] = abs(found - expected) / abs(expected)
    print({terms: f"{error:.4f}" for terms, error in errors.items()})
    assert errors[20] < 0.02
    assert 0.3 < errors[0] < 0.8
    np.testing.assert_array_equal(_flat(model.trainable_variables), at.astype("float32"))


def test_callback_moves_the_parameters_of_the_loss_while_training():
    model, noisy, clean = small_network(), images(0, 20, 0.3), images(1, 20)
    loss = losses.GeneralizedJensenShannon(0.4)
    model.compile("adam", loss)
    tuner = NetworkTuner(
        [Hyperparameter("trust", "sigmoid", bounds=(0.01, 0.99))], clean, noisy, terms=3, every=2
    )
    model.fit(*noisy, epochs=4, verbose=0, callbacks=[tuner])
    assert [step.epoch for step in tuner.steps_] == [1, 3]
    first, last = tuner.steps_
    assert loss.trust == last.values["trust"] != first.values["trust"] != 0.4
    assert np.sign(0.4 - first.values["trust"]) == np.sign(first.gradient[0])


def test_bad_arguments():
    data = images(0, 4)
    with pytest.raises(ValueError, match="method"):
        NetworkTuner([Hyperparameter("trust")], data, data, method="exact")
    with pytest.raises(ValueError, match="every"):
        NetworkTuner([Hyperparameter("trust")], data, data, every=0)
    model = small_network()
    model.compile("sgd", losses.CrossEntropy())
    with pytest.raises(ValueError, match="'trust' to be a number of the compiled loss"):
        model.fit(*data, verbose=0, callbacks=[NetworkTuner([Hyperparameter("trust")], data, data)])
