"""ADELE inside RobustSegmenter: loss, curves, switch and correction, whatever the data."""

import keras
import numpy as np
import pytest
from keras import ops
from rivals import batch, blobs, compiled, inputs, logits_only, loss_of, same_weights, softmax, tiny

from keras_robustseg.labels import Adele
from keras_robustseg.labels._adele import resize_linear

ONE = {"scales": (1.0,), "consistency": 0.0}


def begin(model, *classes):
    """Let the correction of these classes begin."""
    since = np.zeros(model.num_classes, "float32")
    since[list(classes)] = 1 + float(model.objective.state.epochs)
    model.objective.state.since.assign(since)
    model.objective.state.epochs.assign(model.objective.state.epochs + 1)


def test_the_loss_is_that_of_the_equation():
    logits, mask = batch(1, 2, (6, 8), 3, 3)
    logits *= 3
    model = compiled(
        logits_only((None, None), 3),
        Adele(scales=(0.5, 1.0), consistency=0.7, gate=0.6),
        [(6, 8)] * 2,
    )
    small = resize_linear(resize_linear(logits, (3, 4)), (6, 8))
    p = np.stack([softmax(small), softmax(logits)])
    mean = p.mean(0)
    yhat = np.eye(3)[mask]
    cross_entropy = -np.log((yhat * p).sum(-1)).mean()
    divergence = (p * (np.log(p) - np.log(mean))).sum(-1).mean(0)
    divergence = np.where(mean.max(-1) > 0.6, divergence, 0)
    assert 0 < (divergence > 0).mean() < 1
    expected = cross_entropy + 0.7 * divergence.mean()
    assert loss_of(model, inputs(logits), mask) == pytest.approx(expected, rel=1e-5)


def test_training_curves_count_agreement_with_the_given_masks():
    logits, mask = batch(2, 4, (5, 6), 3, 3)
    weight = (np.random.default_rng(0).uniform(size=mask.shape) > 0.3).astype("float32")
    model = compiled(logits_only((5, 6), 3), Adele(**ONE), [(5, 6)] * 4)
    for part in (slice(0, 2), slice(2, 4)):
        ids = np.arange(4)[part]
        model.train_on_batch(inputs(logits[part], ids), mask[part], sample_weight=weight[part])
    model.objective.end_epoch()
    predicted, seen = logits.argmax(-1), weight > 0
    for c in range(3):
        both = ((predicted == c) & (mask == c) & seen).sum()
        either = (((predicted == c) | (mask == c)) & seen).sum()
        found = ops.convert_to_numpy(model.objective.state.curves)[0, c]
        assert found == pytest.approx(both / either, rel=1e-6)
    assert np.abs(ops.convert_to_numpy(model.objective.state.counts)).max() == 0


def test_a_class_begins_at_the_bend_of_its_curve():
    model = compiled(logits_only((4, 4), 3), Adele(**ONE), [(4, 4)])
    state = model.objective.state
    model.plan_phases(100)
    bending = 0.9 * (1 - np.exp(-np.arange(1, 20) / 2))
    rising = np.linspace(0.01, 0.5, 19)
    began = None
    for epoch in range(19):
        state.counts.assign([[1, bending[epoch], rising[epoch]], [1, 1, 1]])
        model.objective.end_epoch()
        since = ops.convert_to_numpy(state.since)
        if since[1] and began is None:
            began = epoch + 1
    # The slope exp(-(t - 1)/2) has dropped by 0.9 after t = 1 + 2 log 10 = 5.6.
    assert began == 6
    assert since[1] == 6
    assert since[0] == since[2] == 0


def test_sure_pixels_of_classes_that_began_are_corrected_from_the_original_mask():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (2, 6, 6, 3)).astype("float32")
    mask = rng.integers(0, 3, (2, 6, 6)).astype("int32")
    mask[1] = np.where(mask[1] == 1, 0, mask[1])  # image 1 has no class 1
    mask[0, 0] = -1
    model = compiled(logits_only((6, 6), 3), Adele(confidence=0.7, **ONE), [(6, 6)] * 2)
    first = loss_of(model, inputs(logits), mask)
    assert not any(np.abs(model.label_store.sample(i)).max() for i in range(2))
    begin(model, 1)
    model.train_on_batch(inputs(logits), mask)
    p = softmax(logits)
    best = p.argmax(-1)
    sure = (p.max(-1) > 0.7) & np.isin(mask, (0, 1)) & np.isin(best, (0, 1))
    sure[1] &= best[1] != 1
    expected = np.where(sure, best, mask)
    assert (expected != mask).sum() > 5
    for i in range(2):
        found = model.corrected_labels(i, mask[i])
        np.testing.assert_array_equal(found.argmax(-1)[mask[i] >= 0], expected[i][mask[i] >= 0])
        drawn = found[mask[i] >= 0]
        np.testing.assert_allclose(drawn.max(-1), 1.0, atol=2e-5)
    second = loss_of(model, inputs(logits), mask)
    valid = mask >= 0
    chosen = np.take_along_axis(p, np.maximum(expected, 0)[..., None], -1)[..., 0]
    assert second == pytest.approx(-np.log(chosen[valid]).mean(), rel=1e-3)
    assert second < first
    # Pixels that are no longer sure go back to what was given.
    model.train_on_batch(inputs(np.zeros_like(logits)), mask)
    assert not any(np.abs(model.label_store.sample(i)).max() for i in range(2))


def test_without_repeat_only_the_next_epoch_corrects():
    logits, mask = batch(4, 2, (4, 4), 2, 2)
    model = compiled(
        logits_only((4, 4), 2), Adele(repeat=False, confidence=0.5, **ONE), [(4, 4)] * 2
    )
    model.train_on_batch(inputs(logits), mask)
    begin(model, 1)
    model.train_on_batch(inputs(logits), mask)
    once = model.label_store.sample(0)
    assert np.abs(once).max() > 0
    model.objective.end_epoch()
    model.train_on_batch(inputs(-logits), mask)
    np.testing.assert_array_equal(model.label_store.sample(0), once)


def test_corrections_follow_the_sample_through_flips_and_crops():
    logits, mask = batch(5, 1, (5, 4), 2, 2)
    mask[0, 1, :2] = (0, 1)  # both classes are in the crop
    logits *= 9
    model = compiled(logits_only((None, None), 2), Adele(**ONE), [(5, 4)])
    begin(model, 1)
    rows = np.arange(20).reshape(1, 5, 4, 1)[:, 1:, ::-1].copy()
    x = {**inputs(logits[:, 1:, ::-1].copy()), "pixel_index": rows}
    model.train_on_batch(x, mask[:, 1:, ::-1].copy())
    found = model.corrected_labels(0, mask[0]).argmax(-1)
    p = softmax(logits)[0]
    np.testing.assert_array_equal(found[0], mask[0, 0])
    expected = np.where(p.max(-1) > 0.8, p.argmax(-1), mask[0])
    np.testing.assert_array_equal(found[1:], expected[1:])


def test_several_readers_and_soft_masks():
    logits, mask = batch(6, 2, (4, 5), 2, 2)
    readers = np.stack([mask, 1 - mask, np.full_like(mask, -1)], axis=-1)
    soft = np.full((*mask.shape, 2), 0.5, "float32")
    values = []
    for given in (readers, soft):
        model = compiled(logits_only((4, 5), 2), Adele(**ONE), [(4, 5)] * 2)
        values.append(loss_of(model, inputs(logits), given))
        np.testing.assert_array_equal(model.corrected_labels(0, given[0]), soft[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_it_learns_and_corrects(policy):
    image, mask, truth = blobs(8)
    model = compiled(
        tiny(policy=policy),
        Adele(confidence=0.55, storage="float16", scales=(0.5, 1.0)),
        [(8, 8)] * 8,
        rate=0.5,
    )
    model.fit(inputs(image), mask, epochs=4, batch_size=4, verbose=0)
    assert int(model.objective.state.epochs) == 4
    begin(model, 1)
    model.fit(inputs(image), mask, epochs=2, batch_size=4, verbose=0)
    corrected = np.stack([model.corrected_labels(i, mask[i]) for i in range(8)]).argmax(-1)
    assert (corrected == truth).mean() > (mask == truth).mean()
    assert int(model.skipped_steps) == 0


def trained(jit=False, **settings):
    image, mask = batch(9, 4, (8, 6))
    keras.utils.set_random_seed(3)
    model = compiled(
        tiny(), Adele(confidence=0.5, scales=(0.5, 1.0), **settings), [(8, 6)] * 4, 0.1, jit
    )
    begin(model, 1)
    model.fit(inputs(image), mask, epochs=2, batch_size=2, shuffle=False, verbose=0)
    assert np.abs(model.label_store.sample(0)).max() > 0
    return model


def test_volumes_are_resized_too():
    image, mask = batch(10, 1, (4, 6, 5))
    model = compiled(tiny(dims=3), Adele(), [(4, 6, 5)], rate=0.1)
    assert np.isfinite(loss_of(model, inputs(image), mask))


def test_save_and_load_keep_curves_and_corrections(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.label_store.sample(2), model.label_store.sample(2))
    same_weights(again.objective.state, model.objective.state)


@pytest.mark.slow
def test_xla_gives_the_same():
    same_weights(trained(), trained(jit=True), atol=2e-4)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="label_shapes"):
        compiled(tiny(), Adele())
