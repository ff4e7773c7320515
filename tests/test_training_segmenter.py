"""RobustSegmenter: what a step does to network and rows, whatever the form of the data."""

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from keras_robustseg.labels import Pencil, full_logits, initial_logits
from keras_robustseg.losses import CrossEntropy
from keras_robustseg.training import RobustSegmenter


def logits_only(shape, classes):
    """A network whose prediction is its input: p is known to the test."""
    image = keras.Input((*shape, classes))
    return keras.Model(image, keras.layers.Activation("linear", dtype="float32")(image))


def tiny(channels=1, classes=2, dims=2, norm=True):
    conv = keras.layers.Conv2D if dims == 2 else keras.layers.Conv3D
    image = keras.Input((*[None] * dims, channels))
    x = conv(4, 3, padding="same")(image)
    x = keras.layers.BatchNormalization()(x) if norm else x
    x = keras.layers.Activation("relu")(x)
    return keras.Model(
        image, keras.layers.Activation("linear", dtype="float32")(conv(classes, 1)(x))
    )


def batch(seed=0, count=4, shape=(6, 7), classes=2, channels=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, *shape, channels)).astype("float32")
    return image, rng.integers(0, classes, (count, *shape)).astype("int32")


def compiled(network, pencil=None, shapes=None, rate=0.0, jit=False, **options):
    model = RobustSegmenter(network, pencil, label_shapes=shapes, **options)
    loss = None if pencil else CrossEntropy()
    model.compile(keras.optimizers.SGD(rate), loss=loss, jit_compile=jit)
    return model


def loss_of(model, inputs, mask):
    return float(model.train_on_batch(inputs, mask, return_dict=True)["loss"])


def rows_after(model, logits, mask, weight=None, ids=None):
    """Label rows of the model after one step on these logits."""
    inputs = {"image": logits, "sample_id": np.arange(len(mask)) if ids is None else ids}
    model.plan_phases(1)
    model.train_on_batch(inputs, mask, sample_weight=weight)
    return ops.convert_to_numpy(model.label_store.delta).reshape(len(mask), *mask.shape[1:], -1)


@pytest.mark.parametrize("classes", [2, 4])
def test_one_step_moves_the_rows_by_the_closed_form(classes):
    logits, mask = batch(1, 3, (5, 4), classes, classes)
    pencil = Pencil(flip_margin=0.3, label_rate=1.7, warmup=0.0)
    model = compiled(logits_only((5, 4), classes), pencil, [(5, 4)] * 3)
    delta = rows_after(model, logits, mask)
    p = ops.convert_to_numpy(ops.softmax(logits, axis=-1))
    yhat = np.eye(classes)[mask]
    q = np.exp(10 * yhat) / np.exp(10 * yhat).sum(-1, keepdims=True)
    step = 1.7 * ((p - q) + 0.3 * (yhat - q))
    np.testing.assert_allclose(delta, step[..., 1:] - step[..., :1], atol=2e-5)


def test_the_loss_is_the_papers_plus_the_region_term():
    logits, mask = batch(2, 3, (5, 4), 3, 3)
    pencil = Pencil(alpha=0.1, entropy=0.4, warmup=0.0)
    model = compiled(logits_only((5, 4), 3), pencil, [(5, 4)] * 3, region_weight=0.7)
    model.plan_phases(1)
    inputs = {"image": logits, "sample_id": np.arange(3)}
    loss = loss_of(model, inputs, mask)
    p = ops.convert_to_numpy(ops.softmax(logits, axis=-1)).astype("float64")
    yhat = np.eye(3)[mask]
    q = np.exp(10 * yhat) / np.exp(10 * yhat).sum(-1, keepdims=True)
    paper = (p * (np.log(p) - np.log(q))).sum(-1) / 3 - 0.1 * (yhat * np.log(q)).sum(-1)
    paper += 0.4 / 3 * -(p * np.log(p)).sum(-1)
    distance, size = ((p - q) ** 2)[..., 1:], (p**2 + q**2)[..., 1:]
    dice = distance.sum((1, 2)) / size.sum((1, 2))
    assert loss == pytest.approx(paper.mean() + 0.7 * dice.mean(), rel=1e-5)


def test_rows_do_not_depend_on_batch_size_or_void_content_and_void_never_moves():
    logits, mask = batch(3, 4, (5, 6), 2, 2)
    weight = np.ones(mask.shape, "float32")
    weight[:, 0] = 0
    pencil = Pencil(warmup=0.0)
    whole = compiled(logits_only((5, 6), 2), pencil, [(5, 6)] * 4)
    together = rows_after(whole, logits, mask, weight)
    assert np.abs(together[:, 0]).max() == 0
    assert np.abs(together[:, 1:]).min() > 0
    for i in range(4):
        alone = compiled(logits_only((5, 6), 2), pencil, [(5, 6)])
        other = mask[i : i + 1].copy()
        other[:, 0] = -1
        found = rows_after(alone, logits[i : i + 1], other, weight[i : i + 1])
        np.testing.assert_allclose(found[0], together[i], atol=1e-6)


def test_warm_up_keeps_the_rows_and_is_cross_entropy():
    logits, mask = batch(4, 2, (5, 4), 2, 2)
    model = compiled(logits_only((5, 4), 2), Pencil(warmup=1.0), [(5, 4)] * 2, region_weight=0.0)
    model.plan_phases(10)
    inputs = {"image": logits, "sample_id": np.arange(2)}
    loss = loss_of(model, inputs, mask)
    assert loss == pytest.approx(float(CrossEntropy()(mask, logits)), rel=1e-5)
    assert np.abs(ops.convert_to_numpy(model.label_store.delta)).max() == 0
    assert model.phase == "warm-up"


def test_fine_tuning_freezes_the_rows():
    logits, mask = batch(4, 2, (5, 4), 2, 2)
    model = compiled(logits_only((5, 4), 2), Pencil(warmup=0.0, finetune=0.5), [(5, 4)] * 2)
    model.plan_phases(4)
    inputs = {"image": logits, "sample_id": np.arange(2)}
    tables = []
    for _ in range(4):
        model.train_on_batch(inputs, mask)
        tables.append(ops.convert_to_numpy(model.label_store.delta).copy())
    assert np.abs(tables[1] - tables[0]).max() > 0
    assert np.array_equal(tables[1], tables[3])
    assert model.phase == "fine-tuning"


def test_only_the_visited_images_change():
    logits, mask = batch(5, 2, (5, 4), 2, 2)
    model = compiled(logits_only((5, 4), 2), Pencil(warmup=0.0), [(5, 4)] * 6)
    inputs = {"image": logits, "sample_id": np.array([4, 1])}
    model.plan_phases(1)
    model.train_on_batch(inputs, mask)
    moved = [np.abs(model.label_store.sample(i)).max() > 0 for i in range(6)]
    assert moved == [False, True, False, False, True, False]


@pytest.mark.parametrize("turn", range(8))
def test_symmetries_move_the_rows_with_the_image_and_back(turn):
    logits, mask = batch(6, 1, (5, 5), 2, 2)
    index = np.arange(25, dtype="int32").reshape(5, 5)

    def move(array):
        moved = np.rot90(array, turn % 4)
        return moved[:, ::-1] if turn >= 4 else moved

    straight = compiled(logits_only((5, 5), 2), Pencil(warmup=0.0), [(5, 5)])
    plain = rows_after(straight, logits, mask)
    turned = compiled(logits_only((5, 5), 2), Pencil(warmup=0.0), [(5, 5)])
    turned.plan_phases(1)
    inputs = {
        "image": np.ascontiguousarray(move(logits[0]))[None],
        "sample_id": np.zeros(1, "int32"),
        "pixel_index": np.ascontiguousarray(move(index))[None, ..., None],
    }
    turned.train_on_batch(inputs, np.ascontiguousarray(move(mask[0]))[None])
    np.testing.assert_allclose(turned.label_store.sample(0), plain[0], atol=1e-6)


def test_without_a_store_the_loss_is_at_its_optimum_and_needs_no_ids():
    logits, mask = batch(7, 2, (5, 4), 2, 2)
    pencil = Pencil(flip_margin=0.25, warmup=0.0, entropy=0.0, store="none")
    model = compiled(logits_only((5, 4), 2), pencil, region_weight=0.0)
    model.plan_phases(1)
    loss = loss_of(model, logits, mask)
    p = ops.convert_to_numpy(ops.softmax(logits, axis=-1)).astype("float64")
    yhat = np.eye(2)[mask]
    q = 0.8 * p + 0.2 * yhat
    value = ((p * np.log(p / q)).sum(-1) - 0.25 * (yhat * np.log(q)).sum(-1)) / 2
    assert loss == pytest.approx(value.mean(), rel=1e-5)


@pytest.mark.parametrize("pencil", [None, Pencil(warmup=0.0)])
def test_a_step_that_is_not_finite_changes_nothing(pencil):
    image, mask = batch(8)
    model = compiled(tiny(), pencil, [(6, 7)] * 4, rate=0.1)
    inputs = {"image": image, "sample_id": np.arange(4)}
    model.train_on_batch(inputs, mask)
    before = [ops.convert_to_numpy(w).copy() for w in model.weights]
    broken = {**inputs, "image": image.copy()}
    broken["image"][1, 2, 3] = np.nan
    model.train_on_batch(broken, mask)
    assert int(model.skipped_steps) == 1
    for weight, old in zip(model.weights, before, strict=True):
        if weight.path.rsplit("/", 1)[-1] not in ("step", "skipped_steps"):
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)
    model.train_on_batch(inputs, mask)
    assert int(model.skipped_steps) == 1
    assert np.isfinite(ops.convert_to_numpy(model.weights[0])).all()


@pytest.mark.parametrize(
    ("shape", "classes", "form"),
    [
        ((9, 7), 3, "ids"),
        ((9, 7), 2, "soft"),
        ((5, 6, 7), 2, "ids"),
        ((9, 7), 3, "readers"),
        ((8, 8), 2, "binary logit"),
    ],
)
def test_every_form_of_mask_trains(shape, classes, form):
    image, mask = batch(9, 4, shape, classes)
    if form == "soft":
        mask = np.eye(classes, dtype="float32")[mask] * 0.8 + 0.2 / classes
    if form == "readers":
        mask = np.stack([mask, np.roll(mask, 1, 1), np.full_like(mask, -1)], axis=-1)
    outputs = 1 if form == "binary logit" else classes
    model = compiled(
        tiny(classes=outputs, dims=len(shape)), Pencil(warmup=0.0), [shape] * 4, rate=0.05
    )
    data = {"image": image, "sample_id": np.arange(4)}
    losses = model.fit(data, mask, batch_size=2, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    labels = model.corrected_labels(2, mask[2])
    assert labels.shape == (*shape, classes)
    np.testing.assert_allclose(labels.sum(-1), 1.0, atol=1e-5)


def test_empty_and_all_void_masks_give_finite_steps():
    image, mask = batch(10)
    for value in (0, 1, -1):
        model = compiled(tiny(), Pencil(warmup=0.0), [(6, 7)] * 4, rate=0.1)
        data = {"image": image, "sample_id": np.arange(4)}
        loss = loss_of(model, data, np.full_like(mask, value))
        assert np.isfinite(loss)
        assert int(model.skipped_steps) == 0
    assert loss == 0.0


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_labels_in_float32_and_scales_the_loss(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(tiny(norm=False), Pencil(warmup=0.0), [(6, 7)] * 4, rate=0.05)
    finally:
        keras.config.set_dtype_policy("float32")
    image, mask = batch(11)
    model.fit({"image": image, "sample_id": np.arange(4)}, mask, epochs=2, verbose=0)
    assert keras.backend.standardize_dtype(model.label_store.delta.dtype) == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert np.abs(model.label_store.sample(0)).max() > 0


def train_twice(steps_per_execution=1, jit=False, accumulation=None):
    image, mask = batch(12, 8)
    keras.utils.set_random_seed(1)
    model = RobustSegmenter(tiny(), Pencil(warmup=0.25), label_shapes=[(6, 7)] * 8)
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=accumulation)
    model.compile(optimizer, steps_per_execution=steps_per_execution, jit_compile=jit)
    data = {"image": image, "sample_id": np.arange(8)}
    model.fit(data, mask, batch_size=2, epochs=2, shuffle=False, verbose=0)
    return model


def test_steps_per_execution_changes_nothing():
    one, four = train_twice(), train_twice(steps_per_execution=4)
    for a, b in zip(one.weights, four.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=1e-6, err_msg=a.path
        )


@pytest.mark.slow
def test_xla_gives_the_same_rows_and_weights():
    for a, b in zip(train_twice().weights, train_twice(jit=True).weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=2e-5, err_msg=a.path
        )


def test_gradient_accumulation_moves_rows_every_batch():
    model = train_twice(accumulation=2)
    assert int(model.step) == 8
    assert np.abs(ops.convert_to_numpy(model.label_store.delta)).max() > 0


def test_deep_supervision_counts_the_outputs_by_halves():
    image = keras.Input((5, 4, 2))
    outputs = [keras.layers.Activation("linear", dtype="float32")(image * s) for s in (1.0, 2.0)]
    logits, mask = batch(13, 2, (5, 4), 2, 2)
    model = compiled(keras.Model(image, outputs))
    loss = loss_of(model, logits, mask)
    each = [float(CrossEntropy()(mask, logits * s)) for s in (1.0, 2.0)]
    assert loss == pytest.approx((2 * each[0] + each[1]) / 3, rel=1e-5)
    assert model.predict(logits, verbose=0).shape == logits.shape


def test_save_and_load_keep_rows_and_predictions(tmp_path):
    image, mask = batch(14)
    model = compiled(tiny(), Pencil(warmup=0.0), [(6, 7)] * 4, rate=0.05)
    model.fit({"image": image, "sample_id": np.arange(4)}, mask, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.corrected_labels(1, mask[1]), model.corrected_labels(1, mask[1])
    )
    np.testing.assert_allclose(again.predict(image, verbose=0), model.predict(image, verbose=0))


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="label_shapes"):
        RobustSegmenter(tiny(), Pencil())
    with pytest.raises(ValueError, match="region_weight"):
        RobustSegmenter(tiny(), region_weight=-1.0)
    model = compiled(tiny(), Pencil(), [(6, 7)] * 4)
    image, mask = batch()
    with pytest.raises(ValueError, match="sample_id"):
        model.fit(image, mask, verbose=0)
    with pytest.raises(ValueError, match="no label rows"):
        compiled(tiny()).corrected_labels(0, mask[0])


def test_plain_training_takes_any_keras_loss():
    image, mask = batch(15)
    model = RobustSegmenter(tiny())
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(image, mask, epochs=1, verbose=0).history["loss"]).all()
    assert np.isfinite(model.evaluate(image, mask, verbose=0))


def squared_dice(p, q):
    """Mean over images of 1 - 2 <p, q> / (|p|^2 + |q|^2) of class 1, empty q counted."""
    p, q = p[..., 1], q[..., 1]
    size = (p**2 + q**2).sum((1, 2)) + 0.01 * p[0].size * (q.max((1, 2)) < 0.1)
    return (((p - q) ** 2).sum((1, 2)) / size).mean()


def test_region_term_is_squared_dice_against_the_labels():
    logits, mask = batch(16, 3, (5, 4), 2, 2)
    mask[1] = 0
    with_region, without = (
        compiled(logits_only((5, 4), 2), Pencil(warmup=1.0), [(5, 4)] * 3, region_weight=g)
        for g in (1.5, 0.0)
    )
    inputs = {"image": logits, "sample_id": np.arange(3)}
    values = []
    for model in (with_region, without):
        model.plan_phases(5)
        values.append(loss_of(model, inputs, mask))
    q = scipy.special.softmax(initial_logits(np.eye(2, dtype="float32")[mask]), axis=-1)
    dice = squared_dice(scipy.special.softmax(logits, axis=-1), q)
    assert values[0] - values[1] == pytest.approx(1.5 * dice, rel=1e-4)
    assert full_logits(np.zeros((1, 1), "float32")).shape == (1, 2)
