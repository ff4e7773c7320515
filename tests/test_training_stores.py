"""Training with each store; single labels; steps whose gradient is not finite."""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg.labels import Pencil
from keras_robustseg.losses import GeneralizedJensenShannon
from keras_robustseg.training import RobustSegmenter

CHILD = Path(__file__).with_name("store_child.py")


def plain(**options):
    """The published method: every label may move, and every image counts alike."""
    return Pencil(presence=0.0, image_weights=0.0, mass_floor=0.0, **options)


def logits_only(shape, classes):
    """A network whose prediction is its input: p is known to the test."""
    image = keras.Input((*shape, classes))
    return keras.Model(image, keras.layers.Activation("linear", dtype="float32")(image))


def tiny(classes=2):
    image = keras.Input((6, 7, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(momentum=0.8)(x))
    return keras.Model(image, keras.layers.Conv2D(classes, 1)(x))


def batch(seed=0, count=4, shape=(6, 7), classes=2, channels=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, *shape, channels)).astype("float32")
    return image, rng.integers(0, classes, (count, *shape)).astype("int32")


def compiled(network, pencil, count=4, shape=(6, 7), rate=0.05, jit=False, **options):
    model = RobustSegmenter(network, pencil, label_shapes=[shape] * count, **options)
    model.compile(keras.optimizers.SGD(rate), jit_compile=jit)
    return model


def trained(pencil, **options):
    keras.utils.set_random_seed(1)
    image, mask = batch(12, 8)
    model = compiled(tiny(), pencil, 8, **options)
    data = {"image": image, "sample_id": np.arange(8)}
    model.fit(data, mask, batch_size=2, epochs=3, shuffle=False, verbose=0)
    return model


def test_rows_on_a_disk_train_as_rows_on_the_device(tmp_path):
    disk = trained(plain(warmup=0.2, store="disk"), label_directory=tmp_path)
    device = trained(plain(warmup=0.2))
    for number in range(8):
        found, wanted = disk.label_store.sample(number), device.label_store.sample(number)
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    pairs = zip(disk.network.get_weights(), device.network.get_weights(), strict=True)
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("storage", "atol"), [("float16", 0.02), ("uint8", 0.4)])
@pytest.mark.parametrize("store", ["device", "disk"])
def test_small_storage_trains_to_nearly_the_same_labels(storage, atol, store):
    small = trained(plain(warmup=0.2, storage=storage, store=store))
    full = trained(plain(warmup=0.2))
    for number in range(8):
        difference = small.label_store.sample(number) - full.label_store.sample(number)
        assert np.abs(difference).max() < atol


def test_rows_on_a_disk_refuse_xla():
    with pytest.raises(ValueError, match="jit_compile"):
        compiled(tiny(), plain(store="disk"), jit=True)
    auto = RobustSegmenter(tiny(), plain(store="disk"), label_shapes=[(6, 7)] * 4)
    auto.compile("sgd")
    assert not auto.jit_compile


def test_rows_run_to_convergence_reach_the_optimum_and_its_gradient():
    """The stored method at a network that stands still, against the closed form."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    p = 0.9 * rng.dirichlet(np.ones(3), (2, 4, 5)) + 0.1 / 3
    logits, mask = np.log(p).astype("float32"), rng.integers(0, 3, (2, 4, 5)).astype("int32")
    mask[0, 0, 0] = -1
    pencil = plain(trust=0.2, entropy=0.3, label_rate=1.5, warmup=0.0)
    model = compiled(logits_only((4, 5), 3), pencil, 2, (4, 5), 0.0, region_weight=0.0)
    model.plan_phases(10**6)
    data = tf.data.Dataset.from_tensors(({"image": logits, "sample_id": np.arange(2)}, mask))
    model.fit(data.repeat(300), epochs=1, verbose=0)
    for number in range(2):
        q = model.corrected_labels(number, mask[number])
        wanted = 0.8 * p[number] + 0.2 * np.eye(3)[mask[number]]
        valid = mask[number] >= 0
        np.testing.assert_allclose(q[valid], wanted[valid], atol=1e-6)
    model.plan_phases(10**6)  # `fit` has laid the phases over its own steps
    x = {"image": tf.constant(logits), "sample_id": tf.range(2)}
    closed = GeneralizedJensenShannon(trust=0.2, entropy=0.3)
    closed_form = Pencil(**{**pencil.get_config(), "store": "none"})
    none = compiled(logits_only((4, 5), 3), closed_form, region_weight=0.0)
    none.plan_phases(10**6)
    gradients = []
    for loss in (
        functools.partial(model.compute_loss, x, mask),
        functools.partial(none.compute_loss, x, mask),
        functools.partial(closed, mask),
    ):
        with tf.GradientTape() as tape:
            z = tf.Variable(logits)
            value = loss(z)
        gradients.append(tape.gradient(value, z).numpy())
    assert np.abs(gradients[2]).max() > 1e-3
    np.testing.assert_allclose(gradients[0], gradients[2], atol=1e-7)
    np.testing.assert_allclose(gradients[1], gradients[2], atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "official_code"},
        {"direction": "label_first"},
        {"direction": "label_first", "compatibility": "kl"},
    ],
)
def test_each_variant_moves_rows_by_its_own_equation(options):
    logits, mask = batch(1, 3, (5, 4), 3, 3)
    pencil = plain(flip_margin=0.3, label_rate=1.7, warmup=0.0, **options)
    model = compiled(logits_only((5, 4), 3), pencil, 3, (5, 4), region_weight=0.0)
    model.plan_phases(10)
    inputs = {"image": logits, "sample_id": np.arange(3)}
    yhat = np.eye(3, dtype="float32")[mask]
    log_p = ops.log_softmax(logits, axis=-1)
    delta = np.zeros((3, 5, 4, 2), "float32")
    for _ in range(2):
        z = pencil.start(yhat) + ops.concatenate([np.zeros_like(delta[..., :1]), delta], axis=-1)
        log_q = ops.log_softmax(z, axis=-1)
        wanted = float(ops.mean(pencil.pixel_loss(log_p, log_q, yhat)))
        loss = model.train_on_batch(inputs, mask, return_dict=True)["loss"]
        assert float(loss) == pytest.approx(wanted, rel=1e-5)
        step = pencil.row_step(log_p, log_q, yhat, flip_margin=0.3)
        delta = delta + 1.7 * ops.convert_to_numpy(step)
    for number in range(3):
        np.testing.assert_allclose(model.label_store.sample(number), delta[number], atol=2e-5)


def test_the_closed_form_of_label_first_is_the_papers_value_at_its_optimum():
    logits, mask = batch(1, 3, (5, 4), 3, 3)
    pencil = plain(flip_margin=0.3, warmup=0.0, store="none", direction="label_first")
    model = compiled(logits_only((5, 4), 3), pencil, region_weight=0.0)
    model.plan_phases(10)
    log_p, yhat = ops.log_softmax(logits, axis=-1), np.eye(3, dtype="float32")[mask]
    log_q = pencil.optimum(log_p, yhat, flip_margin=0.3)
    wanted = float(ops.mean(pencil.pixel_loss(log_p, log_q, yhat)))
    loss = model.train_on_batch(logits, mask, return_dict=True)["loss"]
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_the_teacher_is_the_average_of_the_network():
    """Weights and batch-norm statistics, with the decay's ramp, against NumPy."""
    keras.utils.set_random_seed(0)
    image, mask = batch(3)
    pencil = plain(store="teacher", warmup=0.0, teacher_decay=0.25)
    model = compiled(tiny(), pencil, rate=0.2)
    model.plan_phases(100)
    average = [w.copy() for w in model.network.get_weights()]
    for t in range(6):
        model.train_on_batch(image, mask)
        decay = min(0.25, (1 + t) / (10 + t))
        now = model.network.get_weights()
        average = [decay * a + (1 - decay) * w for a, w in zip(average, now, strict=True)]
    found = [ops.convert_to_numpy(w) for w in model.teacher.weights]
    moved = [np.abs(a - b).max() for a, b in zip(found, model.network.get_weights(), strict=True)]
    assert max(moved) > 1e-3
    for a, b in zip(found, average, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_labels_follow_the_teacher_and_the_export_does_not_know_it(tmp_path):
    image, mask = batch(4)
    pencil = plain(store="teacher", warmup=0.0, flip_margin=0.25)
    model = compiled(tiny(), pencil, region_weight=0.0)
    model.plan_phases(100)
    rng = np.random.default_rng(0)
    for weight in model.teacher.weights:
        weight.assign(weight + 0.3 * rng.uniform(size=weight.shape))
    twin = tiny()
    twin.set_weights([ops.convert_to_numpy(w) for w in model.teacher.weights])
    p_bar = ops.softmax(twin(image, training=False), axis=-1)
    log_p = ops.log_softmax(model.network(image, training=True), axis=-1)
    yhat = np.eye(2, dtype="float32")[mask]
    q = 0.8 * p_bar + 0.2 * yhat
    wanted = float(ops.mean(pencil.pixel_loss(log_p, ops.log(q), yhat)))
    names = [w.path for w in model.network.weights]
    loss = model.train_on_batch(image, mask, return_dict=True)["loss"]
    assert float(loss) == pytest.approx(wanted, rel=1e-4)
    assert [w.path for w in model.network.weights] == names
    assert not model.teacher.trainable_variables
    model.network.save(tmp_path / "network.keras")
    assert len(keras.saving.load_model(tmp_path / "network.keras").weights) == len(names)


def broken_root():
    """logits = conv(x) + sqrt(relu(b)): finite, and with an infinite slope in b at b = 0."""
    image = keras.Input((6, 7, 1))
    x = keras.layers.Conv2D(2, 1)(keras.layers.BatchNormalization()(image))
    return keras.Model(image, Root()(x))


@keras.saving.register_keras_serializable("tests")
class Root(keras.layers.Layer):
    """x + sqrt(b) with a weight b = 0."""

    def build(self, shape):
        self.b = self.add_weight(name="b", shape=(), initializer="zeros")

    def call(self, x):
        return x + ops.sqrt(self.b) * ops.array([0.0, 1.0])


@pytest.mark.parametrize("store", ["device", "disk", "teacher"])
def test_a_gradient_that_is_not_finite_moves_nothing(store):
    image, mask = batch(8)
    model = compiled(broken_root(), plain(warmup=0.0, store=store), rate=0.1)
    model.plan_phases(100)
    before = [ops.convert_to_numpy(w).copy() for w in model.weights]
    loss = model.train_on_batch({"image": image, "sample_id": np.arange(4)}, mask)
    assert np.isfinite(np.asarray(loss)).all()
    assert int(model.skipped_steps) == 1
    for weight, old in zip(model.weights, before, strict=True):
        if weight.path.rsplit("/", 1)[-1] not in ("step", "skipped_steps"):
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), old, err_msg=weight.path)
    if model.label_store is not None:
        assert all(np.abs(model.label_store.sample(i)).max() == 0 for i in range(4))


def test_an_overflow_of_the_loss_scale_moves_no_rows_and_is_no_broken_step():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = keras.Input((6, 7, 1))
        x = keras.layers.Conv2D(2, 1)(image)
        network = keras.Model(image, keras.layers.Activation("linear", dtype="float32")(x))
        model = compiled(network, plain(warmup=0.0), rate=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    model.plan_phases(100)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(2.0**60)
    image, mask = batch(8)
    data = {"image": 100 * image, "sample_id": np.arange(4)}
    model.train_on_batch(data, mask)
    assert float(model.optimizer.dynamic_scale) == 2.0**59
    assert int(model.skipped_steps) == 0
    assert np.abs(model.label_store.sample(0)).max() == 0
    model.optimizer.dynamic_scale.assign(2.0)
    model.train_on_batch(data, mask)
    assert np.abs(model.label_store.sample(0)).max() > 0


@pytest.mark.parametrize("store", ["device", "disk", "teacher", "none"])
def test_one_label_an_image_is_classification(store):
    """Images with labels (B,), network with outputs (B, C)."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(64, 5)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    x[:, 0] += 4 * y - 2
    given = np.where(rng.random(64) < 0.2, 1 - y, y).astype("int32")
    image = keras.Input((5,))
    network = keras.Model(image, keras.layers.Dense(2)(image))
    pencil = plain(store=store, warmup=0.3, label_rate=2.0)
    model = RobustSegmenter(network, pencil, label_shapes=[()] * 64)
    model.compile(keras.optimizers.Adam(0.05), metrics=["accuracy"])
    data = {"image": x, "sample_id": np.arange(64)}
    model.fit(data, given, batch_size=16, epochs=30, verbose=0)
    assert model.predict(x, verbose=0).shape == (64, 2)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.85
    if model.label_store is not None:
        labels = [model.corrected_labels(i, given[i]).argmax() for i in range(64)]
        assert (np.array(labels) == y).mean() > (given == y).mean()


def test_rows_do_not_depend_on_the_batch_for_any_store(tmp_path):
    logits, mask = batch(3, 4, (5, 6), 2, 2)
    tables = []
    for store in ("device", "disk"):
        for size in (4, 1, 2):
            pencil = plain(warmup=0.0, store=store)
            model = compiled(logits_only((5, 6), 2), pencil, 4, (5, 6), 0.0)
            model.plan_phases(100)
            data = {"image": logits, "sample_id": np.arange(4)}
            model.fit(data, mask, batch_size=size, shuffle=False, verbose=0)
            tables.append([model.label_store.sample(i) for i in range(4)])
    for table in tables[1:]:
        np.testing.assert_allclose(table, tables[0], atol=1e-6)


def child(directory, kill, storage):
    command = [sys.executable, str(CHILD), str(directory), str(kill), storage]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_run_with_rows_on_a_disk_that_was_killed_equals_one_that_was_not(tmp_path, storage):
    straight = child(tmp_path / "straight", 0, storage)
    assert straight.returncode == 0, straight.stderr
    for kill in (3, 4, 6):
        assert child(tmp_path / "killed", kill, storage).returncode == -signal.SIGKILL
    resumed = child(tmp_path / "killed", 0, storage)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == straight.stdout
    assert straight.stdout.startswith("digest ")


def test_a_crash_in_the_middle_ends_with_the_same_bits(tmp_path):
    from resume_child import fit
    from store_child import build, digest
    from test_training_resume import Stop

    model, *data = build(tmp_path / "straight", "uint8")
    fit(model, *data, tmp_path / "straight", epochs=2)
    stopped = tmp_path / "stopped"
    with pytest.raises(RuntimeError, match="crash"):
        fit(*build(stopped, "uint8"), stopped, Stop(7), epochs=2)
    again, *data = build(stopped, "uint8")
    fit(again, *data, stopped, epochs=2)
    assert digest(again) == digest(model)
    assert len(digest(model)) == hashlib.sha256().digest_size * 2


@pytest.mark.slow
def test_jax_does_the_same():
    pytest.importorskip("jax")
    child = CHILD.with_name("store_jax_child.py")
    results = []
    for backend in ("tensorflow", "jax"):
        run = subprocess.run(
            [sys.executable, str(child)],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        results.append(json.loads(run.stdout.splitlines()[-1]))
    tensorflow, jax = results
    for key in ("float32", "float16", "uint8", "teacher", "network", "broken weights"):
        np.testing.assert_allclose(jax[key], tensorflow[key], atol=2e-5, err_msg=key)
    for result in results:
        loss, skipped, steps = result["broken"]
        assert np.isfinite(loss)
        assert (skipped, steps, result["broken rows"]) == (3, 3, 0.0)
    assert tensorflow["disk"] == "made"
    assert "TensorFlow backend" in jax["disk"]


def test_labels_move_in_the_last_step_before_fine_tuning():
    logits, mask = batch(3, 2, (5, 6), 2, 2)
    model = compiled(logits_only((5, 6), 2), plain(warmup=0.0, finetune=0.5), 2, (5, 6), 0.0)
    model.plan_phases(2)
    data = {"image": logits, "sample_id": np.arange(2)}
    tables = []
    for _ in range(2):
        model.train_on_batch(data, mask)
        tables.append(model.label_store.sample(0))
    assert np.abs(tables[0]).min() > 0
    np.testing.assert_array_equal(tables[1], tables[0])
