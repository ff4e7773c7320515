"""ADELE's parts: the fitted curve, the gates, the correction, the scales."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import zoom
from scipy.optimize import curve_fit
from scipy.spatial.distance import jensenshannon

from keras_robustseg.labels import Adele, memorization_begins
from keras_robustseg.labels._adele import (
    confident_pixels,
    corrected_classes,
    log_mean,
    resize_linear,
    scale_divergence,
)
from keras_robustseg.labels._memorization import Curve, fit_curve


@pytest.mark.parametrize("planted", [(0.8, 0.7, 2.0), (0.95, 1.0, 6.0), (0.5, 0.4, 0.8)])
def test_the_fit_finds_planted_numbers(planted):
    t = np.arange(1, 25)
    found = fit_curve(Curve(*planted).value(t))
    np.testing.assert_allclose(found, planted, rtol=1e-3)


def test_the_fit_agrees_with_scipy_on_noisy_curves():
    rng = np.random.default_rng(0)
    t = np.arange(1.0, 31)
    for planted in [(0.8, 0.8, 3.0), (0.6, 0.9, 5.0)]:
        y = Curve(*planted).value(t) + rng.normal(0, 0.01, len(t))
        sigma = np.geomspace(1.0, 0.1, len(t))
        witness, _ = curve_fit(
            lambda x, a, b, c: a * (1 - np.exp(-(x**b) / c)),
            t,
            y,
            p0=(0.7, 0.7, 1.0),
            sigma=sigma,
            bounds=([0, 1e-3, 1e-4], [1, 1, 1e4]),
        )
        np.testing.assert_allclose(fit_curve(y), witness, rtol=5e-3)


def test_the_slope_is_the_derivative():
    curve = Curve(0.7, 0.6, 1.7)
    t, step = np.array([1.0, 4.0, 9.0]), 1e-6
    numeric = (curve.value(t + step) - curve.value(t - step)) / (2 * step)
    np.testing.assert_allclose(curve.slope(t), numeric, rtol=1e-6)


def test_memorisation_begins_when_the_slope_has_dropped():
    curve = Curve(0.9, 1.0, 5.0)  # slope exp(-(t-1)/5) of the first: a tenth at t = 12.5
    y = curve.value(np.arange(1, 30))
    assert not memorization_begins(y[:12])
    assert memorization_begins(y[:13])
    late = np.concatenate([np.full(6, 1e-4), y])
    assert not memorization_begins(late[:18])
    assert memorization_begins(late[:20])
    for empty in ([], [0.0] * 9, [0.5], [0.3, 0.3, 0.3]):
        assert not memorization_begins(empty)


def test_the_gate_is_of_pixels():
    rng = np.random.default_rng(1)
    image = np.full((4, 25, 10, 2), 0.5)
    sure = rng.choice(1000, 16, replace=False)
    image.reshape(1000, 2)[sure] = [0.05, 0.95]
    gate = ops.convert_to_numpy(confident_pixels(image, 0.8))
    assert gate.mean() == pytest.approx(0.016)
    assert set(np.flatnonzero(gate)) == set(sure)


@pytest.mark.parametrize("constraint", [True, False])
def test_correction_against_a_loop(constraint):
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.full(4, 0.3), (3, 5, 6)).astype("float32")
    given = rng.choice(4, (3, 5, 6), p=[0.6, 0.2, 0.2, 0.0])
    correcting = np.array([0, 1, 0, 1])
    present = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0]])
    found, classes = corrected_classes(
        p, given, correcting, present if constraint else None, confidence=0.7
    )
    found, classes = ops.convert_to_numpy(found), ops.convert_to_numpy(classes)
    for place in np.ndindex(given.shape):
        best = int(p[place].argmax())
        begun = given[place] in (0, 1, 3) and best in (0, 1, 3)
        there = not constraint or best == 0 or present[place[0], best]
        assert found[place] == (begun and there and p[place].max() > 0.7)
        assert classes[place] == best


def test_nothing_is_corrected_before_a_class_has_begun():
    p = np.full((1, 2, 2, 2), [0.99, 0.01], "float32")
    found, _ = corrected_classes(p, np.ones((1, 2, 2), int), np.zeros(2), None, confidence=0.8)
    assert not ops.convert_to_numpy(found).any()


def test_the_divergence_is_scipys_jensen_shannon():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), (2, 4, 5)).astype("float32")
    log_ps = [np.log(each) for each in p]
    found = ops.convert_to_numpy(scale_divergence(log_ps, log_mean(log_ps)))
    np.testing.assert_allclose(found, jensenshannon(p[0], p[1], axis=-1) ** 2, atol=2e-6)
    np.testing.assert_allclose(np.exp(log_mean(log_ps)), p.mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((6, 5), (9, 8)), ((7, 9), (5, 6)), ((4, 3, 5), (6, 5, 4))]
)
def test_resizing_is_linear_between_pixel_centres(shape, sizes):
    values = np.random.default_rng(4).normal(size=(1, *shape, 2)).astype("float32")
    found = ops.convert_to_numpy(resize_linear(values, sizes))
    factors = [n / o for n, o in zip(sizes, shape, strict=True)]
    witness = zoom(values, (1, *factors, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, witness, atol=1e-5)
    flat = ops.convert_to_numpy(resize_linear(np.ones((1, *shape, 1), "float32"), sizes))
    np.testing.assert_allclose(flat, 1.0, rtol=1e-6)


def test_settings_go_through_keras_and_bad_ones_are_refused():
    model = Adele(confidence=0.7, scales=(0.5, 1.0), repeat=False, class_constraint=False)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert again.get_config() == model.get_config()
    for wrong in (
        {"confidence": 1.0},
        {"slope_drop": 0.0},
        {"gate": 1.0},
        {"consistency": -1.0},
        {"scales": (0.5, 2.0)},
        {"scales": (1.0, 0.0)},
        {"store": "none"},
        {"storage": "uint8"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Adele(**wrong)
