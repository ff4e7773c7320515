"""Attacks of fixed eps: golden values, what all of them promise, and what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from attack_cases import VOID, golden, random_network, random_problem, reference_network
from keras import ops

from keras_robustseg import attacks
from keras_robustseg.attacks._model import network_of

EVERY = [attacks.pgd, attacks.segpgd, attacks.cospgd, attacks.mifgsm]
QUICK = pytest.mark.parametrize("attack", EVERY, ids=lambda a: a.__name__)


@pytest.mark.parametrize("name", ["A", pytest.param("B", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("attack", "options", "key"),
    [
        (attacks.pgd, {"loss": "cross_entropy"}, "pgd_ce"),
        (attacks.pgd, {"loss": "logit_ratio"}, "pgd_dlr"),
        (attacks.pgd, {}, "pgdlast"),
        (attacks.segpgd, {}, "segpgdlast"),
        (attacks.cospgd, {}, "cospgdlast"),
    ],
)
def test_flipped_pixels_are_those_of_the_reference(name, attack, options, key):
    data, steps = golden(f"dev_{name}"), 20 if key.endswith("last") else 40
    keep = {20: "last", 40: "best"}[steps]
    for eps in (4, 12):
        size = eps / 255 / (8 if steps == 20 else 30)
        result = attack(
            reference_network(name),
            data["images"],
            data["labels"],
            eps=eps / 255,
            steps=steps,
            step_size=size,
            keep=keep,
            ignore_label=VOID,
            **options,
        )
        expected = data[f"{key}_eps{eps}_{steps}_apsr"]
        assert np.abs(result.success_rate - expected).max() < 0.02
        # The reference does not look at the last of its iterates, which is often the best.
        assert result.success_rate.mean() >= expected.mean() - 1e-3
        np.testing.assert_array_equal(result.success, result.success_rate >= 0.99)


def check_result(model, result, images, labels, *, targeted=False, eps=None):
    """Everything in a result follows from its images."""
    adversarial, valid = result.adversarial, labels >= 0
    assert adversarial.shape == images.shape
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    moved = np.abs(adversarial.astype("float64") - images).reshape(len(images), -1)
    np.testing.assert_allclose(result.norm, moved.max(-1), atol=1e-7)
    if eps is not None:
        assert result.norm.max() <= eps + 1e-6
    output = np.asarray(model(adversarial))
    classes = output.argmax(-1) if output.shape[-1] > 1 else output[..., 0] > 0
    np.testing.assert_array_equal(result.predictions, classes)
    hits = ((classes == labels) == targeted) & valid
    for i in range(len(images)):
        assert result.valid_pixels[i] == valid[i].sum()
        if valid[i].any():
            assert result.success_rate[i] == pytest.approx(hits[i].sum() / valid[i].sum())


@QUICK
@pytest.mark.parametrize(
    ("classes", "shape"),
    [
        (1, (3, 8, 7, 2)),
        (5, (1, 5, 11, 2)),
        pytest.param(2, (2, 9, 7, 2), marks=pytest.mark.slow),
        pytest.param(3, (2, 6, 5, 2), marks=pytest.mark.slow),
        pytest.param(21, (2, 6, 5, 2), marks=pytest.mark.slow),
    ],
)
def test_results_are_true(attack, classes, shape, rng):
    model = random_network(classes)
    images, labels = random_problem(model, shape, rng)
    result = attack(model, images, labels, eps=0.2, steps=8)
    check_result(model, result, images, labels, eps=0.2)
    assert result.success_rate.mean() > 0.2
    targets = np.where(labels < 0, -1, rng.integers(0, max(classes, 2), labels.shape))
    reached = attack(model, images, targets, eps=0.2, steps=8, targeted=True)
    check_result(model, reached, images, targets, targeted=True, eps=0.2)
    clean = attack(model, images, targets, eps=0.0, steps=1, targeted=True)
    assert reached.success_rate.mean() > clean.success_rate.mean()


@QUICK
def test_volumes_void_and_radii_per_image(attack, rng):
    model = random_network(3, spatial=3)
    images, labels = random_problem(model, (3, 4, 6, 5, 2), rng)
    labels[1] = -1
    eps = np.array([0.02, 0.1, 0.3])
    result = attack(model, images, labels, eps=eps, steps=6)
    check_result(model, result, images, labels)
    assert np.all(result.norm <= eps + 1e-6)
    assert np.isnan(result.success_rate[1])
    assert not result.success[1]
    assert np.isnan(result.minimal_norm[1])
    # The other images are attacked as if that one were not there.
    alone = attack(model, images[[0, 2]], labels[[0, 2]], eps=eps[[0, 2]], steps=6)
    np.testing.assert_allclose(result.adversarial[[0, 2]], alone.adversarial, atol=1e-6)


@pytest.mark.parametrize(("classes", "activation"), [(3, "softmax"), (1, "sigmoid")])
def test_probabilities_are_attacked_as_their_logits(classes, activation, rng):
    logits, probable = random_network(classes), random_network(classes, activation=activation)
    images, labels = random_problem(logits, (2, 8, 9, 2), rng)
    options = {"eps": 0.1, "steps": 4, "loss": "logit_ratio"}
    expected = attacks.pgd(logits, images, labels, **options)
    outer = keras.layers.Activation(activation)(logits.output)
    hidden = ProbabilityModel(logits, activation)
    for model in (probable, keras.Model(logits.input, outer), hidden):
        found = attacks.pgd(model, images, labels, **options)
        np.testing.assert_allclose(found.success_rate, expected.success_rate, atol=0.01)
    said = attacks.pgd(hidden, images, labels, from_logits=False, **options)
    np.testing.assert_array_equal(said.adversarial, found.adversarial)


class ProbabilityModel(keras.Model):
    """A model whose last layer cannot be seen."""

    def __init__(self, inner, activation):
        super().__init__()
        self.inner, self.activation = inner, keras.activations.get(activation)

    def call(self, x, training=False):
        return self.activation(self.inner(x))


def test_a_confident_sigmoid_keeps_its_gradient(rng):
    """Its rounding in float32 would hide the gradient, and the model would look robust."""
    model = random_network(1, activation="sigmoid")
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([5e3 * kernel, 5e3 * bias])
    images, labels = random_problem(random_network(1), (2, 8, 8, 2), rng)
    result = attacks.pgd(model, images, labels, eps=0.3, steps=10, loss="logit_ratio")
    assert result.success_rate.mean() > 0.3


def test_mixed_precision_and_inference_mode(rng):
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="silu", dtype="mixed_float16")(image)
    x = keras.layers.Dropout(0.9, seed=0, dtype="mixed_float16")(x)
    x = keras.layers.BatchNormalization(dtype="mixed_float16")(x)
    model = keras.Model(image, keras.layers.Conv2D(3, 1, dtype="mixed_float16")(x))
    images, labels = random_problem(model, (2, 8, 8, 2), rng)
    moments = [np.asarray(w).copy() for w in model.non_trainable_weights]
    one, two = (attacks.segpgd(model, images, labels, eps=0.1, steps=4) for _ in range(2))
    np.testing.assert_array_equal(one.adversarial, two.adversarial)
    assert one.adversarial.dtype == np.float32
    for before, now in zip(moments, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_heads_in_half_precision(policy, activation, rng):
    """The logits behind the activation are those that the layer itself computes."""
    classes = 3 if activation == "softmax" else 1
    model = random_network(classes, activation=activation, dtype=policy)
    images, _ = random_problem(model, (2, 8, 8, 2), rng)
    network = network_of(model, None, images[:1])
    logits = np.asarray(network(images))
    features = keras.Model(model.input, model.layers[-1].input)
    bare = keras.layers.Conv2D(classes, 1, dtype=policy)
    bare.build(features.output.shape)
    bare.set_weights(model.layers[-1].get_weights())
    expected = np.asarray(ops.cast(bare(features(images)), "float32"))
    np.testing.assert_array_equal(logits[..., -classes:], expected)
    labels = np.asarray(logits).argmax(-1)
    assert attacks.cospgd(model, images, labels, eps=0.2, steps=8).success_rate.mean() > 0.2


def test_weights_that_change_are_seen(rng):
    model = random_network(3)
    images, labels = random_problem(model, (2, 6, 6, 2), rng)
    attacks.pgd(model, images, labels, eps=0.01, steps=2)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    result = attacks.pgd(model, images, np.zeros_like(labels) + 1, eps=0.01, steps=2)
    assert result.success.all()


@QUICK
def test_eight_bit_images_keep_the_ball(attack, rng):
    model = random_network(3)
    images, labels = random_problem(model, (2, 8, 8, 2), rng)
    eps = 4.3 / 255
    result = attack(model, images, labels, eps=eps, steps=4, quantize=True)
    levels = result.adversarial.astype("float64") * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    check_result(model, result, images, labels, eps=eps)


def test_bounds_of_the_input(rng):
    model = random_network(3)
    images, labels = random_problem(model, (2, 6, 6, 2), rng)
    low, high = -3.0, 5.0
    wide = keras.Input((None, None, 2))
    unit = keras.layers.Rescaling(1 / (high - low), -low / (high - low))(wide)
    scaled = keras.Model(wide, model(unit))
    expected = attacks.pgd(model, images, labels, eps=0.1, steps=5)
    found = attacks.pgd(
        scaled, low + (high - low) * images, labels, eps=0.8, steps=5, bounds=(low, high)
    )
    np.testing.assert_allclose((found.adversarial - low) / 8, expected.adversarial, atol=1e-5)


def test_random_starts_follow_the_seed(rng):
    model = random_network(3)
    images, labels = random_problem(model, (2, 6, 6, 2), rng)
    draws = [
        attacks.pgd(model, images, labels, eps=0.1, steps=1, random_start=True, seed=s).adversarial
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.01


@pytest.mark.slow
@QUICK
def test_compiled_by_xla(attack, rng):
    model = random_network(4)
    images, labels = random_problem(model, (2, 6, 6, 2), rng)
    one, two = (
        attack(model, images, labels, eps=0.1, steps=4, jit_compile=jit) for jit in (False, True)
    )
    assert np.abs(one.success_rate - two.success_rate).max() < 0.05


class Rounding(keras.layers.Layer):
    def call(self, x):
        return ops.one_hot(ops.argmax(x, -1), x.shape[-1])


class Flat(keras.layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x) + 0 * x


def wrapped(layer):
    model = random_network(3)
    return keras.Model(model.input, layer(model.output))


def two_inputs():
    one, two = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    return keras.Model([one, two], keras.layers.Conv2D(3, 1)(one + two))


class TwoArguments(keras.Model):
    """A model of two inputs that does not say so."""

    def call(self, x, other):
        return x + other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": lambda y: y + 3}, "below 3"),
        ({"labels": lambda y: y[:, 1:]}, "shape"),
        ({"labels": lambda y: y + 0.5}, "whole"),
        ({"images": lambda x: x * 255}, "within `bounds`"),
        ({"images": lambda x: x * np.nan}, "finite"),
        ({"images": lambda x: x[0, 0]}, "shape"),
        ({"model": lambda m: two_inputs()}, "one input, received 2"),
        ({"model": lambda m: TwoArguments()}, "cannot be called with one image"),
        ({"images": lambda x: np.concatenate([x, x], -1)}, "what the model takes"),
        ({"model": lambda m: wrapped(keras.layers.MaxPooling2D())}, "the same"),
        ({"model": lambda m: wrapped(Rounding())}, "No gradient"),
        ({"model": lambda m: wrapped(Flat())}, "zero or not finite"),
        ({"model": lambda m: wrapped(keras.layers.Rescaling(np.inf))}, "finite"),
        ({"model": lambda m: wrapped(keras.layers.GlobalMaxPooling2D())}, "map of classes"),
        ({"eps": -1.0}, "`eps`"),
        ({"eps": [0.1, 0.1, 0.1]}, "`eps`"),
        ({"steps": 0}, "`steps`"),
        ({"keep": "first"}, "`keep`"),
        ({"loss": "hinge"}, "`loss`"),
        ({"bounds": (1, 0)}, "`bounds`"),
        ({"success_rate": 0.0}, "`success_rate`"),
        ({"step_size": float("nan")}, "`step_size`"),
    ],
)
def test_bad_input_is_explained(change, message, rng):
    model = random_network(3)
    images, labels = random_problem(model, (2, 6, 6, 2), rng, void=0)
    arguments = {"model": model, "images": images, "labels": labels, "eps": 0.1, "steps": 2}
    for name, value in change.items():
        arguments[name] = value(arguments[name]) if callable(value) else value
    with pytest.raises(ValueError, match=message):
        attacks.pgd(**arguments)


def test_wrong_types_are_type_errors(rng):
    model = random_network(3)
    images, labels = random_problem(model, (1, 4, 4, 2), rng)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        attacks.pgd(lambda x: x, images, labels, eps=0.1)
    with pytest.raises(TypeError, match="radius"):
        attacks.pgd(model, images, labels, eps=0.1, radius=1)
