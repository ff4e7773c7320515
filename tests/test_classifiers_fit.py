"""Fits agree with scikit-learn's, in every form of input, and say when there is no answer."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from classifier_cases import problem
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC, LinearSVC

from keras_robustseg.classifiers import PixelLogisticRegression, PixelSVM
from keras_robustseg.optimize import Status


def same_coefficients(model, theirs, atol=1e-5):
    assert model.solve_info_.status == Status.OK
    assert_allclose(model.coef_, theirs.coef_, atol=atol)
    assert_allclose(
        model.intercept_, np.broadcast_to(theirs.intercept_, len(model.coef_)), atol=atol
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_logistic_regression_as_in_scikit_learn(classes, as_sparse, rng):
    X, y = problem(rng, 400, 5, classes)
    X = sparse.csr_array(np.where(np.abs(X) > 0.2, X, 0.0)) if as_sparse else X
    weight = rng.uniform(0.2, 2.0, len(y))
    for C in (0.1, 10.0):
        theirs = LogisticRegression(C=C, solver="newton-cg", tol=1e-11, max_iter=1000)
        theirs.fit(X, y, weight)
        model = PixelLogisticRegression(1.0 / (C * len(y))).fit(X, y, weight)
        same_coefficients(model, theirs)
        assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-7)
        assert (model.predict(X) == theirs.predict(X)).all()
        assert_allclose(model.score(X, y, weight), theirs.score(X, y, weight))


@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_sparse_coefficients_as_in_scikit_learn(ratio, rng):
    X, y = problem(rng, 300, 8, 3)
    X = X / X.std(axis=0)
    theirs = LogisticRegression(C=0.1, l1_ratio=ratio, solver="saga", class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.set_params(tol=1e-10, max_iter=50_000).fit(X, y)
    scale = 1.0 / (0.1 * len(y))
    model = PixelLogisticRegression((1.0 - ratio) * scale, l1=ratio * scale)
    model.set_params(class_weight="balanced")
    same_coefficients(model.fit(X, y), theirs)
    assert 0 < (model.coef_ == 0).sum() < model.coef_.size


def test_many_features_are_solved_on_an_active_set(rng, monkeypatch):
    X, y = problem(rng, 200, 30, 3)
    for options in ({"l1": 0.05}, {"group": 0.08, "groups": np.arange(30) // 3}):
        model = PixelLogisticRegression(0.01, **options)
        exact = model.fit(X, y).coef_
        assert (exact == 0).any()
        monkeypatch.setattr("keras_robustseg.classifiers._active_rows.DENSE", 24)
        assert_allclose(model.fit(X, y).coef_, exact, atol=1e-8)
        assert model.solve_info_.status == Status.OK
        monkeypatch.undo()


def test_group_penalty_is_optimal(rng):
    X, y = problem(rng, 200, 6, 3)
    groups, penalty = np.array([0, 0, 1, 1, -1, 2]), np.array([0.02, 0.3, 0.01])
    model = PixelLogisticRegression(0.0, group=penalty, groups=groups).fit(X, y)
    residual = model.predict_proba(X) - np.eye(3)[y]
    slope = X.T @ residual / len(y)
    for group, weight in enumerate(penalty):
        W, pull = model.coef_.T[groups == group], slope[groups == group]
        norm = np.linalg.norm(W)
        if norm == 0:
            assert np.linalg.norm(pull) <= weight
        else:
            assert_allclose(pull, -weight * W / norm, atol=1e-8)
    assert not model.coef_[:, groups == 1].any()
    assert_allclose(slope[groups == -1], 0.0, atol=1e-8)


def test_hinge_as_in_scikit_learn(rng):
    X, y = problem(rng, 150, 4, 2)
    weight = rng.uniform(0.5, 2.0, len(y))
    theirs = SVC(kernel="linear", C=0.7, tol=1e-9).fit(X, y, weight)
    model = PixelSVM("hinge", 1.0 / (0.7 * len(y))).fit(X, y, weight)
    same_coefficients(model, theirs)
    assert (model.predict(X) == theirs.predict(X)).all()
    assert abs(model.solve_info_.duality_gap) < 1e-12


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "crammer_singer"])
def test_without_intercept_as_linear_svc(loss, rng):
    X, y = problem(rng, 150, 4, 3)
    joint = {"multi_class": "crammer_singer"} if loss == "crammer_singer" else {"loss": loss}
    theirs = LinearSVC(
        C=0.5, fit_intercept=False, tol=1e-9, max_iter=10**6, random_state=0, **joint
    ).fit(X, y)
    model = PixelSVM(loss, 1.0 / (0.5 * len(y)), fit_intercept=False).fit(X, y)
    same_coefficients(model, theirs)
    assert (model.predict(X) == theirs.predict(X)).all()


MODELS = (
    PixelLogisticRegression(0.01),
    PixelLogisticRegression(0.01, l1=0.01),
    PixelSVM("hinge", 0.01),
    PixelSVM("squared_hinge", 0.01),
    PixelSVM("crammer_singer", 0.01),
)
each = pytest.mark.parametrize("model", MODELS, ids=repr)


@each
def test_images_void_and_weight_zero_are_not_read(model, rng):
    X, y = problem(rng, 120, 4, 3)
    coef = model.fit(X, y).coef_
    broken = np.full((60, 4), np.nan)
    images = np.concatenate([X, broken]).reshape(2, 9, 10, 4)
    ids = np.concatenate([y, np.full(30, -1), np.full(30, 2)]).reshape(2, 9, 10)
    weight = np.concatenate([np.ones(150), np.zeros(30)]).reshape(2, 9, 10)
    again = clone(model).fit(images, ids, weight)
    assert_allclose(again.coef_, coef, atol=1e-10)
    assert again.predict(images).shape == (2, 9, 10)
    assert again.decision_function(images).shape == (2, 9, 10, 3)
    assert_allclose(again.score(images, ids, weight), model.score(X, y))
    soft = np.where(ids[..., None] < 0, 0.0, np.eye(3)[ids]).astype("float32")
    assert_allclose(again.fit(images, soft, weight).coef_, coef, atol=1e-9)


@each
def test_weights_are_repetitions_and_soft_labels_shares(model, rng):
    X, y = problem(rng, 80, 3, 3)
    times = rng.integers(1, 4, 80)
    model = clone(model).set_params(reduction="sum", l2=1.0)
    repeated = model.fit(np.repeat(X, times, axis=0), np.repeat(y, times)).coef_
    assert_allclose(model.fit(X, y, times).coef_, repeated, atol=1e-7)
    two = np.stack([y, (y + times) % 3])
    halves = model.fit(np.tile(X, (2, 1)), two.ravel(), np.full(160, 0.5)).coef_
    assert_allclose(model.fit(X, np.eye(3)[two].mean(axis=0)).coef_, halves, atol=1e-7)


@pytest.mark.parametrize("model", MODELS[:2] + MODELS[3:4], ids=repr)
def test_blocks_give_the_same(model, rng):
    X, y = problem(rng, 300, 4, 3)
    y[7] = -1
    weight = rng.uniform(0.5, 1.5, 300)
    whole = clone(model).set_params(class_weight="balanced").fit(X, y, weight)
    ends = [(0, 10), (10, 200), (200, 300)]
    blocks = [(X[a:b], y[a:b], weight[a:b]) for a, b in ends]
    for given in (blocks, lambda: iter(blocks)):
        found = clone(whole).fit_blocks(given)
        assert_allclose(found.coef_, whole.coef_, rtol=1e-8, atol=1e-10)
        assert_allclose(found.intercept_, whole.intercept_, rtol=1e-8, atol=1e-10)
    assert "sample_weight" not in found.hyperparameters_
    exact = whole.hypergradient(X, y, names=["l2"])["l2"]
    assert_allclose(found.hypergradient(X, y)["l2"], exact, rtol=1e-6)
    with pytest.raises(ValueError, match="read only once"):
        clone(model).fit_blocks(iter(blocks))
    with pytest.raises(ValueError, match="Class 7 is missing"):
        clone(model).fit_blocks(blocks, classes=[0, 1, 2, 7])


def test_many_pixels_begin_at_a_part_of_them(rng):
    X, y = problem(rng, 90_000, 3, 3)
    X = X.astype("float32")
    model = PixelLogisticRegression(1e-4).fit(X, y)
    theirs = LogisticRegression(C=1.0 / (1e-4 * len(y)), solver="newton-cholesky", tol=1e-10)
    same_coefficients(model, theirs.fit(X.astype("float64"), y), atol=1e-6)
    assert_allclose(
        PixelLogisticRegression(1e-4).fit_blocks([(X[::2], y[::2]), (X[1::2], y[1::2])]).coef_,
        model.coef_,
        rtol=1e-8,
    )


def test_a_warm_start_needs_fewer_steps(rng):
    X, y = problem(rng, 300, 4, 3)
    model = PixelLogisticRegression(0.01, warm_start=True).fit(X, y)
    first = model.solve_info_.iterations
    coef = model.coef_
    assert model.fit(X, y).solve_info_.iterations < first
    assert_allclose(model.coef_, coef, atol=1e-10)


def test_problems_without_one_answer_have_a_status(rng):
    X, y = problem(rng, 200, 4, 3)
    assert not PixelLogisticRegression(0.0, l1=10.0).fit(X, y).coef_.any()
    twice = np.hstack([X, X[:, :1]])
    with pytest.warns(RuntimeWarning, match="SINGULAR"):
        model = PixelLogisticRegression(0.0).fit(twice, y)
    assert model.solve_info_.status == Status.SINGULAR
    alone = PixelLogisticRegression(0.0).fit(X, y)
    assert_allclose(model.predict_proba(twice), alone.predict_proba(X), atol=1e-7)
    with pytest.warns(RuntimeWarning, match="DIVERGED|NOT_CONVERGED"):
        model = PixelLogisticRegression(0.0).fit(X, X[:, 0] > 0)
    assert model.solve_info_.status == Status.DIVERGED
    with pytest.warns(RuntimeWarning, match="NOT_CONVERGED"):
        PixelLogisticRegression(0.01, max_iter=1).fit(X, y)


def test_a_pickle_predicts_and_holds_no_training_data(rng):
    X, y = problem(rng, 5000, 3, 3)
    for model in MODELS:
        stored = pickle.dumps(clone(model).fit(X[:500], y[:500]))
        assert len(stored) < X[:500].nbytes / 2
        again = pickle.loads(stored)
        assert again.predict(X).shape == (5000,)
        with pytest.raises(ValueError, match="no hypergradient"):
            again.hypergradient(X, y)


def test_scikit_learn_manners(rng):
    X, y = problem(rng, 120, 3, 2)
    model = PixelLogisticRegression(l2=[0.1], l1=0.2, class_weight={0: 2.0})
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(PixelLogisticRegression(), {"l2": [1e-4, 1.0]}, cv=3).fit(X, y + 4)
    assert set(search.predict(X)) <= {4, 5}
    assert "l2=[0.1]" in repr(model)
    with pytest.raises(ValueError, match="Invalid parameter 'l3'"):
        model.set_params(l3=1.0)


def test_a_layer_gives_the_scores_and_is_saved(rng, tmp_path):
    import keras

    for classes in (2, 3):
        X, y = problem(rng, 100, 4, classes)
        model = PixelLogisticRegression(0.01).fit(X, y)
        network = keras.Sequential([keras.Input((None, None, 4)), model.as_layer("pixels")])
        network.save(tmp_path / "model.keras")
        images = X.reshape(1, 10, 10, 4).astype("float32")
        scores = keras.saving.load_model(tmp_path / "model.keras")(images)
        assert scores.shape == (1, 10, 10, classes)
        assert_allclose(keras.ops.softmax(scores), model.predict_proba(images), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(20, int)}, "only one class: 0"),
        ({"y": np.full(20, -1)}, "contains none"),
        ({"y": np.eye(3)[[0, 1] * 10]}, "Class 2 is missing"),
        ({"y": np.full(20, 0.5)}, "whole numbers"),
        ({"y": np.zeros(19, int)}, "Expected y of shape"),
        ({"y": -np.ones((20, 2))}, "not negative"),
        ({"X": np.full((20, 3), np.nan)}, "NaN or infinity in column 0"),
        ({"X": np.zeros(20)}, "Expected X of shape"),
        ({"X": np.full((20, 3), "a")}, "real numbers"),
        ({"sample_weight": np.ones(3)}, "sample_weight of shape"),
        ({"sample_weight": -np.ones(20)}, "not negative"),
        ({"l2": -1.0}, "Expected l2 finite and not negative"),
        ({"l2": [1.0, 2.0]}, "multinomial"),
        ({"l1": np.ones(5)}, "Expected l1 to be a number"),
        ({"feature_penalty": [1.0]}, "feature_penalty of shape"),
        ({"groups": [0, 1]}, "Expected groups of 3"),
        ({"group": [0.1, 0.1, 0.1]}, "Expected group to be"),
        ({"class_weight": {3: 1.0}}, "names class 3"),
        ({"class_weight": [1.0, 0.0]}, "2 positive numbers"),
        ({"class_weight": "even"}, "Expected class_weight"),
        ({"reduction": "none"}, "Expected reduction"),
        ({"formulation": "ordinal"}, "Expected formulation"),
        ({"tol": 0.0}, "Expected tol > 0"),
    ],
    ids=str,
)
def test_wrong_input_is_named(change, message, rng):
    given = {"X": rng.normal(size=(20, 3)), "y": np.arange(20) % 2, "sample_weight": None}
    data = {name: change.get(name, value) for name, value in given.items()}
    options = {name: value for name, value in change.items() if name not in given}
    with pytest.raises(ValueError, match=message):
        PixelLogisticRegression(**options).fit(**data)


def test_wrong_input_of_machines_and_of_predict(rng):
    X, y = problem(rng, 30, 3, 3)
    with pytest.raises(ValueError, match="Expected loss"):
        PixelSVM("log").fit(X, y)
    with pytest.raises(ValueError, match="l2 penalty alone"):
        PixelSVM("hinge", l1=0.1).fit(X, y)
    with pytest.raises(ValueError, match="has 2 classes"):
        PixelLogisticRegression(formulation="binary").fit(X, y)
    with pytest.raises(ValueError, match="needs all pixels at once"):
        PixelSVM("hinge").fit_blocks([(X, y)])
    with pytest.raises(ValueError, match="X has 2 features"):
        PixelSVM("squared_hinge").fit(X, y).predict(X[:, :2])
    bad = X.copy()
    bad[3, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or infinity in column 1"):
        PixelSVM().fit(sparse.csr_array(bad), y)
