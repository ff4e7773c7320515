"""The tuner with the classifiers of this package."""

from __future__ import annotations

import numpy as np
import pytest
from tuning_cases import annotated, pixels

from keras_robustseg.classifiers import PixelLogisticRegression, PixelQDA, PixelSVM
from keras_robustseg.tuning import BilevelTuner, Hyperparameter
from keras_robustseg.tuning._data import Data
from keras_robustseg.tuning._unrolled import Unrolled

NAMES = ("l2", "l1", "feature_penalty", "class_weight", "sample_weight")


def test_images_with_one_annotator_each():
    x, y, _, _ = annotated(0, 480, classes=3)
    x, y = x.reshape(12, 8, 5, 4), y.reshape(12, 8, 5)
    clean = pixels(1, 90, classes=3)
    weights = Hyperparameter("sample_weight", transform="sigmoid", per="annotator")
    tuner = BilevelTuner(PixelQDA("empirical"), [weights], clean, steps=5)
    tuner.fit(x, y, groups=np.arange(12) % 4)
    assert tuner.values_["sample_weight"].shape == (4,)
    assert tuner.estimator_.predict(x).shape == (12, 8, 5)
    assert tuner.steps_[-1].loss < tuner.steps_[0].loss


@pytest.mark.parametrize("estimator", [PixelLogisticRegression(), PixelSVM(loss="squared_hinge")])
def test_thirteen_hyperparameters_on_noisy_labels(estimator):
    x, y, who, truth = annotated(0, 600, classes=3)
    clean, test = pixels(1, 120, classes=3), pixels(2, 3000, classes=3)
    parts = [
        Hyperparameter("sample_weight", transform="sigmoid", per="annotator"),
        Hyperparameter("l2", initial=1e-2, per="class"),
    ]
    tuner = BilevelTuner(estimator, parts, clean, steps=40, learning_rate=0.3)
    tuner.fit(x, y, groups=who)
    assert tuner.values_["sample_weight"][:4].max() < 0.1
    assert tuner.values_["l2"].shape == (3,)
    best = type(estimator)(**estimator.get_params(False)).fit(x, truth)
    assert tuner.estimator_.score(*test) > best.score(*test) - 0.015


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
def test_many_unrolled_steps_are_the_implicit_hypergradient(classes, reduction):
    x, y = pixels(0, 40, classes=classes)
    held = pixels(1, 30, classes=classes)
    weight = np.random.default_rng(0).uniform(0.2, 1, 40)
    scale = 40.0 if reduction == "sum" else 1.0
    fitted = PixelLogisticRegression(
        l2=0.3 * scale,
        l1=0.02 * scale,
        reduction=reduction,
        class_weight=np.linspace(1, 2, classes),
        feature_penalty=np.array([1, 2, 0.5, 1]),
        tol=1e-12,
    ).fit(x, y, weight)
    exact = fitted.hypergradient(*held, names=NAMES)
    data, validation = Data(x, y, weight), Data(*held, np.ones(30))
    near = Unrolled(1500)(fitted, data, validation, NAMES)
    once = Unrolled(1)(fitted, data, validation, NAMES)
    for name in NAMES:
        size = np.linalg.norm(exact[name])
        np.testing.assert_allclose(near[name], exact[name], atol=1e-6 * size)
        assert np.linalg.norm(once[name] - exact[name]) > 0.1 * size


def test_one_step_warns_and_unrolled_knows_logistic_regression_only():
    x, y = pixels(0, 60)
    parts = [Hyperparameter("l2")]
    with pytest.warns(RuntimeWarning, match="one_step"):
        BilevelTuner(PixelLogisticRegression(), parts, 3, "one_step", steps=2).fit(x, y)
    weights = [Hyperparameter("sample_weight", transform="sigmoid", per="sample")]
    with pytest.raises(ValueError, match="PixelLogisticRegression"):
        BilevelTuner(PixelQDA("empirical"), weights, (x, y), "unrolled").fit(x, y)
