"""Confusion matrices of annotators: their equations, what they recover, and their training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import logsumexp

from keras_robustseg.labels import ConfusionMatrices
from keras_robustseg.training import RobustSegmenter

SHAPES = [(2, 5, 4), (1, 3, 4, 5)]
KINDS = ["global", "pixel"]


def some(rng, space=(2, 5, 4), readers=3, classes=4, missing=0.3):
    """Image, log p and masks with absent readers, and a pixel that nobody labelled."""
    scores = rng.normal(0, 2, (*space, classes)).astype("float32")
    log_p = scores - logsumexp(scores, axis=-1, keepdims=True)
    masks = rng.integers(0, classes, (*space, readers))
    masks = np.where(rng.random(masks.shape) < missing, -1, masks)
    masks[(0,) * len(space)] = -1
    return rng.normal(size=(*space, 1)).astype("float32"), log_p, masks.astype("int32")


def made(kind, readers=3, classes=4, shape=None, seed=0, **options):
    """A layer whose weights are random, so that nothing is symmetric."""
    layer = ConfusionMatrices(readers, classes, kind=kind, **options)
    if kind == "pixel":
        layer.build((None, *shape[1:], 1))
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(weight + rng.normal(0, 0.5 if kind == "global" else 0.15, weight.shape))
    return layer


def spread(matrices, space):
    """T as (B, *S, R, C, C) of either kind."""
    return np.broadcast_to(np.asarray(matrices, "float64"), (*space, *matrices.shape[-3:]))


# Equations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_matrices_are_distributions_over_what_the_annotator_says(kind, space, rank, rng):
    image, log_p, _ = some(rng, space)
    layer = made(kind, shape=space, rank=rank)
    matrices = np.asarray(layer.matrices(image, log_p))
    assert (matrices >= 0).all()
    np.testing.assert_allclose(matrices.sum(-1), 1.0, atol=1e-5)
    assert np.abs(matrices.sum(-2) - 1).max() > 0.05  # not over the truth
    said = np.asarray(layer(log_p, image))
    expected = np.einsum("...k,...rky->...ry", np.exp(log_p), spread(matrices, space))
    np.testing.assert_allclose(said, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SHAPES)
@pytest.mark.parametrize("rank", [1, 2])
def test_loss_and_posterior_are_the_sums_of_the_definition(kind, space, rank, rng):
    image, log_p, masks = some(rng, space)
    layer = made(kind, shape=space, rank=rank, trace_weight=0.3)
    loss, log_q = layer.pixel_loss(log_p, masks, image)
    matrices, p = spread(layer.matrices(image, log_p), space), np.exp(log_p.astype("float64"))
    for pixel in np.ndindex(*space):
        costs, q = [], p[pixel].copy()
        for r, y in enumerate(masks[pixel]):
            if y >= 0:
                table = matrices[pixel][r]
                costs.append(-np.log(p[pixel] @ table[:, y]) + 0.3 * np.trace(table) / 4)
                q *= table[:, y]
        np.testing.assert_allclose(loss[pixel], np.mean(costs) if costs else 0.0, rtol=2e-4)
        np.testing.assert_allclose(np.exp(log_q[pixel]), q / q.sum(), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(layer.posterior(log_p, masks, image), np.exp(log_q), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trust", [0.6, 0.97])
def test_matrices_start_at_trust(kind, trust, rng):
    image, log_p, _ = some(rng)
    layer = ConfusionMatrices(3, 4, kind=kind, trust=trust)
    expected = np.where(np.eye(4, dtype=bool), trust, (1 - trust) / 3)
    found = np.asarray(layer.matrices(image, log_p))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_warm_up_it_is_cross_entropy_and_matrices_rest(kind, rng):
    import tensorflow as tf

    image, log_p, masks = some(rng)
    layer = made(kind, shape=masks.shape[:-1])
    with tf.GradientTape() as tape:
        loss, _ = layer.pixel_loss(log_p, masks, image, warming=tf.constant(True))
    gradients = tape.gradient(loss, layer.trainable_weights)
    assert all(not np.any(g) for g in gradients if g is not None)
    given = masks >= 0
    own = -np.take_along_axis(log_p, masks.clip(0), axis=-1)
    expected = (own * given).sum(-1) / np.maximum(given.sum(-1), 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_certain_prediction_of_a_perfect_annotator_costs_nothing(rng):
    """No second softmax on probabilities: that would cost 0.31 here."""
    masks = rng.integers(0, 2, (1, 6, 5, 1))
    log_p = np.log(np.eye(2, dtype="float32")[masks[..., 0]] + 1e-30)
    layer = ConfusionMatrices(1, 2, kind="global", trust=1 - 1e-6, trace_weight=0.0)
    for given in (masks, masks[..., 0]):
        assert float(ops.max(layer.pixel_loss(log_p, given)[0])) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_pixel_weighs_the_same_however_many_annotators_saw_it(kind, rng):
    image, log_p, masks = some(rng, missing=0.0)
    layer = ConfusionMatrices(3, 4, kind=kind)
    once, thrice = np.full_like(masks, -1), np.repeat(masks[..., :1], 3, axis=-1)
    once[..., 0] = masks[..., 0]
    first, second = (layer.pixel_loss(log_p, m, image)[0] for m in (once, thrice))
    np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, rng):
    import tensorflow as tf

    image, log_p, masks = some(rng, (1, 4, 3))
    layer = made(kind, shape=(1, 4, 3), rank=2, trace_weight=0.2, width=3)
    weights = layer.trainable_weights
    directions = [rng.normal(size=w.shape).astype("float32") for w in weights]
    with tf.GradientTape() as tape:
        value = ops.sum(layer.pixel_loss(log_p, masks, image)[0])
    slope = sum(
        np.sum(g * d) for g, d in zip(tape.gradient(value, weights), directions, strict=True)
    )
    start, ends, step = [np.array(w) for w in weights], [], 1e-3
    for sign in (1, -1):
        for w, at, d in zip(weights, start, directions, strict=True):
            w.assign(at + sign * step * d)
        ends.append(float(ops.sum(layer.pixel_loss(log_p, masks, image)[0])))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=3e-2, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_without_meaning_is_not_quiet(kind, rng):
    image, log_p, masks = some(rng)
    masks[1, 2, 2, 0] = 4
    loss = np.asarray(made(kind, shape=(2, 5, 4)).pixel_loss(log_p, masks, image)[0])
    assert np.isnan(loss[1, 2, 2])
    assert np.isnan(loss).sum() == 1


def test_memory_of_a_pixel_is_no_matrix(rng):
    """With 40 classes no tensor of the loss has C x C numbers for a pixel."""
    import tensorflow as tf

    image, log_p, masks = some(rng, (1, 6, 5), readers=2, classes=40)
    layer = made("pixel", 2, 40, (1, 6, 5), width=4)
    graph = tf.function(lambda: layer.pixel_loss(log_p, masks, image)[0]).get_concrete_function()
    sizes = [
        tensor.shape.num_elements() or 0
        for operation in graph.graph.get_operations()
        for tensor in operation.outputs
        if tensor.shape.rank is not None
    ]
    assert max(sizes) < 30 * 2 * 40 * 40


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind):
    layer = ConfusionMatrices(3, 4, kind=kind, rank=2, warmup=0.2, trust=0.7, width=5)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is ConfusionMatrices
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "image"}, "'image'"),
        ({"rank": 0}, "`rank` must be at least 1"),
        ({"trace_weight": -1.0}, "`trace_weight`"),
        ({"warmup": 1.5}, "`warmup`"),
        ({"trust": 0.5}, r"\(1/2, 1\)"),
        ({"num_annotators": 0}, "`num_annotators`"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrices(**{"num_annotators": 2, "num_classes": 2, **options})


@pytest.mark.parametrize(
    "masks",
    [np.zeros((2, 5, 4, 2), "int32"), np.zeros((2, 5, 4), "int32"), np.zeros((2, 5, 4, 3))],
)
def test_masks_that_do_not_say_who_drew_them_are_refused(masks, rng):
    _, log_p, _ = some(rng)
    with pytest.raises(ValueError, match="who said what"):
        ConfusionMatrices(3, 4, kind="global").pixel_loss(log_p, masks)
    with pytest.raises(ValueError, match="depend on the pixel"):
        ConfusionMatrices(3, 4, kind="pixel").matrices()


# Training ----------------------------------------------------------------------------------------


def planted(rng, count=48, side=8, missing=0.3):
    """Pixels of three grey values with noise; a good, a poor, a cyclic and a blank annotator."""
    truth = rng.integers(0, 3, (count, side, side))
    image = (truth[..., None] - 1 + rng.normal(0, 0.3, (*truth.shape, 1))).astype("float32")
    eye, cycle = np.eye(3), np.roll(np.eye(3), 1, axis=1)
    uniform, blank = np.full((3, 3), 1 / 3), np.tile([1.0, 0.0, 0.0], (3, 1))
    matrices = np.stack(
        [
            0.95 * eye + 0.05 * uniform,
            0.7 * eye + 0.3 * uniform,
            0.6 * eye + 0.4 * cycle,
            0.98 * blank + 0.02 * uniform,
        ]
    )
    chance = matrices[:, truth].cumsum(-1)
    masks = np.moveaxis((chance > rng.random((4, *truth.shape, 1))).argmax(-1), 0, -1)
    absent = rng.random((count, 1, 1, 4)) < missing
    return image, truth, matrices, np.where(absent, -1, masks).astype("int32")


def network(classes=3, policy="float32", side=8):
    keras.utils.set_random_seed(1)
    image = keras.Input((side, side, 1))
    hidden = keras.layers.Dense(16, activation="relu", dtype=policy)(image)
    return keras.Model(image, keras.layers.Dense(classes, dtype=policy)(hidden))


def trainer(label_model, policy="float32", rate=0.02, **options):
    compiled = {"jit_compile": options.pop("jit_compile", False)}
    model = RobustSegmenter(network(policy=policy), label_model, **options)
    model.compile(keras.optimizers.Adam(rate), **compiled)
    return model


def test_training_recovers_planted_annotators(rng):
    image, truth, matrices, masks = planted(rng)
    layer = ConfusionMatrices(4, 3, kind="global")
    model = trainer(layer)
    before = np.asarray(layer.matrices())
    model.fit(image, masks, batch_size=16, epochs=100, verbose=0)
    found = np.asarray(layer.matrices())
    assert np.abs(before - matrices).max() > 0.5
    np.testing.assert_allclose(found, matrices, atol=0.08)
    assert (model.predict(image, verbose=0).argmax(-1) == truth).mean() > 0.9
    belief = np.stack([model.corrected_labels(0, m, x) for m, x in zip(masks, image, strict=True)])
    assert (belief.argmax(-1) == truth).mean() > 0.96


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_owns_the_matrices_and_saves_them(kind, rng, tmp_path):
    image, _, _, masks = planted(rng, count=8)
    model = trainer(ConfusionMatrices(4, 3, kind=kind, warmup=0.5, width=4), region_weight=0.5)
    own = {w.path for w in model.label_model.trainable_weights}
    assert own
    assert own <= {w.path for w in model.trainable_variables}
    assert not own & {w.path for w in model.network.weights}
    start = [np.array(w) for w in model.label_model.trainable_weights]
    model.plan_phases(8)
    for step in range(6):
        if step == 4:
            rested = [np.array(w) for w in model.label_model.trainable_weights]
        logs = model.train_on_batch(image, masks, return_dict=True)
        assert np.isfinite(logs["loss"])
    assert all((a == b).all() for a, b in zip(start, rested, strict=True))
    moved = [np.array(w) for w in model.label_model.trainable_weights]
    assert any((a != b).any() for a, b in zip(start, moved, strict=True))
    model.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    both = [float(m.train_on_batch(image, masks)[0]) for m in (model, again)]
    np.testing.assert_allclose(*both, rtol=1e-6)
    assert again.evaluate(image, masks, verbose=0) == pytest.approx(
        model.evaluate(image, masks, verbose=0), rel=1e-4
    )
    model.export(tmp_path / "served", verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "served", call_endpoint="serve")
    np.testing.assert_allclose(served(image), model.predict(image, verbose=0), atol=1e-5)
    assert len(served.weights) == len(model.network.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_void_and_weightless_pixels_are_not_looked_at(kind, rng):
    image, _, _, masks = planted(rng, count=4)
    hidden = rng.random(masks.shape[:-1]) < 0.3
    other = masks.copy()
    other[hidden] = 99
    losses = []
    for given, weight in ((np.where(hidden[..., None], -1, masks), None), (other, ~hidden)):
        model = trainer(ConfusionMatrices(4, 3, kind=kind, warmup=0.0, width=4))
        weight = None if weight is None else weight.astype("float32")
        losses.append(
            [model.train_on_batch(image, given, sample_weight=weight)[0] for _ in range(3)]
        )
        assert int(model.skipped_steps) == 0
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_everywhere_moves_nothing(kind, rng):
    image, _, _, masks = planted(rng, count=4)
    model = trainer(ConfusionMatrices(4, 3, kind=kind, warmup=0.0, width=4))
    before = [np.array(w) for w in model.trainable_variables]
    assert float(model.train_on_batch(image, np.full_like(masks, -1))[0]) == 0.0
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_mixed_precision_trains_float32_matrices(rng):
    image, _, _, masks = planted(rng, count=8)
    model = trainer(ConfusionMatrices(4, 3, kind="pixel", warmup=0.0, width=4), "mixed_float16")
    losses = [float(model.train_on_batch(image, masks)[0]) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert {w.dtype for w in model.label_model.trainable_weights} == {"float32"}


def test_a_step_is_the_same_compiled(rng):
    image, _, _, masks = planted(rng, count=4)
    results = []
    for jit in (False, True):
        keras.utils.set_random_seed(3)
        layer = ConfusionMatrices(4, 3, kind="pixel", warmup=0.0, width=4, rank=2)
        model = trainer(layer, jit_compile=jit, region_weight=1.0)
        losses = [model.train_on_batch(image, masks)[0] for _ in range(3)]
        results.append([*losses, *np.concatenate([np.ravel(w) for w in layer.weights])])
    np.testing.assert_allclose(*results, rtol=2e-3, atol=1e-4)


def test_a_network_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        RobustSegmenter(network(), ConfusionMatrices(4, 2))
