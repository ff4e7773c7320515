"""When labels may move: warm-up from curves, presence, image weights, the floor of a class."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg import RobustSegmenter
from keras_robustseg.labels import Pencil
from keras_robustseg.training._correction import Correction
from keras_robustseg.training._objective import Clock


class Counter:
    """An int32 variable as the trainer has them."""

    def __new__(cls, value):
        return keras.Variable(value, dtype="int32", trainable=False)


def clock(warmup_end=0, finetune_start=10**6):
    return Clock(Counter(0), Counter(warmup_end), Counter(finetune_start))


class Seen:
    """What `observe` reads of a batch."""

    def __init__(self, yhat, log_q=None):
        self.yhat, self.weight = yhat, np.ones(yhat.shape[:-1], "float32")
        self.log_q = np.log(np.maximum(yhat, 1e-6)) if log_q is None else log_q


def masks(shape, inside):
    yhat = np.zeros((*shape, 2), "float32")
    yhat[..., 0] = 1
    yhat[inside] = (0, 1)
    return yhat


def prediction(yhat, foreground):
    """log p that gives the given foreground pixels this probability, and the others the rest."""
    p = np.where(yhat[..., 1:] > 0, foreground, 0.01)
    return np.log(np.concatenate([1 - p, p], axis=-1)).astype("float32")


def opened_at(curve, steps=160):
    watch = Correction(Pencil(), 4, 2, clock(10**6))
    watch.plan(steps)
    yhat = masks((1, 8, 8), (0, slice(2, 6), slice(2, 6)))
    for step in range(steps):
        watch.clock.step.assign(step)
        log_p = prediction(yhat, curve(step / steps))
        watch.observe({"sample_id": np.array([0])}, Seen(yhat), log_p, ops.convert_to_tensor(True))
        if float(watch.open[1]) > 0:
            return step / steps
    return 1.0


def test_warmup_ends_when_the_curve_bends():
    quick = opened_at(lambda t: 0.9 * (1 - np.exp(-t / 0.02)))
    slow = opened_at(lambda t: 0.9 * (1 - np.exp(-t / 0.15)))
    late = opened_at(lambda t: 0.02 + 0.88 * np.clip((t - 0.3) / 0.3, 0, 1))
    assert 0.1 <= quick < slow < 0.6 < late < 0.8
    assert opened_at(lambda t: 0.02 + 0.97 * t**4) == 1.0


def curves_of(fast, slow):
    """Moving averages in which each class fills 1/11 of the pixels: 2 <p, y>, |p|+|y|, |y|, all."""
    sizes = [[10] * 3, [5] * 3, [55] * 3]
    return np.array([[np.multiply(fast, 10), *sizes], [np.multiply(slow, 10), *sizes]], "float32")


def begun(watch, fast, slow, steepest):
    """Which classes have begun after one batch, at these soft Dice of classes 0, 1, 2."""
    watch.curves.assign(curves_of(fast, slow))
    watch.steepest.assign(steepest)
    yhat = np.eye(3, dtype="float32")[np.array([[[0, 1], [2, 2]]])]
    log_p = np.log(np.full(yhat.shape, 1 / 3, "float32"))
    watch.observe({"sample_id": np.array([0])}, Seen(yhat), log_p, ops.convert_to_tensor(True))
    started = watch.permit({"sample_id": np.array([0])}, log_p, yhat, Seen(yhat).weight).started
    return ops.convert_to_numpy(watch.open).tolist(), ops.convert_to_numpy(started)[0].tolist()


def three_classes():
    watch = Correction(Pencil(), 4, 3, clock(10**6))
    watch.plan(100)
    watch.clock.step.assign(20)
    return watch


def test_classes_wait_for_each_other():
    watch = three_classes()
    opened, _ = begun(watch, (0.9, 0.7, 0.5), (0.9, 0.7, 0.3), steepest=0.3)
    assert opened == [0, 0, 0]
    opened, started = begun(watch, (0.9, 0.7, 0.5), (0.9, 0.7, 0.45), steepest=0.3)
    assert opened == [1, 1, 1]
    assert started == [[1, 1], [1, 1]]
    assert int(watch.clock.warmup_end) == 20


def test_class_that_is_not_learned_keeps_its_labels_and_begins_when_it_is():
    watch = three_classes()
    opened, started = begun(watch, (0.9, 0.7, 0.1), (0.9, 0.7, 0.1), steepest=0.3)
    assert opened == [1, 1, 0]
    assert started == [[1, 1], [0, 0]]
    assert begun(watch, (0.9, 0.7, 0.6), (0.9, 0.7, 0.4), steepest=0.3)[0] == [1, 1, 0]
    assert begun(watch, (0.9, 0.7, 0.6), (0.9, 0.7, 0.59), steepest=0.3)[0] == [1, 1, 1]


def test_steepest_pace_is_remembered():
    watch = three_classes()
    begun(watch, (0.9, 0.7, 0.5), (0.9, 0.5, 0.3), steepest=0.1)
    assert float(watch.steepest) == pytest.approx(0.4)
    begun(watch, (0.9, 0.7, 0.5), (0.9, 0.7, 0.45), steepest=float(watch.steepest))
    assert float(watch.steepest) == pytest.approx(0.4)


def test_labels_stay_where_the_network_does_not_see_their_class():
    watch = Correction(Pencil(warmup=0.0), 4, 2, clock())
    yhat = masks((2, 8, 8), (slice(None), slice(2, 6), slice(2, 6)))
    log_p = prediction(yhat, 0.02)
    log_p[1] = prediction(yhat[1:], 0.5)[0]
    permission = watch.permit({"sample_id": np.arange(2)}, log_p, yhat, Seen(yhat).weight)
    allowed = ops.convert_to_numpy(permission.allowed)
    assert (allowed[0] == (yhat[0, ..., 0] > 0)).all()
    assert (allowed[1] == 1).all()


def test_an_image_that_disagrees_counts_less_unless_nothing_is_seen():
    watch = Correction(Pencil(warmup=0.0), 3, 2, clock())
    yhat = masks((3, 8, 8), (slice(None), slice(2, 6), slice(2, 6)))
    shifted = np.roll(yhat, 3, axis=2)
    log_p = prediction(yhat, 0.95)
    log_p[1] = prediction(shifted[1:2], 0.95)[0]
    log_p[2] = prediction(yhat[2:], 0.02)[0]
    ids = {"sample_id": np.array([2, 0, 1])}
    watch.observe(ids, Seen(yhat), log_p, ops.convert_to_tensor(True))
    permission = watch.permit(ids, log_p, yhat, Seen(yhat).weight)
    weights = ops.convert_to_numpy(permission.weight)
    assert weights[1] < 0.5 * weights[0]
    assert weights[2] == pytest.approx(1.02)
    table = ops.convert_to_numpy(watch.agreement)[:, 0]
    assert table[0] < 0.4 < table[2]


def test_a_step_that_is_not_finite_teaches_nothing():
    watch = Correction(Pencil(), 3, 2, clock(10**6))
    watch.plan(10)
    before = [ops.convert_to_numpy(v) for v in watch.weights]
    yhat = masks((1, 4, 4), (0, slice(1, 3), slice(1, 3)))
    log_p = np.full(yhat.shape, np.nan, "float32")
    ids = {"sample_id": np.array([1])}
    watch.observe(ids, Seen(yhat), log_p, ops.convert_to_tensor(False))
    for old, new in zip(before, watch.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


def test_a_class_that_melts_away_gets_its_given_labels_back():
    watch = Correction(Pencil(warmup=0.0), 3, 2, clock())
    watch.plan(10)
    yhat = masks((1, 4, 4), (0, slice(1, 3), slice(1, 3)))
    log_q = np.log(np.where(yhat[..., 1:] > 0, [0.9, 0.1], [0.99, 0.01])).astype("float32")
    ids = {"sample_id": np.array([1])}
    for _ in range(2):
        log_p = prediction(yhat, 0.5)
        watch.observe(ids, Seen(yhat, log_q), log_p, ops.convert_to_tensor(True))
    assert watch.fallen == [1]
    assert not ops.convert_to_numpy(watch.alive(yhat)).any()


def small_training(senseless=False, **settings):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(8, 8, 8, 1)).astype("float32")
    mask = (image[..., 0] > 0).astype("int32")
    if senseless:
        mask = rng.permuted(mask.reshape(-1)).reshape(mask.shape)
    mask[:, :2] = -1
    keras.utils.set_random_seed(1)
    layer = keras.layers.Conv2D(2, 1)
    source = keras.Input((8, 8, 1))
    model = RobustSegmenter(
        keras.Model(source, layer(source)), Pencil(**settings), label_shapes=[(8, 8)] * 8
    )
    model.compile(keras.optimizers.SGD(0.5))
    model.fit({"image": image, "sample_id": np.arange(8)}, mask, batch_size=4, epochs=10, verbose=0)
    return model


def test_default_trains_and_counts_its_phases():
    model = small_training()
    correction = model.objective.correction
    assert model.phase == "correction"
    assert 2 <= int(model.warmup_end) <= 7
    assert (ops.convert_to_numpy(correction.agreement) >= 0).all()
    assert correction.fallen == []


def test_masks_that_nothing_can_be_learned_from_stay():
    model = small_training(senseless=True)
    assert model.phase == "warm-up"
    assert int(model.warmup_end) == 20
    assert not ops.convert_to_numpy(model.label_store.delta).any()


def test_a_fallen_class_is_told_of_once():
    model = small_training(warmup=0.0)
    model.objective.correction.lost.assign([0.0, 1.0])
    with pytest.warns(UserWarning, match="class 1 kept less than 0.3"):
        model.objective.end_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.objective.end_epoch()
    mask = np.ones((8, 8), "int32")
    model.objective.store.delta.assign_add(np.full((512, 1), -30.0, "float32"))
    assert (model.corrected_labels(0, mask).argmax(-1) == 1).all()


def test_plain_settings_weigh_nothing():
    model = small_training(warmup=0.3, presence=0.0, image_weights=0.0, mass_floor=0.0)
    assert int(model.warmup_end) == 6
    assert not hasattr(model.objective.correction, "agreement")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"presence": 1.0}, "presence"),
        ({"mass_floor": -0.1}, "mass_floor"),
        ({"image_weights": -1.0}, "image_weights"),
        ({"finetune": 0.95}, "auto"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        Pencil(**settings)
