"""Label sets: shapes, void pixels, extremes, gradients, known losses, errors, configuration."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from keras_robustseg import labels, losses
from keras_robustseg.labels import (
    DivergenceAmbiguity,
    DivergencePenaltyAmbiguity,
    SpatialWassersteinAmbiguity,
    WassersteinAmbiguity,
)

CHAIN = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
SETS = [
    DivergenceAmbiguity("tv", 0.2),
    DivergenceAmbiguity("neyman", 0.3, "image", stance="optimistic"),
    DivergenceAmbiguity("kl", 0.1, smoothing=0.2),
    DivergenceAmbiguity("renyi", 0.1, order=0.7),
    DivergencePenaltyAmbiguity("hellinger", 0.5),
    WassersteinAmbiguity(CHAIN, 0.2),
    WassersteinAmbiguity(CHAIN, 0.2, budget="image", stance="optimistic"),
    WassersteinAmbiguity(CHAIN, price=0.7),
    SpatialWassersteinAmbiguity(1, 0.1),
    SpatialWassersteinAmbiguity(2, 0.2, "chebyshev", "joint", stance="optimistic"),
    SpatialWassersteinAmbiguity(1, price=0.5, coupling="joint"),
    SpatialWassersteinAmbiguity(1, price=0.5),
]
each_set = pytest.mark.parametrize("ambiguity", SETS, ids=repr)


def problem(rng, *shape, dtype="float64"):
    costs = rng.exponential(1.0, (*shape, 3)).astype(dtype)
    return costs, rng.integers(0, 3, shape), rng.uniform(0.5, 2.0, shape).astype(dtype)


@each_set
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 2, 3)])
def test_value_is_the_mean_cost_of_its_labels(rng, ambiguity, shape):
    costs, ids, weights = problem(rng, *shape)
    value = np.asarray(ambiguity(costs, ids, weights))
    q = np.asarray(ambiguity.worst_case_labels(costs, ids, weights))
    assert value.shape == (shape[:1] if ambiguity.per_image else shape)
    assert q.shape == costs.shape
    assert (q >= -1e-15).all()
    shares = weights / weights.sum(tuple(range(1, len(shape))), keepdims=True)
    if isinstance(ambiguity, SpatialWassersteinAmbiguity):
        np.testing.assert_allclose((shares[..., None] * q).reshape(2, -1).sum(-1), 1.0)
    if getattr(ambiguity, "coupling", "jitter") != "joint":
        np.testing.assert_allclose(q.sum(-1), 1.0)
    paid = (q * costs).sum(-1)
    mean = (shares * paid).reshape(2, -1).sum(-1) if ambiguity.per_image else paid
    if getattr(ambiguity, "price", None) is None and not hasattr(ambiguity, "weight"):
        np.testing.assert_allclose(value, mean, rtol=1e-12)
    else:  # what was paid for q is not in <q, L>
        assert (value <= mean + 1e-12).all()


@each_set
def test_void_pixels_neither_give_nor_take(rng, ambiguity):
    costs, ids, weights = problem(rng, 2, 4, 5)
    hidden = rng.random(ids.shape) < 0.3
    clean = [np.where(hidden, -1, ids), np.where(hidden, 0.0, weights)]
    expected = np.asarray(ambiguity(costs, clean[0], weights))
    broken = np.where(hidden[..., None], np.nan, costs)
    other = np.where(hidden, (ids + 1) % 3, ids)
    for found in (ambiguity(broken, clean[0], weights), ambiguity(broken, other, clean[1])):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    q = np.asarray(ambiguity.worst_case_labels(broken, other, clean[1]))
    assert np.isfinite(q).all()
    assert not q[hidden].any()


@each_set
def test_void_images_cost_nothing_and_broken_labels_are_seen(rng, ambiguity):
    costs, ids, _ = problem(rng, 2, 4, 5)
    ids[0] = -1
    value = np.asarray(ambiguity(costs, ids))
    assert not value[0].any()
    assert np.isfinite(value).all()
    ids[1, 0, 0] = 3
    assert np.isnan(ambiguity(costs, ids)[1]).any()
    ids[1, 0, 0] = 0
    costs[1, 2, 2] = np.nan
    assert np.isnan(ambiguity(costs, ids)[1]).any()


@each_set
def test_gradient_is_that_of_finite_differences(rng, ambiguity):
    costs, ids, weights = problem(rng, 1, 3, 3)
    x = tf.constant(costs)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(ambiguity(x, ids, weights))
    gradient = tape.gradient(total, x).numpy()
    direction = rng.normal(size=costs.shape)
    ends = [np.sum(ambiguity(costs + step * direction, ids, weights)) for step in (1e-6, -1e-6)]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, (gradient * direction).sum(), rtol=1e-5)


@each_set
def test_shift_and_stance(rng, ambiguity):
    costs, ids, weights = problem(rng, 2, 3, 4)
    value = np.asarray(ambiguity(costs, ids, weights))
    np.testing.assert_allclose(ambiguity(costs + 5.0, ids, weights), value + 5.0, rtol=1e-12)
    config = ambiguity.get_config()
    flipped = {"pessimistic": "optimistic", "optimistic": "pessimistic"}[ambiguity.stance]
    other = type(ambiguity).from_config({**config, "stance": flipped})
    np.testing.assert_allclose(other(-costs, ids, weights), -value, rtol=1e-12, atol=1e-12)


@each_set
def test_soft_labels_that_are_hard_give_what_ids_give(rng, ambiguity):
    costs, ids, weights = problem(rng, 2, 3, 4)
    ids[0, 0, 0] = -1
    soft = np.where(ids[..., None] >= 0, np.eye(3)[ids], 0.0)
    found = ambiguity(costs, soft, weights)
    np.testing.assert_allclose(found, ambiguity(costs, ids, weights), rtol=1e-9)


@each_set
def test_configuration_round_trip(rng, ambiguity):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ambiguity))
    assert again.get_config() == ambiguity.get_config()
    costs, ids, _ = problem(rng, 1, 3, 4)
    np.testing.assert_array_equal(again(costs, ids), ambiguity(costs, ids))


@pytest.mark.parametrize(
    "ambiguity",
    [SETS[1], *(pytest.param(SETS[i], marks=pytest.mark.slow) for i in (2, 6, 7, 8, 9))],
    ids=repr,
)
def test_compiled_is_the_same(rng, ambiguity):
    costs, ids, weights = problem(rng, 1, 4, 5, dtype="float32")
    compiled = tf.function(ambiguity.__call__, jit_compile=True)
    expected = ambiguity(costs, ids, weights)
    np.testing.assert_allclose(
        compiled(tf.constant(costs), tf.constant(ids), tf.constant(weights)), expected, rtol=2e-6
    )


# Extremes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tv", "hellinger", "reverse_kl", "neyman"])
@pytest.mark.parametrize("budget", ["pixel", "image"])
def test_radius_of_nothing_and_of_everything(rng, name, budget):
    costs, ids, weights = problem(rng, 2, 3, 4)
    own, top = np.take_along_axis(costs, ids[..., None], -1)[..., 0], costs.max(-1)

    def summed(x):
        return x if budget == "pixel" else (weights * x).sum((1, 2)) / weights.sum((1, 2))

    for radius, expected in [(0.0, own), (40.0, top)]:
        found = DivergenceAmbiguity(name, radius, budget)(costs, ids, weights)
        loose = 1e-9 if radius == 0 or name in ("tv", "hellinger") else 0.05
        np.testing.assert_allclose(found, summed(expected), rtol=loose)


@pytest.mark.parametrize("coupling", ["jitter", "joint"])
def test_spatial_radius_of_nothing_and_of_everything(rng, coupling):
    costs, ids, _ = problem(rng, 1, 4, 5)
    own = np.take_along_axis(costs, ids[..., None], -1)[..., 0].mean()
    make = SpatialWassersteinAmbiguity
    np.testing.assert_allclose(make(5, 0.0, coupling=coupling)(costs, ids), [own], rtol=1e-12)
    present = costs[..., sorted(set(ids.ravel().tolist()))].max(-1).mean()
    placed = costs.reshape(-1, 3).max(0)[ids].mean()
    expected = {"jitter": present, "joint": placed}[coupling]
    np.testing.assert_allclose(make(5, 1e6, coupling=coupling)(costs, ids), [expected], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
@each_set
def test_scale_of_costs_in_float32(rng, ambiguity, scale):
    if hasattr(ambiguity, "weight") or getattr(ambiguity, "price", None) is not None:
        pytest.skip("a price has the unit of the costs")
    costs, ids, weights = problem(rng, 1, 4, 5, dtype="float32")
    expected = np.asarray(ambiguity(costs, ids, weights))
    found = np.asarray(ambiguity(costs * np.float32(scale), ids, weights))
    np.testing.assert_allclose(found / scale, expected, rtol=1e-4)


# Losses that are members -------------------------------------------------------------------------


def test_optimistic_total_variation_is_hard_bootstrapping(rng):
    """Reed et al. 2015: (1 - d) CE(y) + d CE(argmax p)."""
    z, ids = rng.normal(0, 2, (2, 4, 5, 3)), rng.integers(0, 3, (2, 4, 5))
    log_p = z - logsumexp(z, axis=-1, keepdims=True)
    own = -np.take_along_axis(log_p, ids[..., None], -1)[..., 0]
    for share in (0.0, 0.2, 0.7):
        found = DivergenceAmbiguity("tv", share, stance="optimistic")(-log_p, ids)
        np.testing.assert_allclose(found, (1 - share) * own - share * log_p.max(-1), atol=1e-12)


def test_optimistic_kl_penalty_is_forward_correction(rng):
    """Patrini et al. 2017: -log sum_k T[y, k] p_k, with the rows of T as references."""
    z, rows = rng.normal(0, 2, (2, 4, 5, 3)), rng.dirichlet(np.ones(3), 3)
    log_p = z - logsumexp(z, axis=-1, keepdims=True)
    ids = rng.integers(0, 3, (2, 4, 5))
    found = DivergencePenaltyAmbiguity("kl", 1.0, stance="optimistic")(-log_p, rows[ids])
    np.testing.assert_allclose(found, -np.log((rows[ids] * np.exp(log_p)).sum(-1)), atol=1e-12)


def test_shared_total_variation_is_a_tail_mean_of_gaps(rng):
    costs, ids, weights = problem(rng, 1, 5, 7)
    own = np.take_along_axis(costs, ids[..., None], -1)[..., 0].ravel()
    gaps, p = costs.max(-1).ravel() - own, weights.ravel() / weights.sum()
    for radius in (0.05, 0.3, 0.9):
        order = np.argsort(-gaps)
        taken = np.minimum(p[order], np.maximum(radius - (np.cumsum(p[order]) - p[order]), 0))
        expected = p @ own + taken @ gaps[order]
        found = DivergenceAmbiguity("tv", radius, "image")(costs, ids, weights)
        np.testing.assert_allclose(found, [expected], rtol=1e-12)


def test_total_variation_is_transport_at_unit_cost(rng):
    costs, _, weights = problem(rng, 2, 4, 5)
    soft = rng.dirichlet(np.ones(3), (2, 4, 5))
    for budget in ("pixel", "image"):
        tv = DivergenceAmbiguity("tv", 0.3, budget)(costs, soft, weights)
        transport = WassersteinAmbiguity(1 - np.eye(3), 0.3, budget=budget)(costs, soft, weights)
        np.testing.assert_allclose(tv, transport, rtol=1e-12)


@pytest.mark.parametrize("name", ["tv", "hellinger", "reverse_kl", "neyman"])
def test_one_flip_share_for_every_divergence(rng, name):
    """(1 - d) L_y + d max L, with D of the flipped label equal to the radius."""
    costs, ids, _ = problem(rng, 1, 4, 5)
    own, top = np.take_along_axis(costs, ids[..., None], -1)[..., 0], costs.max(-1)
    d = 0.3
    y, q = np.array([1.0, 0.0]), np.array([1 - d, d])
    radius = {
        "tv": d,
        "hellinger": ((np.sqrt(q) - np.sqrt(y)) ** 2).sum(),
        "reverse_kl": -np.log(q[0]),
        "neyman": ((q - y) ** 2 / q).sum(),
    }[name]
    found = DivergenceAmbiguity(name, radius)(costs, ids)
    np.testing.assert_allclose(found, (1 - d) * own + d * top, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.05, 0.6, 5.0])
def test_a_price_is_a_radius(rng, weight):
    """Lagrange: at the radius that a price leads to, both choose the same labels."""
    costs, _, _ = problem(rng, 1, 3, 4)
    soft = rng.dirichlet(np.ones(3), (1, 3, 4))
    for name in ("hellinger", "chi2", "jeffreys"):
        q = np.asarray(DivergencePenaltyAmbiguity(name, weight)(costs, soft))
        pays = DivergencePenaltyAmbiguity(name, weight).worst_case_labels(costs, soft)
        y, pays = soft, np.asarray(pays)
        spent = {
            "hellinger": (np.sqrt(pays) - np.sqrt(y)) ** 2,
            "chi2": (pays - y) ** 2 / y,
            "jeffreys": (pays - y) * np.log(np.maximum(pays, 1e-300) / y),
        }[name].sum(-1)
        np.testing.assert_allclose(q, (pays * costs).sum(-1) - weight * spent, rtol=1e-9)
        ball = DivergenceAmbiguity(name, float(spent[0, 1, 1]))
        np.testing.assert_allclose(
            ball.worst_case_labels(costs, soft)[0, 1, 1], pays[0, 1, 1], atol=1e-7
        )


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: DivergenceAmbiguity("tv", -0.1),
        lambda: DivergenceAmbiguity("kl", float("nan")),
        lambda: DivergenceAmbiguity("wrong", 0.1),
        lambda: DivergenceAmbiguity("renyi", 0.1),
        lambda: DivergenceAmbiguity("renyi", 0.1, "image", order=0.5),
        lambda: DivergenceAmbiguity("tv", 0.1, "batch"),
        lambda: DivergenceAmbiguity("tv", 0.1, smoothing=1.0),
        lambda: DivergenceAmbiguity("tv", 0.1, stance="neutral"),
        lambda: DivergencePenaltyAmbiguity("kl", 0.0),
        lambda: DivergencePenaltyAmbiguity("renyi", 1.0),
        lambda: WassersteinAmbiguity([[0, 1]], 0.1),
        lambda: WassersteinAmbiguity([[0, -1], [1, 0]], 0.1),
        lambda: WassersteinAmbiguity([[1, 1], [1, 0]], 0.1),
        lambda: WassersteinAmbiguity([[0, 1], [1, 0]]),
        lambda: WassersteinAmbiguity([[0, 1], [1, 0]], 0.1, price=1.0),
        lambda: SpatialWassersteinAmbiguity(0, 0.1),
        lambda: SpatialWassersteinAmbiguity(1.5, 0.1),
        lambda: SpatialWassersteinAmbiguity(1, 0.1, "taxicab"),
        lambda: SpatialWassersteinAmbiguity(1, 0.1, coupling="both"),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ValueError, match="Received"):
        make()


@pytest.mark.parametrize(
    "ambiguity",
    [
        *(DivergenceAmbiguity(name, 0.1) for name in ("kl", "chi2", "jeffreys")),
        DivergenceAmbiguity("renyi", 0.1, order=2.0),
        DivergencePenaltyAmbiguity("kl", 1.0),
    ],
    ids=repr,
)
def test_ids_in_a_set_that_holds_them(rng, ambiguity):
    costs, ids, _ = problem(rng, 1, 3, 4)
    with pytest.raises(ValueError, match="smoothing > 0"):
        ambiguity(costs, ids)
    ambiguity(costs, np.eye(3)[ids])


def test_shapes_that_do_not_fit(rng):
    costs, ids, _ = problem(rng, 1, 3, 4)
    with pytest.raises(ValueError, match="fits no form"):
        DivergenceAmbiguity("tv", 0.1)(costs, np.full((1, 3, 4, 2), 0.5))
    with pytest.raises(ValueError, match="for 2 classes"):
        WassersteinAmbiguity([[0, 1], [1, 0]], 0.1)(costs, ids)


def test_forbidden_flips_are_none_in_the_configuration():
    config = WassersteinAmbiguity([[0, np.inf], [2, 0]], 0.1).get_config()
    assert config["cost"] == [[0.0, None], [2.0, 0.0]]
    assert np.isinf(WassersteinAmbiguity.from_config(config).matrix[0, 1])


def test_a_variable_is_read_at_every_call(rng):
    costs, ids, _ = problem(rng, 1, 3, 4, dtype="float32")
    radius = keras.Variable(0.0, trainable=False, name="radius")
    ambiguity = DivergenceAmbiguity("tv", radius)
    traces = []

    @tf.function
    def value():
        traces.append(1)
        return ambiguity(costs, ids)

    before = value().numpy()
    radius.assign(0.4)
    expected = DivergenceAmbiguity("tv", 0.4)(costs, ids)
    np.testing.assert_allclose(value(), expected, rtol=1e-6)
    assert (value().numpy() > before).any()
    assert len(traces) == 1
    assert ambiguity.variables == [radius]
    assert ambiguity.get_config()["radius"] == pytest.approx(0.4)


def test_every_set_is_exported():
    for name in ("DivergenceAmbiguity", "DivergencePenaltyAmbiguity", "WassersteinAmbiguity"):
        assert name in labels.__all__
    assert "RobustSegmentationLoss" in losses.__all__
