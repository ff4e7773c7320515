"""Pixel classifiers through the Potts problem of their image."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.base import clone

from keras_robustseg.classifiers import (
    PixelLogisticRegression,
    PixelQDA,
    PixelSVM,
    SpatialClassifier,
)
from keras_robustseg.optimize import Status, potts_objective
from keras_robustseg.tuning import BilevelTuner, Hyperparameter

ESTIMATORS = {
    "logistic": PixelLogisticRegression(l2=1e-2),
    "both rows": PixelLogisticRegression(l2=1e-2, formulation="multinomial"),
    "svm": PixelSVM("squared_hinge", l2=1e-2),
    "crammer_singer": PixelSVM("crammer_singer", l2=0.3),
    "qda": PixelQDA("empirical"),
}


def images(seed, shape=(2, 7, 6), classes=3, noise=0.9):
    """Images of blocks of classes with 3 noisy features, and their masks."""
    rng = np.random.default_rng(seed)
    masks = np.zeros(shape, int)
    for k in range(1, classes):
        masks[:, k * shape[1] // classes :] = k
    masks[..., -2:] = 0
    centres = np.random.default_rng(5).normal(size=(classes, 3))
    return centres[masks] + noise * rng.normal(size=(*shape, 3)), masks


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_weight_0_is_the_plain_classifier(name, classes):
    x, y = images(0, classes=classes)
    plain = clone(ESTIMATORS[name]).fit(x, y)
    spatial = SpatialClassifier(ESTIMATORS[name], 0.0).fit(x, y)
    held, truth = images(1, (3, 5, 8), classes)
    np.testing.assert_array_equal(spatial.predict(held), plain.predict(held))
    assert spatial.score(held, truth) == plain.score(held, truth)


def test_labels_solve_the_potts_problem_of_the_scores():
    x, y = images(0)
    model = SpatialClassifier(PixelLogisticRegression(l2=1e-2), [0.2, 0.5, 0.3]).fit(x, y)
    u = model.predict_proba(x)
    np.testing.assert_allclose(u.sum(-1), 1, atol=1e-12)
    cost = -model.estimator_.decision_function(x)
    best = np.asarray(potts_objective(u, cost, model.weight))
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        other = (1 - size) * u + size * rng.dirichlet(np.ones(3), u.shape[:-1])
        assert (np.asarray(potts_objective(other, cost, model.weight)) > best).all()
    np.testing.assert_array_equal(model.predict(x), u.argmax(-1))
    assert model.score(x, y) > model.estimator_.score(x, y)


def difference(loss, at, step=1e-5):
    return (loss(at + step) - loss(at - step)) / (2 * step)


@pytest.mark.parametrize("options", [{}, {"isotropic": True}, {"smoothing": 0.1}])
def test_hypergradients_of_weight_and_epsilon_agree_with_finite_differences(options):
    x, y = images(0)
    val = images(1)
    val[1][0, 0] = -1
    base = SpatialClassifier(
        PixelLogisticRegression(l2=1e-2), 0.3, tv_tolerance=1e-12, tv_iterations=6000, **options
    )

    def loss(**changed):
        return clone(base).set_params(**changed).fit(x, y).validation_loss(*val)

    found = base.fit(x, y).hypergradient(*val, names=["weight", "epsilon"])
    for name, at in (("weight", 0.3), ("epsilon", 0.5)):
        expected = difference(lambda value, name=name: loss(**{name: value}), at)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    each = np.array([0.2, 0.4, 0.3])
    slopes = base.set_params(weight=each).fit(x, y).hypergradient(*val, names=["weight"])["weight"]
    for k in range(3):
        unit = np.eye(3)[k]
        expected = difference(lambda value, unit=unit: loss(weight=each + value * unit), 0.0)
        np.testing.assert_allclose(slopes[k], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_hypergradients_through_the_fit_agree_with_finite_differences(name, classes):
    x, y = images(0, classes=classes)
    val = images(1, classes=classes)
    base = SpatialClassifier(clone(ESTIMATORS[name]), 0.2, tv_tolerance=1e-12, tv_iterations=6000)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, y.shape)
    along = np.random.default_rng(1).normal(size=y.shape)

    def loss(step=0.0, **changed):
        model = clone(base).set_params(**changed)
        return model.fit(x, y, weight + step * along).validation_loss(*val)

    found = base.fit(x, y, weight).hypergradient(*val)
    assert base.hypergradient_info_.status <= Status.NEAR_KINK
    expected = difference(loss, 0.0)
    np.testing.assert_allclose(np.vdot(found["sample_weight"], along), expected, rtol=1e-4)
    if name != "qda":
        expected = difference(lambda l2: loss(estimator__l2=l2), base.estimator.l2, 1e-6)
        np.testing.assert_allclose(found["estimator__l2"], expected, rtol=1e-4)


def test_images_of_several_sizes_are_those_alone():
    (a, ya), (b, yb) = images(0, (1, 7, 6)), images(1, (1, 5, 9))
    x, y = [a[0], b[0]], [ya[0], yb[0]]
    model = SpatialClassifier(PixelSVM("squared_hinge", l2=1e-2), tv_tolerance=1e-12).fit(x, y)
    rows = np.concatenate([part.reshape(-1, 3) for part in x])
    alone = PixelSVM("squared_hinge", l2=1e-2).fit(rows, np.concatenate([m.ravel() for m in y]))
    np.testing.assert_allclose(model.estimator_.coef_, alone.coef_, rtol=1e-8)
    together = model.predict_proba(x)
    assert [u.shape for u in together] == [(7, 6, 3), (5, 9, 3)]
    for one, u in zip(x, together, strict=True):
        np.testing.assert_allclose(model.predict_proba(one[None])[0], u, atol=1e-6)
    loss = model.validation_loss(x, y)
    each = [model.validation_loss(p[None], m[None]) * m.size for p, m in zip(x, y, strict=True)]
    np.testing.assert_allclose(loss, sum(each) / (42 + 45), rtol=1e-6)
    hits = [np.sum(p == m) for p, m in zip(model.predict(x), y, strict=True)]
    np.testing.assert_allclose(model.score(x, y), sum(hits) / (42 + 45))


def test_volumes_void_and_soft_labels():
    x, y = images(0, (1, 4, 5, 3))
    void = np.where(np.random.default_rng(0).random(y.shape) < 0.2, -1, y)
    model = SpatialClassifier(PixelLogisticRegression(l2=1e-2)).fit(x, void)
    assert model.predict(x).shape == y.shape
    counted = void >= 0
    hits = np.mean(model.predict(x)[counted] == y[counted])
    np.testing.assert_allclose(model.score(x, void), hits)
    soft = np.eye(3)[y] * counted[..., None]
    np.testing.assert_allclose(model.validation_loss(x, soft), model.validation_loss(x, void))


def test_the_tuner_finds_weight_and_penalty_together():
    x, y = images(0, (2, 12, 10))
    val, test = images(1, (2, 12, 10)), images(2, (6, 12, 10))
    parts = [
        Hyperparameter("weight", initial=0.05),
        Hyperparameter("estimator__l2", initial=1e-2, per="class"),
    ]
    base = SpatialClassifier(PixelLogisticRegression())
    tuner = BilevelTuner(base, parts, ([*val[0]], [*val[1]]), steps=12, learning_rate=0.3)
    tuner.fit(x, y)
    assert tuner.steps_[-1].loss < tuner.steps_[0].loss
    assert tuner.values_["weight"] > 0.05
    assert tuner.values_["estimator__l2"].shape == (3,)
    plain = PixelLogisticRegression(l2=1e-2).fit(x, y)
    assert tuner.estimator_.score(*test) > plain.score(*test)
    assert base.estimator.l2 == PixelLogisticRegression().l2  # the one given is not changed


def test_layer_gives_the_labels_and_trains_both():
    x, y = images(0)
    model = SpatialClassifier(PixelLogisticRegression(l2=1e-2), 0.4).fit(x, y)
    layer = model.as_layer()
    u = keras.ops.softmax(layer(x.astype("float32")))
    np.testing.assert_allclose(u, 0.99 * model.predict_proba(x) + 0.01 / 3, atol=1e-3)
    layer.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.asarray(keras.ops.copy(weight)) for weight in layer.trainable_weights]
    layer.fit(x, y, epochs=1, verbose=0)
    moved = [
        np.ptp(np.asarray(keras.ops.copy(w)) - b)
        for w, b in zip(layer.trainable_weights, before, strict=True)
    ]
    assert min(moved) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, "weight"),
        ({"weight": [0.1, 0.2]}, "shape"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"estimator": Ellipsis}, "estimator"),
    ],
)
def test_bad_arguments(change, message):
    x, y = images(0)
    with pytest.raises(ValueError, match=message):
        SpatialClassifier(PixelLogisticRegression()).set_params(**change).fit(x, y)


def test_bad_input_and_not_fitted():
    x, y = images(0)
    model = SpatialClassifier(PixelLogisticRegression())
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(x)
    model.fit(x.reshape(-1, 3), y.ravel())
    with pytest.raises(ValueError, match="Expected images"):
        model.predict(x.reshape(-1, 3))
    with pytest.raises(ValueError, match="2 features"):
        model.predict(x[..., :2])
    with pytest.raises(ValueError, match="hypergradient for"):
        model.hypergradient(x, y, names=["l2"])
    with pytest.raises(ValueError, match="class 7"):
        model.validation_loss(x, np.full_like(y, 7))
