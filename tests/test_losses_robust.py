"""The robust loss: parts in a row, known losses, weights, schedules, figures, replicas, saving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import contract
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from keras_robustseg import labels, losses, metrics, risk
from keras_robustseg.losses import RobustSegmentationLoss

BATCHES = contract.batches()


def cross_entropy(y_pred, y_true):
    """Cross-entropy of each pixel in float64."""
    z = y_pred.astype("float64")
    log_p = z - logsumexp(z, axis=-1, keepdims=True)
    return -np.take_along_axis(log_p, np.maximum(y_true, 0)[..., None], -1)[..., 0]


def problem(rng, *shape):
    y_pred, y_true = contract.logits(rng, *shape), contract.ids(rng, *shape, low=0)
    return y_pred, y_true, rng.uniform(0.5, 2.0, shape).astype("float32")


def tail_mean(values, p, alpha, worst=True):
    """Mean of the worst, or best, share alpha of the mass, by a sort."""
    order = np.argsort(-values if worst else values)
    taken = np.minimum(p[order], np.maximum(alpha - (np.cumsum(p[order]) - p[order]), 0))
    return taken @ values[order] / alpha


# What it is made of ------------------------------------------------------------------------------


def test_without_parts_it_is_cross_entropy(rng):
    y_pred, y_true, weight = problem(rng, 2, 5, 4)
    for batch in BATCHES.values():
        found = RobustSegmentationLoss()(batch.y_true, batch.y_pred, batch.sample_weight)
        expected = losses.CrossEntropy()(batch.y_true, batch.y_pred, batch.sample_weight)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    per_pixel = RobustSegmentationLoss(reduction=None)(y_true, y_pred, weight)
    np.testing.assert_allclose(per_pixel, weight * cross_entropy(y_pred, y_true), rtol=1e-5)


def test_pixel_risk_then_image_risk(rng):
    y_pred, y_true, weight = problem(rng, 3, 5, 4)
    y_true[0, 0] = -1
    values, w = cross_entropy(y_pred, y_true), weight * (y_true >= 0)
    images = np.array(
        [tail_mean(v.ravel(), x.ravel() / x.sum(), 0.3) for v, x in zip(values, w, strict=True)]
    )
    share = w.sum((1, 2)) / w.sum()
    tau = 0.5
    expected = {
        None: share @ images,
        "entropic": tau * np.log(share @ np.exp(images / tau)),
    }
    for kind, image_risk in ((None, None), ("entropic", risk.EntropicRisk(tau))):
        loss = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.3), image_risk=image_risk)
        np.testing.assert_allclose(loss(y_true, y_pred, weight), expected[kind], rtol=1e-5)
    pooled = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.3), pixel_pool="batch")
    found = pooled(y_true, y_pred, weight)
    np.testing.assert_allclose(
        found, tail_mean(values.ravel(), w.ravel() / w.sum(), 0.3), rtol=1e-5
    )


def test_labels_then_risk(rng):
    y_pred, y_true, weight = problem(rng, 3, 5, 4)
    z = y_pred.astype("float64")
    p = np.exp(z - logsumexp(z, axis=-1, keepdims=True))
    cost = (1 - p**0.7) / 0.7
    own = np.take_along_axis(cost, y_true[..., None], -1)[..., 0]
    pixel = 0.8 * own + 0.2 * cost.max(-1)
    images = (weight * pixel).sum((1, 2)) / weight.sum((1, 2))
    share = weight.sum((1, 2)) / weight.sum()
    loss = RobustSegmentationLoss(
        cost="gce",
        label_model=labels.DivergenceAmbiguity("tv", 0.2),
        image_risk=risk.WorstCase(),
    )
    np.testing.assert_allclose(loss(y_true, y_pred, weight), images.max(), rtol=1e-5)
    shared = labels.DivergenceAmbiguity("tv", 0.2, "image")
    loss = RobustSegmentationLoss(cost="gce", label_model=shared)
    expected = share @ np.asarray(shared(cost, y_true, weight))
    np.testing.assert_allclose(loss(y_true, y_pred, weight), expected, rtol=1e-5)


def test_costs(rng):
    p = rng.dirichlet(np.ones(4), (2, 3))
    for cost, order, expected in (
        ("cross_entropy", 0.7, -np.log(p)),
        ("mae", 0.7, 1 - p),
        ("gce", 0.4, (1 - p**0.4) / 0.4),
        ("gce", 1.0, 1 - p),
    ):
        found = losses.class_costs(np.log(p), cost, order=order)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradient_is_the_worst_case_weight_of_a_pixel(rng):
    y_pred, y_true, _ = problem(rng, 2, 5, 4)
    loss = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.25), image_risk=risk.CVaR(0.5))
    value, gradient = contract.value_and_gradient(loss, contract.Batch(y_pred, y_true))
    values = cross_entropy(y_pred, y_true)
    tails = [tail_mean(v.ravel(), np.full(20, 1 / 20), 0.25) for v in values]
    image = int(np.argmax(tails))
    np.testing.assert_allclose(value, max(tails), rtol=1e-5)
    worst = np.zeros(40).reshape(2, 20)
    worst[image, np.argsort(-values[image].ravel())[:5]] = 1 / 5
    p = np.asarray(keras.ops.softmax(y_pred)).reshape(2, 20, 3)
    expected = worst[..., None] * (p - np.eye(3)[y_true.reshape(2, 20)])
    np.testing.assert_allclose(gradient.reshape(2, 20, 3), expected, atol=1e-6)


# Known losses ------------------------------------------------------------------------------------


def test_lower_tail_mean_is_small_loss_trimming(rng):
    y_pred, y_true, _ = problem(rng, 1, 5, 8)
    loss = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.75, stance="optimistic"))
    smallest = np.sort(cross_entropy(y_pred, y_true).ravel())[:30]
    np.testing.assert_allclose(loss(y_true, y_pred), smallest.mean(), rtol=1e-5)


def test_entropic_risk_of_images_is_hardness_weighting(rng):
    """Fidon et al. 2022: the gradient is that of a mean with weights softmax(loss / beta)."""
    y_pred, y_true, _ = problem(rng, 4, 3, 5)
    beta = 0.3
    _, gradient = contract.value_and_gradient(
        RobustSegmentationLoss(image_risk=risk.EntropicRisk(beta)), contract.Batch(y_pred, y_true)
    )
    images = cross_entropy(y_pred, y_true).mean((1, 2))
    hardness = np.exp((images - logsumexp(images / beta) * beta) / beta)
    p = np.asarray(keras.ops.softmax(y_pred))
    expected = hardness[:, None, None, None] * (p - np.eye(3)[y_true]) / 15
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_optimistic_flips_are_hard_bootstrapping(rng):
    y_pred, y_true, weight = problem(rng, 2, 5, 4)
    ambiguity = labels.DivergenceAmbiguity("tv", 0.2, stance="optimistic")
    found = RobustSegmentationLoss(label_model=ambiguity)(y_true, y_pred, weight)
    known = losses.Bootstrapping(trust=0.8, belief="hard")(y_true, y_pred, weight)
    np.testing.assert_allclose(found, known, rtol=1e-6)


def test_optimistic_kl_penalty_is_forward_correction(rng):
    y_pred, y_true, weight = problem(rng, 2, 5, 4)
    ambiguity = labels.DivergencePenaltyAmbiguity("kl", 1.0, 0.3, stance="optimistic")
    found = RobustSegmentationLoss(label_model=ambiguity)(y_true, y_pred, weight)
    rows = 0.7 * np.eye(3) + 0.1  # smoothing is a transition matrix
    known = losses.ForwardCorrection(rows)(y_true, y_pred, weight)
    np.testing.assert_allclose(found, known, rtol=1e-5)


# Weights -----------------------------------------------------------------------------------------

PARTS = {
    "pixels": {"pixel_risk": risk.CVaR(0.3)},
    "images": {"image_risk": risk.CVaR(0.6)},
    "pooled": {"pixel_risk": risk.DivergenceBall("chi2", 0.4), "pixel_pool": "batch"},
    "labels": {"label_model": labels.WassersteinAmbiguity(1 - np.eye(3), 0.2, budget="image")},
}
each_part = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


@each_part
def test_weight_two_is_the_pixel_twice(rng, parts):
    y_pred, y_true, _ = problem(rng, 2, 12)
    twice = rng.random(12) < 0.4
    weight = np.broadcast_to(np.where(twice, 2.0, 1.0), (2, 12))
    repeats = np.where(twice, 2, 1)
    loss = RobustSegmentationLoss(**parts)
    expected = loss(np.repeat(y_true, repeats, 1), np.repeat(y_pred, repeats, 1))
    np.testing.assert_allclose(loss(y_true, y_pred, weight), expected, rtol=1e-5)


def test_an_image_of_weight_two_is_the_image_twice(rng):
    y_pred, y_true, _ = problem(rng, 4, 3, 4)
    repeats = np.array([1, 2, 1, 2])
    loss = RobustSegmentationLoss(**PARTS["images"])
    expected = loss(np.repeat(y_true, repeats, 0), np.repeat(y_pred, repeats, 0))
    np.testing.assert_allclose(loss(y_true, y_pred, repeats), expected, rtol=1e-5)


def test_a_void_image_is_not_there(rng):
    y_pred, y_true, _ = problem(rng, 3, 3, 4)
    y_true[1] = -1
    for parts in PARTS.values():
        loss = RobustSegmentationLoss(**parts)
        np.testing.assert_allclose(
            loss(y_true, y_pred), loss(y_true[[0, 2]], y_pred[[0, 2]]), rtol=1e-5
        )


# In Keras ----------------------------------------------------------------------------------------


def small_model(loss, **options):
    image = keras.Input((6, 7, 1))
    hidden = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(3, 1)(hidden))
    model.compile(keras.optimizers.SGD(0.1), loss=loss, **options)
    return model


def data(rng, count=4):
    image = rng.normal(size=(count, 6, 7, 1)).astype("float32")
    return image, rng.integers(-1, 3, (count, 6, 7)).astype("int32")


def test_a_schedule_does_not_trace_again(rng):
    alpha, radius = (keras.Variable(v, trainable=False) for v in (1.0, 0.0))
    loss = RobustSegmentationLoss(
        label_model=labels.DivergenceAmbiguity("tv", radius), image_risk=risk.CVaR(alpha)
    )
    assert {id(v) for v in loss.variables} == {id(alpha), id(radius)}
    traces, plain_call = [], loss.terms
    loss.terms = lambda *a: traces.append(1) or plain_call(*a)
    model = small_model(loss, jit_compile=False)

    def assign(epoch, _logs=None):
        alpha.assign([1.0, 0.25][epoch])
        radius.assign([0.0, 0.3][epoch])

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=assign)
    image, mask = data(rng)
    with_rate_zero = keras.optimizers.SGD(0.0)
    model.compile(with_rate_zero, loss=loss, jit_compile=False)
    history = model.fit(image, mask, epochs=2, verbose=0, callbacks=[callback]).history["loss"]
    assert len(traces) == 1
    y_pred = model.predict(image, verbose=0)
    for level, size, value in ((1.0, 0.0, history[0]), (0.25, 0.3, history[1])):
        fixed = RobustSegmentationLoss(
            label_model=labels.DivergenceAmbiguity("tv", size), image_risk=risk.CVaR(level)
        )
        np.testing.assert_allclose(value, fixed(mask, y_pred), rtol=1e-5)


def test_saves_with_all_its_parts(rng, tmp_path):
    loss = RobustSegmentationLoss(
        cost="gce",
        gce_order=0.5,
        label_model=labels.WassersteinAmbiguity([[0, 1, None], [1, 0, 1], [2, 1, 0]], 0.1),
        pixel_risk=risk.CVaR(0.4, "l2", 0.1),
        image_risk=risk.DivergenceBall("renyi", 0.1, order=2.0),
        ignore_class=2,
    )
    figures = [metrics.RiskFigure(loss, figure) for figure in ("divergence", "label_saturation")]
    model = small_model(loss, weighted_metrics=figures, run_eagerly=True)
    image, mask = data(rng)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == loss.get_config()
    expected = model.evaluate(image, mask, verbose=0, return_dict=True)
    found = again.evaluate(image, mask, verbose=0, return_dict=True)
    assert found.keys() == {"loss", "divergence", "label_saturation"}
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"cost": "hinge"},
        {"cost": "gce", "gce_order": 0.0},
        {"pixel_pool": "epoch"},
        {"scope": "host"},
        {"pixel_risk": 0.1},
        {"label_model": "tv"},
        {"pixel_pool": "batch"},
        {"pixel_pool": "batch", "pixel_risk": risk.CVaR(0.1), "image_risk": risk.CVaR(0.1)},
        {"label_model": labels.SpatialWassersteinAmbiguity(1, 0.1), "pixel_risk": risk.CVaR(0.1)},
    ],
    ids=str,
)
def test_parts_that_do_not_go_together(arguments):
    with pytest.raises(ValueError, match="Received"):
        RobustSegmentationLoss(**arguments)


def test_ids_that_a_set_would_hold_are_refused(rng):
    y_pred, y_true, _ = problem(rng, 2, 3, 4)
    loss = RobustSegmentationLoss(label_model=labels.DivergenceAmbiguity("kl", 0.1))
    with pytest.raises(ValueError, match="smoothing > 0"):
        loss(y_true, y_pred)
    soft = np.eye(3, dtype="float32")[y_true] * 0.8 + 0.2 / 3
    assert loss(soft, y_pred) > losses.CrossEntropy()(soft, y_pred)


# Figures -----------------------------------------------------------------------------------------


def figure(loss, name, *batch):
    metric = metrics.RiskFigure(loss, name)
    metric.update_state(*batch)
    return float(metric.result())


def test_figures_of_a_tail(rng):
    y_pred, y_true, _ = problem(rng, 1, 5, 8)
    values = np.sort(cross_entropy(y_pred, y_true).ravel())
    loss = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.25))
    batch = (y_true, y_pred)
    assert figure(loss, "effective_sample_size", *batch) == pytest.approx(0.25, rel=1e-5)
    assert figure(loss, "value_at_risk", *batch) == pytest.approx(values[-10], rel=1e-5)
    assert figure(loss, "divergence", *batch) == pytest.approx(np.log(4), rel=1e-5)
    assert figure(loss, "saturation", *batch) == 0.0
    trimmed = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.25, stance="optimistic"))
    assert figure(trimmed, "value_at_risk", *batch) == pytest.approx(values[9], rel=1e-5)


def test_figures_of_balls(rng):
    y_pred, y_true, weight = problem(rng, 2, 5, 8)
    for name, radius in (("kl", 0.2), ("chi2", 0.3), ("hellinger", 0.1)):
        ball = risk.DivergenceBall(name, radius)
        loss = RobustSegmentationLoss(pixel_risk=ball, pixel_pool="batch")
        found = figure(loss, "divergence", y_true, y_pred, weight)
        assert found == pytest.approx(radius, rel=1e-3)
    full = RobustSegmentationLoss(pixel_risk=risk.DivergenceBall("kl", 50.0))
    assert figure(full, "saturation", y_true, y_pred, weight) == 1.0
    images = RobustSegmentationLoss(image_risk=risk.WorstCase())
    assert figure(images, "saturation", y_true, y_pred, weight) == 1.0
    assert figure(RobustSegmentationLoss(), "saturation", y_true, y_pred) == 0.0
    assert figure(RobustSegmentationLoss(), "effective_sample_size", y_true, y_pred) == 1.0


def test_figures_of_labels(rng):
    y_pred, y_true, weight = problem(rng, 2, 5, 8)
    for name, radius in (("tv", 0.2), ("reverse_kl", 0.1)):
        loss = RobustSegmentationLoss(label_model=labels.DivergenceAmbiguity(name, radius))
        found = figure(loss, "label_divergence", y_true, y_pred, weight)
        worst = cross_entropy(y_pred, y_true) >= cross_entropy(y_pred, y_pred.argmin(-1)) - 1e-6
        assert found == pytest.approx(
            radius * (1 - (weight * worst).sum() / weight.sum()), rel=1e-4
        )
        assert figure(loss, "label_saturation", y_true, y_pred, weight) == 0.0
    loss = RobustSegmentationLoss(label_model=labels.DivergenceAmbiguity("tv", 1.0))
    movable = 1 - (weight * worst).sum() / weight.sum()
    found = figure(loss, "label_saturation", y_true, y_pred, weight)
    assert found == pytest.approx(movable, rel=1e-5)
    assert figure(RobustSegmentationLoss(), "label_divergence", y_true, y_pred) == 0.0


def test_figures_average_over_batches_and_survive_void(rng):
    y_pred, y_true, _ = problem(rng, 2, 5, 8)
    loss = RobustSegmentationLoss(pixel_risk=risk.CVaR(0.3))
    for name in ("effective_sample_size", "value_at_risk", "divergence"):
        metric, each = metrics.RiskFigure(loss, name), []
        for i in (0, 1):
            metric.update_state(y_true[[i]], y_pred[[i]])
            each.append(figure(loss, name, y_true[[i]], y_pred[[i]]))
        assert float(metric.result()) == pytest.approx(np.mean(each), rel=1e-5)
        metric.update_state(np.full_like(y_true, -1), y_pred)
        assert float(metric.result()) == pytest.approx(np.mean(each), rel=1e-5)
    with pytest.raises(ValueError, match="figure"):
        metrics.RiskFigure(loss, "variance")


def test_figures_inside_a_compiled_step(rng):
    loss = RobustSegmentationLoss(image_risk=risk.CVaR(0.5))
    names = ("effective_sample_size", "value_at_risk", "saturation")
    figures = [metrics.RiskFigure(loss, name) for name in names]
    model = small_model(loss, weighted_metrics=figures, jit_compile=False)
    image, mask = data(rng)
    logs = model.fit(image, mask, verbose=0, batch_size=4).history
    assert logs["effective_sample_size"][0] == pytest.approx(0.5, abs=0.1)


# Replicas ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_replicas_are_one_device():
    child = Path(__file__).with_name("robust_child.py")
    run = subprocess.run([sys.executable, str(child)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    differences = {name: float(value) for name, value in map(str.split, run.stdout.splitlines())}
    alone = differences.pop("alone")
    assert set(differences) == {"image", "pixels", "ball", "all"}
    assert max(differences.values()) < 1e-6, differences
    assert alone > 1e-4  # each replica's own tail is another loss


@pytest.mark.slow
@each_part
def test_compiled_training_is_the_same(rng, parts):
    image, mask = data(rng)
    ends = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = small_model(RobustSegmentationLoss(**parts), jit_compile=jit)
        model.fit(image, mask, verbose=0, epochs=2, shuffle=False)
        ends.append(np.concatenate([w.numpy().ravel() for w in model.trainable_weights]))
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_one_risk_is_the_same_compiled():
    case = contract.Case(RobustSegmentationLoss, PARTS["pixels"])
    contract.loss_is_the_same_compiled(case, BATCHES["weights of pixels"])


def test_trains_with_3d_images(rng):
    y_pred, y_true, _ = problem(rng, 2, 3, 4, 5)
    ambiguity = labels.SpatialWassersteinAmbiguity(1, 0.1, stance="optimistic")
    loss = RobustSegmentationLoss(label_model=ambiguity, image_risk=risk.CVaR(0.5))
    z = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(y_true, z)
    assert np.isfinite(tape.gradient(value, z)).all()
    assert 0 <= value <= RobustSegmentationLoss(image_risk=risk.CVaR(0.5))(y_true, y_pred)
