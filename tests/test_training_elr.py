"""ELR inside RobustSegmenter: loss and targets against NumPy, whatever the form of the data."""

import keras
import numpy as np
import pytest
from keras import ops
from rivals import batch, blobs, compiled, inputs, logits_only, loss_of, same_weights, softmax, tiny

from keras_robustseg.labels import EarlyLearning


@pytest.mark.parametrize(("shape", "classes"), [((5, 4), 2), ((3, 4, 2), 3)])
def test_loss_and_targets_are_those_of_the_equations(shape, classes):
    logits, mask = batch(1, 3, shape, classes, classes)
    model = compiled(logits_only(shape, classes), EarlyLearning(weight=2.0), [shape] * 3)
    p, yhat = softmax(logits), np.eye(classes)[mask]
    target = np.zeros_like(p)
    for _ in range(3):
        target = 0.7 * target + 0.3 * p
        cross_entropy = -np.log((yhat * p).sum(-1)).mean()
        expected = cross_entropy + 2.0 * np.log(1 - (target * p).sum(-1)).mean()
        assert loss_of(model, inputs(logits), mask) == pytest.approx(expected, rel=1e-5)
    kept = np.stack([model.label_store.sample(i) for i in range(3)])
    np.testing.assert_allclose(kept, target, atol=1e-6)
    corrected = model.corrected_labels(1, mask[1])
    np.testing.assert_allclose(corrected, p[1], atol=1e-5)


def test_targets_follow_the_sample_through_flips_and_crops():
    logits, mask = batch(2, 1, (5, 4), 2, 2)
    model = compiled(logits_only((None, None), 2), EarlyLearning(), [(5, 4)])
    rows = np.arange(20).reshape(1, 5, 4, 1)[:, 1:, ::-1].copy()
    x = {**inputs(logits[:, 1:, ::-1].copy()), "pixel_index": rows}
    model.train_on_batch(x, mask[:, 1:, ::-1].copy())
    kept = model.label_store.sample(0)
    np.testing.assert_allclose(kept[1:], 0.3 * softmax(logits)[0, 1:], atol=1e-6)
    assert np.abs(kept[0]).max() == 0
    unseen = model.corrected_labels(0, mask[0])[0]
    np.testing.assert_array_equal(unseen, np.eye(2)[mask[0, 0]])


def test_void_pixels_have_no_target_and_no_say():
    logits, mask = batch(3, 2, (4, 4), 3, 3)
    weight = np.ones(mask.shape, "float32")
    weight[:, :2] = 0
    losses = []
    for content in (logits, np.where(weight[..., None] > 0, logits, np.nan)):
        drawn = np.where(weight > 0, mask, -1) if content is not logits else mask
        model = compiled(logits_only((4, 4), 3), EarlyLearning(), [(4, 4)] * 2)
        losses.append(loss_of(model, inputs(content), drawn, weight))
        kept = model.label_store.sample(0)
        assert np.abs(kept[:2]).max() == 0
        assert kept[2:].sum(-1) == pytest.approx(0.3, abs=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_several_readers_and_soft_masks():
    logits, mask = batch(4, 2, (4, 5), 2, 2)
    readers = np.stack([mask, 1 - mask, np.full_like(mask, -1)], axis=-1)
    soft = np.full((*mask.shape, 2), 0.5, "float32")
    values = []
    for given in (readers, soft):
        model = compiled(logits_only((4, 5), 2), EarlyLearning(), [(4, 5)] * 2)
        values.append(loss_of(model, inputs(logits), given))
        assert model.corrected_labels(0, given[0]).shape == (4, 5, 2)
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_step_that_is_not_finite_moves_no_target():
    logits, mask = batch(5, 2, (4, 4), 2, 2)
    model = compiled(logits_only((4, 4), 2), EarlyLearning(), [(4, 4)] * 2)
    logits[0, 1, 1] = np.nan
    model.train_on_batch(inputs(logits), mask)
    assert int(model.skipped_steps) == 1
    assert np.abs(ops.convert_to_numpy(model.label_store.delta)).max() == 0


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_it_learns_and_keeps_its_targets_in_half_precision(policy):
    image, mask, truth = blobs()
    model = compiled(tiny(policy=policy), EarlyLearning(storage="float16"), [(8, 8)] * 8, rate=0.5)
    history = model.fit(inputs(image), mask, epochs=6, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    target = np.stack([model.label_store.sample(i) for i in range(8)])
    np.testing.assert_allclose(target.sum(-1), 1 - 0.7**6, atol=2e-2)
    corrected = np.stack([model.corrected_labels(i, mask[i]) for i in range(8)]).argmax(-1)
    assert (corrected == truth).mean() > (mask == truth).mean()
    assert model.phase == "early learning"


def trained(jit=False, **settings):
    image, mask = batch(6, 4)
    keras.utils.set_random_seed(3)
    model = compiled(tiny(), EarlyLearning(**settings), [(6, 7)] * 4, rate=0.1, jit=jit)
    model.fit(inputs(image), mask, epochs=2, batch_size=2, shuffle=False, verbose=0)
    return model


def test_save_and_load_keep_the_targets(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.label_store.sample(2), model.label_store.sample(2))
    assert again.region_weight == 0.0


def test_rows_on_a_disk_are_the_same(tmp_path):
    first = trained()
    second = trained(store="disk")
    for i in range(4):
        np.testing.assert_allclose(
            second.label_store.sample(i), first.label_store.sample(i), atol=1e-6
        )


@pytest.mark.slow
def test_xla_gives_the_same():
    same_weights(trained(), trained(jit=True), atol=2e-5)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="label_shapes"):
        compiled(tiny(), EarlyLearning())
    image, mask = batch()
    with pytest.raises(ValueError, match="sample_id"):
        compiled(tiny(), EarlyLearning(), [(6, 7)] * 4).fit(image, mask, verbose=0)
