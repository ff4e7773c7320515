"""Which pixels co-teaching selects, against sorting."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg.labels import CoTeaching, small_loss_selection
from keras_robustseg.labels._co_teaching import forget_rate_at


def sorted_selection(losses, classes, counted, num_classes, rate, scope):
    """The same by a stable sort."""
    chosen = np.zeros(losses.shape)
    images = [slice(i, i + 1) for i in range(len(losses))]
    groups = images if scope == "image" else [slice(None)]
    for group in groups:
        for c in range(num_classes):
            member = (classes[group] == c) & (counted[group] > 0)
            n = int(member.sum())
            keep = n - int(np.floor(np.float32(rate) * np.float32(n)))
            values = losses[group][member]
            picked = np.zeros(n)
            picked[np.argsort(values, kind="stable")[:keep]] = 1
            view = chosen[group]
            view[member] = picked
            chosen[group] = view
    return chosen


@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 3, 4, 5), (6,)])
@pytest.mark.parametrize("ties", [False, True])
def test_selection_is_that_of_a_sort(scope, shape, ties):
    rng = np.random.default_rng([len(shape), ties])
    losses = rng.exponential(size=shape).astype("float32")
    losses = np.round(losses, 1) if ties else losses
    classes = rng.choice(4, shape, p=[0.7, 0.2, 0.1, 0.0])
    counted = rng.uniform(size=shape) > 0.2
    for rate in (0.0, 0.2, 0.37, 0.9):
        found = small_loss_selection(
            losses, classes, counted, num_classes=4, forget_rate=rate, scope=scope
        )
        expected = sorted_selection(losses, classes, counted, 4, rate, scope)
        np.testing.assert_array_equal(found, expected)


def test_void_pixels_have_no_say():
    rng = np.random.default_rng(3)
    losses, classes = rng.exponential(size=(2, 6, 6)), rng.integers(0, 3, (2, 6, 6))
    counted = rng.uniform(size=(2, 6, 6)) > 0.4
    first = small_loss_selection(losses, classes, counted, num_classes=3, forget_rate=0.3)
    other_losses = np.where(counted, losses, np.nan)
    other_classes = np.where(counted, classes, -1)
    second = small_loss_selection(
        other_losses, other_classes, counted, num_classes=3, forget_rate=0.3
    )
    np.testing.assert_array_equal(first, second)
    assert ops.convert_to_numpy(first)[~counted].max() == 0


def test_extreme_losses_keep_their_order():
    losses = np.array([[0.0, 1e-30, 3e38, 1.0, -0.0, 1e-38]], "float32")
    found = small_loss_selection(
        losses, np.zeros((1, 6), int), np.ones((1, 6)), num_classes=2, forget_rate=0.5
    )
    np.testing.assert_array_equal(found, [[1, 0, 0, 0, 1, 1]])


def test_a_rare_class_with_large_losses_keeps_its_share():
    losses = np.concatenate([np.full(95, 0.1), np.full(5, 4.0)])[None].astype("float32")
    classes = np.repeat([0, 1], [95, 5])[None]
    found = small_loss_selection(losses, classes, np.ones((1, 100)), num_classes=2, forget_rate=0.2)
    assert ops.convert_to_numpy(found)[0, 95:].sum() == 4


def test_the_rate_rises_and_stays():
    rates = [float(forget_rate_at(step, 10, 0.3)) for step in (0, 5, 10, 40)]
    assert rates == pytest.approx([0, 0.15, 0.3, 0.3])
    assert float(forget_rate_at(0, 0, 0.3)) == pytest.approx(0.3)


def test_a_batch_of_unknown_size_is_selected_from():
    import tensorflow as tf

    rng = np.random.default_rng(8)
    losses = rng.exponential(size=(3, 4, 5)).astype("float32")
    mask = rng.integers(0, 2, (3, 4, 5)).astype("int32")
    signature = [tf.TensorSpec((None, 4, 5), dtype) for dtype in ("float32", "int32", "float32")]
    options = {"num_classes": 2, "forget_rate": 0.3}
    for scope in ("batch", "image"):
        traced = tf.function(
            lambda *args, scope=scope: small_loss_selection(*args, **options, scope=scope),
            input_signature=signature,
        )
        expected = small_loss_selection(losses, mask, np.ones_like(losses), **options, scope=scope)
        np.testing.assert_array_equal(traced(losses, mask, np.ones_like(losses)), expected)


def test_selection_compiles():
    import tensorflow as tf

    rng = np.random.default_rng(5)
    losses = rng.exponential(size=(2, 4, 4)).astype("float32")
    classes = rng.integers(0, 2, (2, 4, 4))

    @tf.function(jit_compile=True)
    def compiled(losses):
        return small_loss_selection(
            losses, classes, np.ones((2, 4, 4)), num_classes=2, forget_rate=0.25
        )

    expected = sorted_selection(losses, classes, np.ones((2, 4, 4)), 2, 0.25, "batch")
    np.testing.assert_array_equal(compiled(losses), expected)


def test_settings_go_through_keras_and_bad_ones_are_refused():
    model = CoTeaching(forget_rate=0.3, warmup=0.1, scope="image", served="mean")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert again.get_config() == model.get_config()
    for wrong in ({"forget_rate": 1.0}, {"warmup": 1.1}, {"scope": "pixel"}, {"served": "second"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CoTeaching(**wrong)
