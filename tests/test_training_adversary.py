"""Adversarial training: what the attack does, on which labels, and what the label rows see."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy import ToySource

from keras_robustseg import RobustSegmenter, data, labels, losses, models
from keras_robustseg.attacks import AdversarialTraining
from keras_robustseg.attacks._losses import SOFT_LOSSES


def pixelwise(classes=3, channels=2, seed=0):
    """A linear network of each pixel: its gradient is known."""
    layer = keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotNormal(seed))
    image = keras.Input((None, None, channels))
    return keras.Model(image, layer(image)), layer


def batch(rng, classes=3, shape=(2, 5, 7)):
    image = rng.uniform(0, 1, (*shape, 2)).astype("float32")
    return image, rng.dirichlet(np.ones(classes), shape).astype("float32")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("progress", [0.0, 0.4])
def test_pixel_losses_are_their_formulas(progress, rng):
    z, q = rng.normal(size=(2, 3, 4, 5)), rng.dirichlet(np.ones(5), (2, 3, 4))
    p = softmax(z)
    entropy = -(q * np.log(p)).sum(-1)
    right = p.argmax(-1) == q.argmax(-1)
    cosine = (p * q).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(q, axis=-1)
    weights = {
        "pgd": np.ones_like(entropy),
        "segpgd": np.where(right, 1 - progress / 2, progress / 2),
        "cospgd": cosine,
    }
    for name, weight in weights.items():
        found = SOFT_LOSSES[name](tf.constant(np.log(p)), tf.constant(q), progress)
        np.testing.assert_allclose(found, weight * entropy, rtol=1e-10)


def test_a_class_that_the_label_excludes_may_be_impossible():
    log_p = tf.constant([[[[0.0, -np.inf]]]])
    q = tf.constant([[[[1.0, 0.0]]]])
    assert float(SOFT_LOSSES["pgd"](log_p, q, 0.0)[0, 0, 0]) == 0.0


@pytest.mark.parametrize("attack", ["pgd", "segpgd", "cospgd"])
def test_a_long_step_ends_at_the_corner_that_the_gradient_names(attack, rng):
    network, layer = pixelwise()
    image, q = batch(rng)
    # Every step is longer than the ball is wide, so only the last gradient counts.
    adversary = AdversarialTraining(attack, eps=1e-3, steps=1, step_size=1.0, mix=1.0, bounds=None)
    found = adversary.attacked(network, tf.constant(image), tf.constant(q), tf.ones((2, 5, 7)))
    kernel = np.asarray(layer.kernel)
    p = softmax(image @ kernel + np.asarray(layer.bias))
    gradient = (p - q) @ kernel.T
    # SegPGD's first step looks at right pixels alone.
    right = (p.argmax(-1) == q.argmax(-1))[..., None] | (attack != "segpgd")
    certain = (abs(gradient) > 1e-2) & right
    assert certain.mean() > 0.2
    moved = np.asarray(found) - image
    np.testing.assert_allclose(moved[certain], 1e-3 * np.sign(gradient[certain]), atol=1e-6)


def test_the_ball_and_the_bounds_are_kept_and_the_loss_rises(rng):
    network, _ = pixelwise()
    image, q = batch(rng)
    adversary = AdversarialTraining(eps=0.2, steps=4, mix=1.0)
    found = adversary.attacked(network, tf.constant(image), tf.constant(q), tf.ones((2, 5, 7)))
    assert abs(found - image).numpy().max() <= 0.2 + 1e-6
    assert found.numpy().min() >= 0
    assert found.numpy().max() <= 1
    before, after = (
        float(tf.reduce_mean(SOFT_LOSSES["pgd"](tf.nn.log_softmax(network(x)), q, 0.0)))
        for x in (image, found)
    )
    assert after > before + 0.01


def test_void_pixels_attract_no_attack(rng):
    network, _ = pixelwise()
    image, q = batch(rng)
    weight = np.ones((2, 5, 7), "float32")
    weight[:, 2:] = 0
    q[:, 2:] = np.nan
    adversary = AdversarialTraining("pgd", eps=0.1, steps=1, step_size=0.3, bounds=None)
    found = adversary.attacked(network, tf.constant(image), tf.constant(q), tf.constant(weight))
    start = adversary.attacked(network, tf.constant(image), tf.constant(q), tf.zeros((2, 5, 7)))
    np.testing.assert_array_equal(found[:, 2:], start[:, 2:])
    assert np.isfinite(found).all()
    assert np.abs(found - start)[:, :2].max() > 0


@pytest.mark.parametrize(("mix", "count"), [(0.5, 2), (0.26, 2), (0.01, 1), (1.0, 4)])
def test_a_share_of_the_batch_is_attacked(mix, count, rng):
    network, _ = pixelwise()
    image, q = batch(rng, shape=(4, 3, 3))
    adversary = AdversarialTraining(eps=0.1, mix=mix)
    arguments = (network, tf.constant(image), tf.constant(q), tf.ones((4, 3, 3)))
    changed = np.abs(adversary.perturb(*arguments, step=3) - image).max(axis=(1, 2, 3)) > 0
    assert changed.tolist() == [n < count for n in range(4)]
    np.testing.assert_array_equal(adversary.perturb(*arguments, step=3, active=False), image)
    unknown = tf.function(
        lambda x: adversary.perturb(network, x, *arguments[2:], step=3),
        input_signature=[tf.TensorSpec([None, 3, 3, 2])],
    )
    np.testing.assert_allclose(unknown(image), adversary.perturb(*arguments, step=3), atol=1e-6)


def test_the_same_step_draws_the_same(rng):
    network, _ = pixelwise()
    image, q = batch(rng)
    arguments = (network, tf.constant(image), tf.constant(q), tf.ones((2, 5, 7)))
    adversary = AdversarialTraining(eps=0.1, steps=1, step_size=1e-6)
    first, again, later = (adversary.attacked(*arguments, step=n) for n in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - later).max() > 0


class Spy(AdversarialTraining):
    """Remembers what it is given, and blackens the images."""

    def perturb(self, network, image, target, weight, *, step, active=True):
        self.seen = (target, weight)
        return tf.zeros_like(image)


def plain_network(seed=0):
    """Without batch normalisation, so that training and prediction are the same function."""
    image = keras.Input((16, 16, 1))
    kind = {"kernel_initializer": keras.initializers.GlorotNormal(seed), "padding": "same"}
    hidden = keras.layers.Conv2D(4, 3, activation="relu", **kind)(image)
    return keras.Model(image, keras.layers.Conv2D(2, 1, **kind)(hidden))


def after_steps(count, adversary):
    """The label rows (4, 16, 16, 2) after so many steps that leave the network as it is."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 16, 16, 1)).astype("float32")
    masks = (rng.uniform(size=(4, 16, 16)) < 0.5).astype("int32")
    pencil = labels.Pencil(warmup=0.0, presence=0.0, image_weights=0.0, mass_floor=0.0)
    shapes = [(16, 16)] * 4
    model = RobustSegmenter(plain_network(), pencil, label_shapes=shapes, adversary=adversary)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    inputs = {"image": images, "sample_id": np.arange(4)}
    model.fit(inputs, masks, batch_size=4, epochs=count, shuffle=False, verbose=0)
    return np.stack([model.corrected_labels(n, masks[n]) for n in range(4)])


def log_odds(q):
    return np.log(q[..., 1]) - np.log(q[..., 0])


def test_label_rows_follow_the_clean_image_and_the_attack_sees_the_rows():
    spy = Spy()
    found, plain, once = after_steps(2, spy), after_steps(2, None), after_steps(1, None)
    np.testing.assert_allclose(log_odds(found), log_odds(plain), atol=1e-4)
    # What the second attack is aimed at is what the first step has left.
    aimed = log_odds(np.asarray(spy.seen[0]))
    np.testing.assert_allclose(aimed, log_odds(once), atol=1e-4)
    assert np.abs(log_odds(once) - log_odds(found)).min() > 1e-2


def test_warmup_and_config(tmp_path):
    adversary = AdversarialTraining("cospgd", eps=0.1, steps=2, warmup=0.5, bounds=None, seed=3)
    network = models.unet((None, None, 1), 2, width=4, depth=2)
    model = RobustSegmenter(network, adversary=adversary, training_steps=10)
    model.compile("sgd", losses.CrossEntropyDice())
    images, masks = np.zeros((4, 16, 16, 1), "float32"), np.zeros((4, 16, 16), "int32")
    model.fit(images, masks, batch_size=4, verbose=0)
    assert int(model.attack_start) == 5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.adversary.get_config() == adversary.get_config()


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_training_with_pencil_makes_the_network_robust(jit):
    def trained(adversary):
        keras.utils.set_random_seed(0)
        source = ToySource(count=48)
        ingest = data.Ingest(source, source.split("train"))
        pipeline = data.Pipeline(ingest, batch_size=8, label_rows=True)
        network = models.unet((32, 32, 1), 2, width=8, depth=2, seed=1)
        model = RobustSegmenter(
            network, labels.Pencil(), label_shapes=pipeline.shapes, adversary=adversary
        )
        model.compile(keras.optimizers.Adam(5e-3), jit_compile=jit)
        model.fit(pipeline.dataset(), epochs=20, verbose=0)
        return network

    source = ToySource(count=48)
    tests = [source.load(i) for i in source.split("test")]
    image, truth = (np.stack([getattr(e, n) for e in tests]) for n in ("image", "truth"))
    judge = AdversarialTraining("pgd", eps=0.3, steps=10, mix=1.0, bounds=None)
    weight, q = tf.ones(truth.shape), tf.one_hot(truth, 2)

    def robust_accuracy(network):
        attacked = judge.attacked(network, tf.constant(image), q, weight)
        return np.mean(np.argmax(network(attacked), -1) == truth)

    adversary = AdversarialTraining("segpgd", eps=0.3, steps=3, bounds=None)
    plain, robust = (robust_accuracy(trained(a)) for a in (None, adversary))
    assert robust > plain


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attack": "fgsm"}, "`attack` must be one of"),
        ({"eps": 0.0}, "`eps` must be > 0"),
        ({"steps": 0}, "`steps` must be a whole number >= 1"),
        ({"step_size": -1.0}, "`step_size`"),
        ({"mix": 0.0}, r"`mix` must be in \(0, 1\]"),
        ({"warmup": 1.5}, "`warmup`"),
        ({"bounds": (1.0, 0.0)}, "`bounds`"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        AdversarialTraining(**wrong)


def test_something_else_is_no_adversary():
    network, _ = pixelwise()
    with pytest.raises(TypeError, match="perturb"):
        RobustSegmenter(network, adversary="segpgd")
