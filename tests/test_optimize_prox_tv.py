"""Total variation in one and two dimensions against reference values and optimality conditions."""

from __future__ import annotations

import numpy as np
import prox_cases
import pytest
import tensorflow as tf
from prox_cases import differences, pulled_back

from keras_robustseg import optimize
from keras_robustseg.optimize import prox_tv1d, prox_tv2d

GOLDEN = prox_cases.golden("tv")
each_type = pytest.mark.parametrize(
    ("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-5)], ids=["float64", "float32"]
)


def agrees(call, inputs, cotangent, keys, dtype, bound):
    inputs = tuple(GOLDEN[name].astype(dtype) for name in inputs)
    found = pulled_back(call, inputs, GOLDEN[cotangent])
    for ours, key in zip(found, keys, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, GOLDEN[key], rtol=bound, atol=bound)


@each_type
@pytest.mark.parametrize(
    ("weight", "prefix", "slope"),
    [("tv1_lam", "tv1", "tv1_dlam"), ("tv1w_lam", "tv1w", "tv1w_dlam")],
)
def test_signals(weight, prefix, slope, dtype, bound):
    keys = (f"{prefix}_x", f"{prefix}_vjp_y", slope)
    agrees(prox_tv1d, ("tv1_y", weight), "tv1_cotangent", keys, dtype, bound)


def violation(y, weight, x):
    """Of the optimality conditions: the dual is a running sum, in the box, at its ends at jumps."""
    dual = -np.cumsum(y - x, axis=-1)[..., :-1]
    jumps = np.diff(x, axis=-1)
    at_jumps = np.where(np.abs(jumps) > 1e-9 * np.abs(y).max(), dual - weight * np.sign(jumps), 0)
    total = np.abs((y - x).sum(-1))
    return max(np.max(np.abs(dual) - weight), np.abs(at_jumps).max(), total.max())


@pytest.mark.parametrize("size", [2, 3, 50, 300])
def test_signals_satisfy_their_optimality_conditions(size, rng):
    y = np.cumsum(rng.normal(size=(12, size)), -1)
    weight = rng.uniform(0, 1, (12, size - 1)) * 10 ** rng.uniform(-2, 2, (12, 1))
    weight *= rng.random(weight.shape) < 0.9
    x = prox_tv1d(y, weight).numpy()
    assert violation(y, weight, x) < 1e-11 * (1 + np.abs(y).sum(-1).max())


def test_signals_that_need_many_rounds():
    y = np.exp(np.arange(40.0))[None]
    assert violation(y, 0.5, prox_tv1d(y, 0.5).numpy()) < 1e-14 * y.max()


def test_signals_along_another_axis_and_of_one_point(rng):
    y, weight = rng.normal(size=(4, 6, 3)), rng.uniform(0, 1, (4, 5, 1))
    expected = prox_tv1d(np.moveaxis(y, 1, -1), np.moveaxis(weight, 1, -1))
    np.testing.assert_allclose(prox_tv1d(y, weight, axis=1), np.moveaxis(expected, -1, 1))
    np.testing.assert_array_equal(prox_tv1d(y[..., :1], 2.0), y[..., :1])


@each_type
@pytest.mark.parametrize("prefix", ["tv2a", "tv2w"])
def test_anisotropic_images(prefix, dtype, bound):
    def call(y, down, right):
        return prox_tv2d(y, edge_weights=(down, right))

    inputs = ("tv2_y", f"{prefix}_lam_edges_v", f"{prefix}_lam_edges_h")
    keys = tuple(f"{prefix}_{name}" for name in ("x", "vjp_y", "dlam_v", "dlam_h"))
    agrees(call, inputs, "tv2_cotangent", keys, dtype, bound)


@each_type
def test_isotropic_images(dtype, bound):
    def call(y, weight):
        return prox_tv2d(y, weight, isotropic=True)

    keys = ("tv2i_x", "tv2i_vjp_y", "tv2i_dlam")
    agrees(call, ("tv2_y", "tv2i_lam"), "tv2_cotangent", keys, dtype, max(bound, 1e-8))


def test_an_image_of_one_row_is_a_signal(rng):
    y = rng.normal(size=(3, 1, 20))
    expected = prox_tv1d(y, 0.7)
    for isotropic in (False, True):
        found, info = prox_tv2d(y, 0.7, isotropic=isotropic, return_info=True)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert info.status.shape == (3,)
        assert np.all(info.status == optimize.Status.OK)
        assert np.all(info.kink_margin > 0)


@pytest.mark.parametrize("isotropic", [False, True])
def test_derivatives_of_images_are_those_of_finite_differences(isotropic, rng):
    y, v = rng.normal(size=(2, 6, 5)), rng.normal(size=(2, 6, 5))
    maps = (rng.uniform(0.2, 1, (6, 5)),)
    if not isotropic:
        maps = (rng.uniform(0.2, 1, (2, 5, 5)), rng.uniform(0.2, 1, (6, 4)))

    def call(y, weight, *maps):
        edges = maps[0] if isotropic else maps
        return prox_tv2d(y, weight, isotropic=isotropic, edge_weights=edges)

    inputs = (y, np.array([0.3, 0.6]), *maps)
    _, *gradients = pulled_back(call, inputs, v)
    expected, directions = differences(call, inputs, v, rng)
    along = [np.sum(g * d) for g, d in zip(gradients, directions, strict=True)]
    np.testing.assert_allclose(along, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_kink_is_reported_and_an_ordinary_image_is_none(isotropic, rng):
    kink = np.array([[0.0, 0.0, 1.0, 1.0]] * 2)  # at weight 1 both halves are just joined
    with pytest.warns(RuntimeWarning, match="NEAR_KINK"):
        x, info = prox_tv2d(kink, 1.0, isotropic=isotropic, return_info=True)
    np.testing.assert_allclose(x, 0.5, atol=1e-7)
    assert int(info.status) == optimize.Status.NEAR_KINK
    _, info = prox_tv2d(
        rng.normal(size=(3, 8, 7)), 0.4, isotropic=isotropic, tol=1e-9, return_info=True
    )
    np.testing.assert_array_equal(info.status, optimize.Status.OK)


def test_steps_that_run_out_are_reported(rng):
    y = rng.normal(size=(16, 16))
    with pytest.warns(RuntimeWarning, match="prox_tv2d: NOT_CONVERGED"):
        _, info = prox_tv2d(y, 3.0, max_iterations=20, return_info=True)
    assert int(info.status) == optimize.Status.NOT_CONVERGED


@pytest.mark.parametrize("scale", [0.0, 1e8])
def test_zero_and_large_values(scale, rng):
    signals, images = rng.normal(size=(2, 9)) * scale, rng.normal(size=(2, 4, 5)) * scale
    for dtype in ("float32", "float64"):
        found = pulled_back(prox_tv1d, (signals.astype(dtype), np.array(1.0, dtype)), signals)
        found += pulled_back(prox_tv2d, (images.astype(dtype), np.array(1.0, dtype)), images)
        assert all(np.isfinite(each).all() for each in found)


@pytest.mark.slow
def test_compiled_functions_give_the_values_of_eager_mode(rng):
    signals, images = rng.normal(size=(3, 20)), rng.normal(size=(2, 6, 5))

    def both(signals, images):
        with tf.GradientTape() as tape:
            tape.watch((signals, images))
            x = prox_tv1d(signals, 0.5)
            z = prox_tv2d(images, 0.3) + prox_tv2d(images, 0.3, isotropic=True)
            total = tf.reduce_sum(x**2) + tf.reduce_sum(z**2)
        return x, z, *tape.gradient(total, (signals, images))

    inputs = (tf.constant(signals), tf.constant(images))
    expected = both(*inputs)
    for xla in (False, True):
        for ours, theirs in zip(tf.function(both, jit_compile=xla)(*inputs), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: prox_tv1d(y, -1.0), "`weight` must be 0 or above"),
        (lambda y: prox_tv1d(y, np.ones(4)), r"`weight`.*\(4, 3\).*\(4,\)"),
        (lambda y: prox_tv1d(np.nan * y), "`y` must be finite"),
        (lambda y: prox_tv2d(y[0]), "`y` must be an image"),
        (lambda y: prox_tv2d(y, -1.0), "`weight` must be 0 or above"),
        (lambda y: prox_tv2d(y, edge_weights=np.ones((4, 4))), "must be a pair"),
        (lambda y: prox_tv2d(y, edge_weights=(1.0, np.ones((4, 4)))), r"`edge_weights`.*\(4, 3\)"),
        (lambda y: prox_tv2d(y, isotropic=True, edge_weights=-1.0), "`edge_weights` must be 0"),
        (lambda y: prox_tv2d(y, tol=-1.0), "`tol` must be positive"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 4)))
