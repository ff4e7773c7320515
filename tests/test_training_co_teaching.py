"""Co-teaching inside RobustSegmenter: both losses, what is served, saved and resumed."""

import keras
import numpy as np
import pytest
from keras import ops
from rivals import batch, blobs, compiled, loss_of, same_weights, softmax, tiny

from keras_robustseg.labels import CoTeaching
from keras_robustseg.models import MeanPrediction, mean_of_networks, unet
from keras_robustseg.training import RobustSegmenter
from keras_robustseg.training._twin import twin


def logits_of(network, image):
    """In training mode, without keeping what that moves."""
    kept = network.get_weights()
    logits = ops.convert_to_numpy(network(image, training=True))
    network.set_weights(kept)
    return logits


def smallest(losses, mask, rate):
    """Flags of the pixels that are kept of each class, over the whole batch."""
    kept = np.zeros(losses.shape, bool)
    for c in np.unique(mask[mask >= 0]):
        member = np.flatnonzero(mask.ravel() == c)
        order = member[np.argsort(losses.ravel()[member], kind="stable")]
        kept.ravel()[order[: len(order) - int(np.floor(np.float32(rate) * len(order)))]] = True
    return kept


@pytest.mark.parametrize("dims", [2, 3])
def test_each_network_learns_on_the_others_selection(dims):
    shape = (6, 5, 4)[:dims]
    image, mask = batch(1, 3, shape, 3)
    mask[0, 0] = -1
    model = compiled(tiny(classes=3, dims=dims), CoTeaching(forget_rate=0.3, warmup=0.0))
    networks = [model.network, model.objective.partner]
    losses, flags = [], []
    for network in networks:
        p = softmax(logits_of(network, image))
        drawn = np.maximum(mask, 0)[..., None]
        losses.append(-np.log(np.take_along_axis(p, drawn, axis=-1)[..., 0]))
        flags.append(smallest(losses[-1].astype("float32"), mask, 0.3))
    expected = losses[0][flags[1]].mean() + losses[1][flags[0]].mean()
    assert loss_of(model, image, mask) == pytest.approx(expected, rel=1e-4)


def test_the_second_network_starts_elsewhere_and_learns_too():
    first = unet((8, 8, 1), 2, width=4, depth=2, seed=5, normalization=([0.3], [2.0]))
    second = twin(first)
    kernels = [
        (ops.convert_to_numpy(a), ops.convert_to_numpy(b))
        for a, b in zip(first.trainable_weights, second.trainable_weights, strict=True)
        if len(a.shape) > 1
    ]
    assert all(not np.array_equal(a, b) for a, b in kernels)
    for a, b in zip(first.non_trainable_weights, second.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    image, mask = batch(2, 4, (8, 8))
    model = compiled(first, CoTeaching(), rate=0.1)
    before = [ops.convert_to_numpy(w).copy() for w in model.objective.partner.weights]
    model.train_on_batch(image, mask)
    moved = [
        np.abs(ops.convert_to_numpy(w) - b).max() > 0
        for w, b in zip(model.objective.partner.weights, before, strict=True)
    ]
    assert np.mean(moved) > 0.7  # statistics of batch normalisation among them


def test_a_network_whose_weights_know_no_seed_is_refused():
    image = keras.Input((None, None, 1))
    logits = keras.layers.Conv2D(2, 1, kernel_initializer="ones")(image)
    with pytest.raises(ValueError, match="seed"):
        RobustSegmenter(keras.Model(image, logits), CoTeaching())


def test_void_has_no_say_and_bad_numbers_are_seen():
    image, mask = batch(3, 2, (4, 4), 2)
    weight = np.ones(mask.shape, "float32")
    weight[0] = 0
    keras.utils.set_random_seed(1)
    network = tiny()
    start = network.get_weights()
    values = []
    for content in (mask[0], -1, 1 - mask[0]):
        network.set_weights(start)
        keras.utils.set_random_seed(2)
        given = mask.copy()
        given[0] = content
        model = compiled(network, CoTeaching(forget_rate=0.4, warmup=0.0))
        values.append(loss_of(model, image, given, weight))
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert values[0] == pytest.approx(values[2], rel=1e-6)
    before = [ops.convert_to_numpy(w).copy() for w in model.weights]
    mask[1, 2, 2] = 7
    model.train_on_batch(image, mask)
    assert int(model.skipped_steps) == 1
    for w, b in zip(model.weights, before, strict=True):
        if w.path.rsplit("/", 1)[-1] not in ("step", "skipped_steps"):
            np.testing.assert_array_equal(ops.convert_to_numpy(w), b, err_msg=w.path)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_mean_of_logits_has_the_mean_of_probabilities(classes):
    logits = np.random.default_rng(4).normal(0, 3, (2, 5, 4, classes)).astype("float32")
    found = MeanPrediction()(list(logits))
    if classes == 1:
        expected = (1 / (1 + np.exp(-logits.astype("float64")))).mean(0)
        np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(found))), expected, rtol=1e-5)
    else:
        np.testing.assert_allclose(softmax(found), softmax(logits).mean(0), rtol=1e-5)


def test_the_mean_is_predicted_and_exported(tmp_path):
    import tensorflow as tf

    image, mask = batch(5, 2, (8, 8), 3)
    model = compiled(tiny(classes=3), CoTeaching(served="mean"), rate=0.1)
    model.fit(image, mask, epochs=1, verbose=0)
    both = [softmax(n(image)) for n in (model.network, model.objective.partner)]
    np.testing.assert_allclose(
        softmax(model.predict(image, verbose=0)), np.mean(both, 0), atol=1e-6
    )
    assert np.isfinite(model.evaluate(image, mask, verbose=0))
    model.export(tmp_path / "served", verbose=False)
    exported = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(softmax(exported.serve(image)), np.mean(both, 0), atol=1e-5)
    again = mean_of_networks([model.network, model.objective.partner])
    assert again.count_params() == model.served.count_params()


def trained(jit=False, policy=None, served="first"):
    image, mask, _ = blobs(7)
    keras.utils.set_random_seed(3)
    label_model = CoTeaching(forget_rate=0.2, scope="image", served=served)
    model = compiled(tiny(policy=policy), label_model, rate=0.2, jit=jit)
    history = model.fit(image, mask, epochs=2, batch_size=4, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert "label_change" not in history.history
    return model


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    assert int(trained(policy=policy).skipped_steps) == 0


@pytest.mark.parametrize("served", ["first", "mean"])
def test_save_and_load_keep_both_networks(tmp_path, served):
    model = trained(served=served)
    image = blobs(7)[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for network, other in zip(
        (model.network, model.objective.partner),
        (again.network, again.objective.partner),
        strict=True,
    ):
        same_weights(network, other)
    np.testing.assert_allclose(
        again.predict(image, verbose=0), model.predict(image, verbose=0), atol=1e-6
    )


@pytest.mark.slow
def test_xla_gives_the_same():
    same_weights(trained(), trained(jit=True), atol=2e-4)


def test_there_is_no_belief():
    model = compiled(tiny(), CoTeaching())
    assert not model.has_belief
    with pytest.raises(ValueError, match="no belief"):
        model.corrected_labels(0, np.zeros((4, 4), int))
    model.plan_phases(10)
    assert model.phase == "ramp"
