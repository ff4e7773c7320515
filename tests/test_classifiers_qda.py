"""Discriminant analysis: scikit-learn, closed forms and finite differences as witnesses."""

from __future__ import annotations

import pickle

import keras
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.covariance import graphical_lasso as sklearn_glasso
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)

from keras_robustseg.classifiers import PixelQDA


def gaussians(seed, count, features=4, classes=3):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    roots = rng.normal(size=(classes, features, features)) + np.eye(features)
    x = np.einsum("nf,nfg->ng", rng.normal(size=(count, features)), roots[y])
    return x + rng.normal(size=(classes, features))[y], y


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("features", "classes"), [(1, 2), (4, 3), (7, 2)])
def test_empirical_agrees_with_scikit_learn(shared, features, classes):
    x, y = gaussians(features, 300, features, classes)
    rival = LinearDiscriminantAnalysis() if shared else QuadraticDiscriminantAnalysis()
    rival.fit(x, 3 * y + 1)
    ours = PixelQDA("empirical", shared_covariance=shared).fit(x, 3 * y + 1)
    fresh = np.random.default_rng(1).normal(size=(50, features))
    np.testing.assert_allclose(ours.predict_proba(fresh), rival.predict_proba(fresh), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(fresh), rival.predict(fresh))
    assert ours.score(x, 3 * y + 1) == pytest.approx(rival.score(x, 3 * y + 1))
    if classes == 2:
        np.testing.assert_allclose(
            ours.decision_function(fresh), rival.decision_function(fresh), rtol=1e-7
        )


def test_weights_are_repetitions_and_soft_labels_are_weights():
    x, y = gaussians(0, 60)
    weight = np.random.default_rng(1).integers(0, 4, 60)
    ours = PixelQDA("empirical").fit(x, y, weight)
    again = PixelQDA("empirical").fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(ours.precision_, again.precision_, rtol=1e-9)
    soft = PixelQDA("empirical").fit(x, np.eye(3)[y], weight)
    np.testing.assert_allclose(ours.predict_proba(x), soft.predict_proba(x), rtol=1e-12)


def test_void_pixels_are_not_read():
    x, y = gaussians(0, 80)
    plain = PixelQDA("empirical").fit(x[10:], y[10:])
    x[:10], y[:10] = np.nan, -1
    void = PixelQDA("empirical").fit(x.reshape(8, 10, 4), y.reshape(8, 10))
    np.testing.assert_allclose(void.precision_, plain.precision_, rtol=1e-12)
    assert void.hypergradient(x[10:], y[10:])["sample_weight"].shape == (8, 10)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("priors", [None, [0.2, 0.5, 0.3]])
def test_gradient_to_weights_agrees_with_finite_differences(shared, priors):
    x, y = gaussians(0, 110)
    x, y, clean = x[:70], y[:70], (x[70:], y[70:])
    weight = np.random.default_rng(2).uniform(0.5, 2, 70)
    options = {"shared_covariance": shared, "priors": priors}
    found = PixelQDA("empirical", **options).fit(x, y, weight).hypergradient(*clean)
    for i in range(0, 70, 9):
        step = 1e-5 * np.eye(70)[i]
        above, below = (
            PixelQDA("empirical", **options).fit(x, y, w).validation_loss(*clean)
            for w in (weight + step, weight - step)
        )
        slope = (above - below) / 2e-5
        np.testing.assert_allclose(found["sample_weight"][i], slope, rtol=1e-5, atol=1e-9)


NOISY = {"precision": "robust", "sigma2": 0.02, "nuclear": 0.01, "l1": 0.02}


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "glasso", "l1": 0.05},
        {**NOISY, "shared_covariance": True},
        pytest.param(NOISY, marks=pytest.mark.slow),
        pytest.param(
            {**NOISY, "sigma2": [0.05, 0.0], "nuclear": [0.01, 0.02], "l1": [0.02, 0.1]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_hypergradients_of_precision_models_agree_with_finite_differences(options):
    x, y = gaussians(0, 200, classes=2)
    x, y, clean = x[:150] / 3, y[:150], (x[150:] / 3, y[150:])

    def fit(weight=None, **changed):
        return PixelQDA(tol=1e-10, max_iter=999, **{**options, **changed}).fit(x, y, weight)

    fitted = fit()
    found = fitted.hypergradient(*clean)
    assert np.all(fitted.hypergradient_info_.status == 0)
    for name in set(found) - {"sample_weight"}:
        step = 1e-5 * np.eye(2)[0] if np.ndim(options[name]) else 1e-5
        above, below = (
            fit(**{name: np.asarray(options[name]) + sign * step}).validation_loss(*clean)
            for sign in (1, -1)
        )
        slope = found[name][0] if np.ndim(options[name]) else found[name]
        np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-4)
    step = 1e-4 * np.eye(150)[3]
    above, below = (fit(1 + sign * step).validation_loss(*clean) for sign in (1, -1))
    np.testing.assert_allclose(found["sample_weight"][3], (above - below) / 2e-4, rtol=1e-4)


def test_robust_without_noise_is_the_graphical_lasso():
    x, y = gaussians(0, 200)
    robust = PixelQDA("robust", sigma2=0.0, nuclear=0.0, l1=0.2).fit(x, y)
    glasso = PixelQDA("glasso", l1=0.2).fit(x, y)
    np.testing.assert_allclose(robust.precision_, glasso.precision_, rtol=1e-6)
    for k, covariance in enumerate(glasso.covariance_):
        _, rival = sklearn_glasso(covariance, alpha=0.2, tol=1e-8, enet_tol=1e-12, max_iter=2000)
        np.testing.assert_allclose(glasso.precision_[k], rival, rtol=1e-4, atol=1e-6)


def test_noise_in_training_is_taken_out():
    x, y = gaussians(3, 6000, features=3)
    noise = np.sqrt(0.3) * np.random.default_rng(4).normal(size=(4000, 3))
    train, truth = (x[:4000] + noise, y[:4000]), (x[4000:], y[4000:])
    plain = PixelQDA("empirical").fit(*train)
    robust = PixelQDA("robust", sigma2=0.3, nuclear=1e-3, l1=1e-3).fit(*train)
    oracle = PixelQDA("empirical").fit(x[:4000], y[:4000])
    losses = [model.validation_loss(*truth) for model in (plain, robust, oracle)]
    assert losses[1] - losses[2] < 0.3 * (losses[0] - losses[2])


def test_layer_gives_the_probabilities_and_is_saved(tmp_path):
    x, y = gaussians(0, 90)
    ours = PixelQDA("empirical").fit(x, y)
    images = keras.Input((None, None, 4))
    model = keras.Model(images, keras.layers.Softmax()(ours.as_layer("scores")(images)))
    shaped = x.reshape(2, 9, 5, 4)
    np.testing.assert_allclose(np.asarray(model(shaped)), ours.predict_proba(shaped), atol=2e-6)
    model.save(tmp_path / "qda.keras")
    again = keras.saving.load_model(tmp_path / "qda.keras")
    np.testing.assert_array_equal(np.asarray(again(shaped)), np.asarray(model(shaped)))


def test_scikit_learn_clones_it():
    copy = clone(PixelQDA("glasso", l1=0.3))
    assert copy.get_params()["l1"] == 0.3
    with pytest.raises(ValueError, match="Invalid parameter"):
        copy.set_params(lam=1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x, y: (x, np.where(y == 2, 1, y) + 4 * (np.arange(30) == 0)), {}, "Class .* small"),
        (lambda x, y: (x * [1, 0, 1, 1], y), {}, "Class 0: feature 1 is constant"),
        (lambda x, y: (x[:, [0, 1, 2, 2]], y), {}, "Class 0: the covariance .* singular"),
        (lambda x, y: (x[:9], np.arange(9) % 3), {}, "Class 0: the covariance .* singular"),
        (lambda x, y: (x, y), {"precision": "inverse"}, "precision"),
        (lambda x, y: (x, y), {"precision": "glasso", "l1": -1.0}, "l1"),
        (lambda x, y: (x, y), {"precision": "robust", "sigma2": [1.0]}, "sigma2"),
        (lambda x, y: (x, y), {"priors": [0.5, 0.6, 0.1]}, "priors"),
        (lambda x, y: (x, np.zeros_like(y)), {}, "2 classes"),
        (lambda x, y: (np.where(x > 1, np.nan, x), y), {}, "column"),
    ],
)
def test_bad_input_says_which_class_or_argument(change, options, message):
    x, y = gaussians(0, 30)
    with pytest.raises(ValueError, match=message):
        PixelQDA(**{"precision": "empirical", **options}).fit(*change(x, y))


def test_a_class_whose_weights_are_zero_is_named():
    x, y = gaussians(0, 30)
    with pytest.raises(ValueError, match="Class 2 is missing"):
        PixelQDA("empirical").fit(x, np.eye(3)[y], (y != 2).astype(float))


def test_not_fitted():
    with pytest.raises(ValueError, match="not fitted"):
        PixelQDA().predict(np.zeros((2, 3)))
    x, y = gaussians(0, 60)
    fitted = PixelQDA("empirical").fit(x, y)
    with pytest.raises(ValueError, match="names out of"):
        fitted.hypergradient(x, y, names=["l1"])


def test_a_pickle_holds_no_pixels_and_predicts_the_same():
    x, y = gaussians(0, 3000)
    model = PixelQDA("empirical").fit(x, y)
    text = pickle.dumps(model)
    assert len(text) < 5000 < x.nbytes
    copy = pickle.loads(text)
    np.testing.assert_array_equal(copy.predict_proba(x[:50]), model.predict_proba(x[:50]))
    with pytest.raises(ValueError, match="no training data"):
        copy.hypergradient(x, y, names=["sample_weight"])
    assert model.hypergradient(x, y)["sample_weight"].shape == (3000,)
