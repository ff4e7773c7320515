"""Stochastic segmentation: samples and likelihood against TensorFlow Probability, and training."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from scipy.special import log_softmax, logsumexp

from keras_robustseg.labels._low_rank_normal import sample_logits, unpack_normal
from keras_robustseg.layers import LowRankNormalHead, MeanLogits, sample_masks
from keras_robustseg.losses import CrossEntropy, StochasticSegmentationLoss


def packed_normal(rng, space=(2, 3, 2), classes=2, rank=2, scale=1.0):
    """A packed normal with a draw of its own."""
    parameters = rng.normal(0, scale, (*space, (rank + 2) * classes))
    draw = np.full((*space, 1), rng.random())
    return np.concatenate([parameters, draw], -1).astype("float32")


def parts(packed, classes, rank):
    """Mean, d and P of the flattened images, by hand."""
    count = len(packed)
    flat = packed.astype("float64")
    mean, log_d = flat[..., :classes], flat[..., classes : 2 * classes]
    factor = flat[..., 2 * classes : -1].reshape(*flat.shape[:-1], classes, rank)
    return (
        mean.reshape(count, -1),
        np.exp(log_d).reshape(count, -1),
        factor.reshape(count, -1, rank),
    )


# Samples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_samples_have_mean_and_covariance_of_the_normal(paired, rng):
    packed = packed_normal(rng, (2, 2, 2), rank=3)
    mean, d, factor = parts(packed, 2, 3)
    normal = unpack_normal(ops.convert_to_tensor(packed), 2)
    drawn = np.asarray(sample_logits(normal, 40_000, 1, paired=paired)).reshape(40_000, 2, -1)
    covariance = np.einsum("bir,bjr->bij", factor, factor) + d[:, :, None] * np.eye(8)
    error = np.sqrt(np.einsum("bii->bi", covariance) / 40_000)
    assert (np.abs(drawn.mean(0) - mean) < 5 * error).all()
    for image in range(2):
        size = np.sqrt(np.diag(covariance[image]))
        found = np.cov(drawn[:, image].T) / np.outer(size, size)
        np.testing.assert_allclose(found, covariance[image] / np.outer(size, size), atol=0.04)
    if paired:
        middle = drawn[:20_000] + drawn[20_000:]
        np.testing.assert_allclose(middle / 2, np.broadcast_to(mean, middle.shape), atol=1e-4)


def test_they_look_to_tfp_like_its_own(rng):
    """Mean log-density, by its density, of our samples and of its own; and minus the entropy."""
    tfp = pytest.importorskip("tensorflow_probability")
    packed = packed_normal(rng, (1, 2, 2), rank=2)
    mean, d, factor = parts(packed, 2, 2)
    covariance = factor[0] @ factor[0].T + np.diag(d[0])
    target = tfp.distributions.MultivariateNormalTriL(mean[0], np.linalg.cholesky(covariance))
    normal = unpack_normal(ops.convert_to_tensor(packed), 2)
    ours = np.asarray(sample_logits(normal, 20_000, 3)).reshape(20_000, -1).astype("float64")
    theirs = target.sample(20_000, seed=1).numpy()
    both = [np.asarray(target.log_prob(x)) for x in (ours, theirs)]
    np.testing.assert_allclose(both[0].mean(), both[1].mean(), atol=5 * both[1].std() / 141)
    np.testing.assert_allclose(both[0].mean(), -target.entropy(), atol=5 * both[1].std() / 141)


@pytest.mark.parametrize("space", [(2, 5, 4), (1, 3, 4, 5)])
def test_masks_are_drawn_by_seed_and_have_their_shares(space, rng):
    packed = packed_normal(rng, space, classes=3, rank=4)
    masks = np.asarray(sample_masks(packed, 3, count=500, seed=5))
    assert masks.shape == (500, *space)
    assert masks.dtype == "int32"
    np.testing.assert_array_equal(masks, sample_masks(packed, 3, count=500, seed=5))
    assert (masks != np.asarray(sample_masks(packed, 3, count=500, seed=6))).any()
    mean, d, factor = parts(packed, 3, 4)
    noise = rng.normal(size=(4000, 1, 4)), rng.normal(size=(4000, *mean.shape))
    own = mean + np.einsum("bir,mbr->mbi", factor, np.repeat(noise[0], len(mean), 1))
    own = (own + np.sqrt(d) * noise[1]).reshape(4000, *space, 3).argmax(-1)
    for c in range(3):
        np.testing.assert_allclose((masks == c).mean(0), (own == c).mean(0), atol=0.13)


# The loss ----------------------------------------------------------------------------------------


def likelihood(samples, mask):
    """-1/n log mean_m prod_i p_m(y_i) of one image (M, n, C) and ids (n) with void, by hand."""
    kept = mask >= 0
    own = np.take_along_axis(log_softmax(samples, -1), mask.clip(0)[None, :, None], -1)[..., 0]
    return (np.log(len(samples)) - logsumexp((own * kept).sum(-1))) / kept.sum()


def test_value_is_that_of_its_samples_by_hand(rng):
    packed = packed_normal(rng, (2, 4, 3), classes=3, rank=2)
    loss = StochasticSegmentationLoss(3, num_samples=6)
    mask = rng.integers(-1, 3, (2, 4, 3))
    samples = np.asarray(loss._samples(ops.convert_to_tensor(packed))).reshape(6, 2, 12, 3)
    values = [likelihood(samples[:, b], mask[b].ravel()) for b in range(2)]
    weights = (mask >= 0).sum((1, 2))
    np.testing.assert_allclose(loss(mask, packed), np.average(values, weights=weights), rtol=1e-5)


def test_many_samples_give_the_likelihood_that_tfp_gives(rng):
    tfp = pytest.importorskip("tensorflow_probability")
    packed = packed_normal(rng, (1, 2, 2), rank=2)
    mean, d, factor = parts(packed, 2, 2)
    root = np.linalg.cholesky(factor[0] @ factor[0].T + np.diag(d[0]))
    theirs = tfp.distributions.MultivariateNormalTriL(mean[0], root).sample(200_000, seed=2)
    mask = np.array([[[0, 1], [1, 1]]])
    expected = likelihood(np.asarray(theirs).reshape(-1, 4, 2), mask.ravel())
    found = StochasticSegmentationLoss(2, num_samples=100_000)(mask, packed)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_gradient_is_that_of_finite_differences(rng):
    import tensorflow as tf

    packed = packed_normal(rng, (2, 4, 3), classes=3, rank=2)
    loss, mask = StochasticSegmentationLoss(3, num_samples=8), rng.integers(-1, 3, (2, 4, 3))
    direction = rng.normal(size=packed.shape).astype("float32")
    direction[..., -1] = 0.0
    with tf.GradientTape() as tape:
        tape.watch(point := tf.constant(packed))
        value = loss(mask, point)
    slope = np.sum(tape.gradient(value, point) * direction)
    ends = [float(loss(mask, packed + s * 1e-3 * direction)) for s in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-3, rtol=2e-2, atol=2e-4)


def test_the_draw_alone_decides_the_samples(rng):
    packed = packed_normal(rng)
    loss, mask = StochasticSegmentationLoss(2), rng.integers(0, 2, (2, 3, 2))
    assert float(loss(mask, packed)) == float(loss(mask, packed))
    other = packed.copy()
    other[..., -1] = (packed[..., -1] + 0.37) % 1.0
    assert float(loss(mask, packed)) != float(loss(mask, other))


def test_void_and_weightless_pixels_have_no_part(rng):
    import tensorflow as tf

    packed, mask = packed_normal(rng, (2, 6, 5), 3), rng.integers(0, 3, (2, 6, 5))
    hidden = rng.random((2, 6, 5)) < 0.3
    loss, broken = StochasticSegmentationLoss(3, num_samples=4), packed.copy()
    broken[hidden, :-1] = rng.choice([np.nan, np.inf, 1e30], (hidden.sum(), packed.shape[-1] - 1))
    results = []
    for y, x, weight in (
        (np.where(hidden, -1, mask), packed, None),
        (np.where(hidden, -1, mask), broken, None),
        (np.where(hidden, 9, mask), broken, 3.0 * ~hidden),
    ):
        with tf.GradientTape() as tape:
            tape.watch(point := tf.constant(x))
            value = loss(y, point, weight)
        gradient = np.asarray(tape.gradient(value, point))
        assert not gradient[hidden].any()
        results.append([value, *gradient.ravel()])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=1e-8)


def test_readers_drew_one_mask_each(rng):
    """The loss is a mean of readers' likelihoods, not the likelihood of their mean."""
    packed, loss = packed_normal(rng, (1, 4, 4), scale=2.0), StochasticSegmentationLoss(2)
    masks = rng.integers(0, 2, (1, 4, 4, 3))
    each = [float(loss(masks[..., r], packed)) for r in range(3)]
    np.testing.assert_allclose(loss(masks, packed), np.mean(each), rtol=1e-5)
    masks[..., 1] = -1
    np.testing.assert_allclose(loss(masks, packed), (each[0] + each[2]) / 2, rtol=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_without_variance_it_is_cross_entropy(rank, rng):
    packed, mask = packed_normal(rng, (2, 5, 4), 3, rank), rng.integers(-1, 3, (2, 5, 4))
    packed[..., 3:6], packed[..., 6:-1] = -80.0, 0.0
    expected = CrossEntropy()(mask, packed[..., :3])
    loss = StochasticSegmentationLoss(3)
    np.testing.assert_allclose(loss(mask, packed), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(mask, packed[..., :3]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticSegmentationLoss(2, num_samples=5), "even"),
        (lambda: StochasticSegmentationLoss(1), "num_classes >= 2"),
        (lambda: LowRankNormalHead(2, rank=-1), "rank=-1"),
        (lambda: StochasticSegmentationLoss(3)(np.zeros((1, 4)), np.zeros((1, 4, 8))), "logits"),
        (lambda: sample_masks(np.zeros((1, 4, 8)), 3), "No packed normal"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Layer and training ------------------------------------------------------------------------------


def network(rank=3, policy="float32", region=False, **options):
    keras.utils.set_random_seed(4)
    image = keras.Input((None, None, 1))
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="relu", dtype=policy)(image)
    inputs = [hidden, keras.Input((None, None), name="region")] if region else [hidden]
    normal = LowRankNormalHead(2, rank, seed=7, **options)(*inputs)
    return keras.Model([image, *inputs[1:]] if region else image, normal)


def readers_who_differ_in_size(rng, count=32, side=8):
    """A disc of which one half of the readers draw the inner, one half the outer outline."""
    axes = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1) - (side - 1) / 2
    distance = np.sqrt((axes**2).sum(-1))
    masks = np.stack([distance < 2.0, distance < 3.6]).astype("int32")
    image = (distance < 2.8)[None, ..., None] + rng.normal(0, 0.1, (count, side, side, 1))
    return image.astype("float32"), masks[rng.integers(0, 2, count)], masks


def test_training_by_fit_learns_what_readers_disagree_on(rng):
    image, mask, choices = readers_who_differ_in_size(rng)
    model = network()
    model.compile(keras.optimizers.Adam(0.03), StochasticSegmentationLoss(2), jit_compile=False)
    history = model.fit(image, mask, batch_size=16, epochs=120, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    drawn = np.asarray(sample_masks(model.predict(image[:1], verbose=0), 2, count=100))[:, 0]
    distance = np.stack([(drawn != choice).sum((1, 2)) for choice in choices])
    between = (choices[0] != choices[1]).sum()
    assert (distance.min(0) < between / 4).mean() > 0.6  # whole outlines, not a mixture of pixels
    assert 0.2 < (distance[0] < distance[1]).mean() < 0.8  # and both of them


def test_draws_are_new_in_training_only_and_resume(rng, tmp_path):
    image, mask, _ = readers_who_differ_in_size(rng, 8)
    model = network()
    model.compile(keras.optimizers.Adam(0.01), StochasticSegmentationLoss(2, num_samples=4))
    training = [float(model(image, training=True)[0, 0, 0, -1]) for _ in range(3)]
    assert len(set(training)) == 3
    assert float(ops.max(model(image)[..., -1])) == 0.0
    model.train_on_batch(image, mask)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    after = [[float(m.train_on_batch(image, mask)) for _ in range(3)] for m in (model, again)]
    np.testing.assert_allclose(*after, rtol=1e-6)
    np.testing.assert_allclose(
        again.predict(image, verbose=0), model.predict(image, verbose=0), atol=1e-5
    )


def test_mean_is_what_predicts_and_is_exported(rng, tmp_path):
    image, _, _ = readers_who_differ_in_size(rng, 2)
    model = network()
    predictor = keras.Model(model.input, MeanLogits(2)(model.output))
    expected = model.predict(image, verbose=0)[..., :2]
    np.testing.assert_allclose(predictor.predict(image, verbose=0), expected, atol=1e-6)
    predictor.export(tmp_path / "served", verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "served", call_endpoint="serve")
    np.testing.assert_allclose(served(image), expected, atol=1e-5)


def test_head_is_float32_under_mixed_precision(rng):
    image, mask, _ = readers_who_differ_in_size(rng, 8)
    model = network(policy="mixed_float16")
    assert model.output.dtype == "float32"
    model.compile(keras.optimizers.Adam(0.01), StochasticSegmentationLoss(2), jit_compile=False)
    losses = [float(model.train_on_batch(image, mask)) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_outside_the_region_there_is_no_covariance(rng):
    region = rng.random((2, 6, 5)) < 0.5
    model = network(region=True, epsilon=1e-4)
    features = [rng.normal(size=(2, 6, 5, 1)), region.astype("float32")]
    normal = unpack_normal(model(features), 2)
    assert not np.asarray(normal.factor)[~region].any()
    np.testing.assert_allclose(np.asarray(normal.diagonal)[~region], 1e-4, rtol=1e-4)
    assert np.asarray(normal.factor)[region].any()
    assert (np.asarray(normal.diagonal)[region] > 1e-4).all()


@pytest.mark.parametrize("count", [8, 7])
def test_draws_are_the_same_compiled(count, rng):
    import tensorflow as tf

    normal = unpack_normal(ops.convert_to_tensor(packed_normal(rng, (2, 5, 3), 3)), 3)
    compiled = tf.function(lambda seed: sample_logits(normal, count, seed), jit_compile=True)
    for seed in (0, 9_156_147, (1 << 24) - 1):
        expected = sample_logits(normal, count, tf.constant(seed))
        np.testing.assert_allclose(compiled(tf.constant(seed)), expected, rtol=1e-5, atol=1e-5)
        assert np.unique(expected).size == np.size(expected)


def test_loss_is_the_same_compiled(rng):
    import tensorflow as tf

    packed = tf.constant(packed_normal(rng, (2, 5, 4), 3))
    mask, loss = tf.constant(rng.integers(-1, 3, (2, 5, 4))), StochasticSegmentationLoss(3)

    def step():
        with tf.GradientTape() as tape:
            tape.watch(packed)
            value = loss(mask, packed)
        return value, tape.gradient(value, packed)

    expected, found = step(), tf.function(step, jit_compile=True)()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-6)


ON_JAX = """
import numpy as np, keras
from keras_robustseg.layers import LowRankNormalHead
from keras_robustseg.losses import StochasticSegmentationLoss
image = keras.Input((6, 6, 1))
model = keras.Model(image, LowRankNormalHead(2, 2, seed=1)(keras.layers.Dense(4)(image)))
model.compile(keras.optimizers.SGD(0.0), StochasticSegmentationLoss(2, num_samples=4))
x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
y = (x[..., 0] > 0).astype("int32")
losses = [float(model.train_on_batch(x, y)) for _ in range(4)]
assert len(set(losses)) == 4 and np.isfinite(losses).all(), losses  # new samples at each step
tests = [float(model.test_on_batch(x, y)) for _ in range(2)]
assert tests[0] == tests[1], tests
"""


def test_jax_draws_new_samples_at_each_step():
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ON_JAX], env=environment, check=True, timeout=300)
