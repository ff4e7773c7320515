"""Hypergradients agree with differences of problems that are solved again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from classifier_cases import difference, problem
from numpy.testing import assert_allclose

from keras_robustseg.classifiers import PixelLogisticRegression, PixelSVM
from keras_robustseg.classifiers._linear import conjugate_gradients
from keras_robustseg.optimize import Status
from keras_robustseg.risk import DivergenceBall

GROUPS = [0, 0, 1, 2]
MODELS = {
    "multinomial": (PixelLogisticRegression(0.05), 3),
    "per class": (PixelLogisticRegression([0.02, 0.05, 0.1], feature_penalty=[1, 2, 1, 3]), 3),
    "two columns": (PixelLogisticRegression(0.05, formulation="multinomial"), 2),
    "binary": (PixelLogisticRegression(np.full((4, 1), 0.03), reduction="weighted_mean"), 2),
    "elastic net": (PixelLogisticRegression(0.01, l1=0.03, class_weight=[1, 2, 3]), 3),
    "lasso": (PixelLogisticRegression(0.0, l1=0.02, reduction="weighted_mean"), 2),
    "group": (PixelLogisticRegression(1e-3, group=[0.05, 0.1, 0.05], groups=GROUPS), 3),
    "sparse group": (PixelLogisticRegression(1e-3, l1=0.01, group=0.03, groups=GROUPS), 3),
    "hinge": (PixelSVM("hinge", 0.05), 2),
    "hinge, three": (PixelSVM("hinge", [0.05, 0.1, 0.2], reduction="weighted_mean"), 3),
    "squared hinge": (PixelSVM("squared_hinge", 0.05, class_weight=[1, 2, 1]), 3),
    "squared hinge, l1": (PixelSVM("squared_hinge", 0.01, l1=0.05), 2),
    "crammer_singer": (PixelSVM("crammer_singer", 0.05, class_weight=[1, 2, 1]), 3),
}
each = pytest.mark.parametrize("name", MODELS)


def data(classes: int, rng: np.random.Generator) -> tuple[Any, ...]:
    X, y = problem(rng, 70, 4, classes)
    return X, y, rng.uniform(0.5, 2.0, len(y)), problem(rng, 40, 4, classes)


@each
def test_of_penalties_and_class_weights(name, rng):
    model, classes = MODELS[name]
    X, y, weight, validation = data(classes, rng)
    model.set_params(class_weight=model.class_weight or np.ones(classes))
    model.set_params(feature_penalty=model.feature_penalty or np.ones(4))
    found = model.fit(X, y, weight).hypergradient(*validation)
    assert model.hypergradient_info_.status == Status.OK
    for argument in set(found) - {"sample_weight", "soft_labels"}:
        given = getattr(model, argument)
        if not np.all(given):
            continue  # differences would need a negative penalty
        along = rng.normal(size=np.shape(given)) if np.ndim(given) else np.array(1.0)

        def value(moved, argument=argument):
            again = type(model)(**{**model.get_params(), argument: moved})
            return again.fit(X, y, weight).validation_loss(*validation)

        exact = np.vdot(found[argument], along)
        assert_allclose(exact, difference(value, given, along), rtol=1e-5, atol=1e-9)


@each
def test_of_weights_and_labels(name, rng):
    model, classes = MODELS[name]
    X, y, weight, validation = data(classes, rng)
    soft = 0.8 * np.eye(classes)[y] + 0.2 * rng.dirichlet(np.ones(classes), len(X))
    found = model.fit(X, soft, weight).hypergradient(*validation)
    along = rng.normal(size=len(X))
    turn = rng.normal(size=soft.shape)
    turn = (turn - turn.mean(axis=1, keepdims=True)) * soft.min(axis=1, keepdims=True)

    def by_weight(moved):
        return model.fit(X, soft, moved).validation_loss(*validation)

    def by_labels(moved):
        return model.fit(X, moved, weight).validation_loss(*validation)

    exact = np.vdot(found["sample_weight"], along)
    assert_allclose(exact, difference(by_weight, weight, along), rtol=1e-4, atol=1e-8)
    exact = np.vdot(found["soft_labels"], turn)
    assert_allclose(exact, difference(by_labels, soft, turn), rtol=1e-4, atol=1e-9)


def test_with_conjugate_gradients_it_is_the_same(rng, monkeypatch):
    X, y = problem(rng, 200, 6, 3)
    validation = problem(rng, 50, 6, 3)
    model = PixelLogisticRegression(0.01)
    coef = model.fit(X, y).coef_
    exact = model.hypergradient(*validation)
    for module in ("_newton", "_adjoint"):
        monkeypatch.setattr(f"keras_robustseg.classifiers.{module}.DENSE", 5)
    assert_allclose(model.fit(X, y).coef_, coef, rtol=1e-7)
    for name, value in model.hypergradient(*validation).items():
        assert_allclose(value, exact[name], rtol=1e-6, atol=1e-10)


def test_near_a_kink_the_status_says_so(rng):
    X, y = problem(rng, 100, 3, 2)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    share = y.mean()
    largest = np.abs(X.T @ (y - share)).max() / len(y)
    model = PixelLogisticRegression(0.0, l1=largest, fit_intercept=True).fit(X, y)
    assert_allclose(model.coef_, 0.0, atol=1e-9)
    with pytest.warns(RuntimeWarning, match="NEAR_KINK"):
        model.hypergradient(X, y, names=["l1"])
    assert model.hypergradient_info_.status == Status.NEAR_KINK


def test_names_and_gradients_are_checked(rng):
    X, y = problem(rng)
    model = PixelLogisticRegression()
    with pytest.raises(ValueError, match="not fitted"):
        model.hypergradient(X, y)
    model.fit(X, y)
    with pytest.raises(ValueError, match="no hypergradient for \\['l1'\\]"):
        model.hypergradient(X, y, names=["l1"])
    with pytest.raises(ValueError, match="no pixel that counts"):
        model.hypergradient(X, np.full(len(X), -1))
    assert set(model.hypergradient((X, y), names=["l2"])) == {"l2"}


def test_a_warm_adjoint_takes_fewer_steps_to_the_same_derivative(monkeypatch):
    monkeypatch.setattr("keras_robustseg.classifiers._adjoint.DENSE", 2)  # conjugate gradients
    X, y = problem(np.random.default_rng(0), 200, 8)
    held = problem(np.random.default_rng(1), 60, 8)
    counts = []

    def counted(matvec, *rest):
        applied = []
        found = conjugate_gradients(lambda v: (applied.append(1), matvec(v))[1], *rest)
        counts.append(len(applied))
        return found

    monkeypatch.setattr("keras_robustseg.classifiers._adjoint.conjugate_gradients", counted)
    warm = PixelLogisticRegression(l2=1e-2, warm_start=True).fit(X, y)
    warm.hypergradient(*held, names=["l2"])
    found = warm.set_params(l2=1.0000001e-2).fit(X, y).hypergradient(*held, names=["l2"])["l2"]
    cold = PixelLogisticRegression(l2=1.0000001e-2).fit(X, y).hypergradient(*held, names=["l2"])
    np.testing.assert_allclose(found, cold["l2"], rtol=1e-8)
    assert counts[1] < 0.8 * counts[0] <= counts[2]


def test_a_fit_with_a_risk_says_why_it_has_no_hypergradient():
    X, y = problem(np.random.default_rng(0), 60, 3, 2)
    model = PixelLogisticRegression(risk=DivergenceBall("kl", 0.1)).fit(X, y)
    with pytest.raises(ValueError, match="Expected risk=None"):
        model.hypergradient(X, y, names=["l2"])
