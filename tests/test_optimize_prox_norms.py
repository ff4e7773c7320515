"""Proximal operators of norms, and projections, against reference values and identities."""

from __future__ import annotations

import numpy as np
import prox_cases
import pytest
import tensorflow as tf
from prox_cases import pulled_back

from keras_robustseg import optimize

each_type = pytest.mark.parametrize("dtype", ["float64", "float32"])
GOLDEN = prox_cases.golden("prox")


def agrees(dtype, call, inputs, keys):
    """Values to 1e-6 (1e-4 in float32), derivatives relative to 1e-6 (1e-3)."""
    inputs = tuple(np.asarray(each, dtype) for each in inputs)
    found = pulled_back(call, inputs, GOLDEN["cotangent"])
    tolerances = (1e-6, 1e-6) if dtype == "float64" else (1e-4, 1e-3)
    for i, key in enumerate(keys):
        if key is not None:
            bound = tolerances[i > 0]
            np.testing.assert_allclose(found[i], GOLDEN[key], rtol=bound, atol=bound)


@each_type
@pytest.mark.parametrize(
    ("call", "parameters", "keys"),
    [
        (optimize.project_simplex, (), ("simplex", "simplex_vjp")),
        (
            lambda x, radius: optimize.project_simplex(x, radius=radius),
            (2.0,),
            ("simplex_radius2", None, "simplex_radius2_dradius"),
        ),
        (optimize.project_l1_ball, ("l1ball_R",), ("l1ball", "l1ball_vjp")),
        (optimize.prox_linf, ("linf_lam",), ("linf_prox",)),
        (optimize.prox_l1, ("lam_vec",), ("soft", "soft_vjp", "soft_dlam")),
        (optimize.prox_elastic_net, ("lam_vec", "enet_l2"), ("enet_prox", "enet_vjp")),
        (optimize.prox_group_l2, ("group_lam",), ("group", "group_vjp", "group_dlam")),
        (optimize.prox_sparse_group, ("lam_vec", "sparse_group_lam_group"), ("sparse_group",)),
    ],
)
def test_reference_values(call, parameters, keys, dtype):
    inputs = [GOLDEN[p] if isinstance(p, str) else p for p in parameters]
    agrees(dtype, call, (GOLDEN["x"], *inputs), keys)


def test_simplex_at_ties_vertices_and_large_values():
    found = optimize.project_simplex(GOLDEN["simplex_edge_x"])
    np.testing.assert_allclose(found, GOLDEN["simplex_edge"], atol=1e-12)
    large = np.array([[1e8, 1e8 - 64.0, -1e8], [3e7, 3e7, 3e7]], "float32")
    expected = [[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(optimize.project_simplex(large), expected, rtol=1e-6)


def test_simplex_of_many_entries_against_the_sorted_algorithm(rng):
    x = rng.normal(size=(4, 1000)) * [[1e-3], [1.0], [10.0], [1e6]]
    falling = -np.sort(-x, axis=1)
    level = (np.cumsum(falling, axis=1) - 1) / np.arange(1, 1001)
    last = np.sum(falling > level, axis=1)
    expected = np.maximum(x - level[np.arange(4), last - 1, None], 0)
    np.testing.assert_allclose(optimize.project_simplex(x), expected, atol=1e-9)


def test_simplex_with_a_mask(rng):
    x = rng.normal(size=(2, 3, 6))
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    hidden = np.where(mask, x, np.nan)
    found = np.asarray(optimize.project_simplex(hidden, mask=mask))
    np.testing.assert_allclose(found[..., mask], optimize.project_simplex(x[..., mask]), atol=1e-15)
    assert not found[..., ~mask].any()
    nothing = optimize.project_simplex(x, mask=np.zeros(6, bool))
    assert not np.asarray(nothing).any()
    gradient = pulled_back(lambda x: optimize.project_simplex(x, mask=mask), (hidden,), x)[1]
    assert np.isfinite(gradient).all()
    assert not gradient[..., ~mask].any()


def test_simplex_of_radius_zero_and_of_one_entry():
    assert not np.asarray(optimize.project_simplex([3.0, -1.0], radius=0.0)).any()
    np.testing.assert_array_equal(optimize.project_simplex([[3.0], [-2.0]], radius=2.0), 2.0)


def test_nan_shows_inside_a_compiled_function():
    with_nan = tf.constant([[1.0, np.nan], [1.0, 0.0]])
    found = tf.function(optimize.project_simplex)(with_nan).numpy()
    assert np.isnan(found[0, 1])
    np.testing.assert_array_equal(found[1], [1.0, 0.0])


@pytest.mark.parametrize(
    ("prox", "project"),
    [
        (optimize.prox_linf, optimize.project_l1_ball),
        (optimize.prox_l1, lambda x, r: optimize.project_box(x, -r, r)),
        (optimize.prox_group_l2, optimize.project_l2_ball),
    ],
)
def test_moreau_identity_of_norms(prox, project, rng):
    x = rng.normal(0, 3, (20, 7))
    for penalty in (0.0, 0.3, 2.0, 100.0):
        np.testing.assert_allclose(prox(x, penalty) + project(x, penalty), x, atol=1e-12)


def test_balls_hold_their_points(rng):
    x = rng.normal(0, 3, (50, 6))
    radius = rng.uniform(0, 12, 50)
    in_l1 = np.asarray(optimize.project_l1_ball(x, radius))
    in_l2 = np.asarray(optimize.project_l2_ball(x, radius))
    sizes = (np.abs(in_l1).sum(-1), np.linalg.norm(in_l2, axis=-1))
    for size, norm in zip(sizes, (np.abs(x).sum(-1), np.linalg.norm(x, axis=-1)), strict=True):
        np.testing.assert_allclose(size, np.minimum(norm, radius), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: optimize.prox_l1(x, -1.0), "`penalty` must be 0 or above.*-1"),
        (lambda x: optimize.prox_elastic_net(x, 1.0, [1.0, -2.0]), "`l2` must be 0 or above.*-2"),
        (lambda x: optimize.prox_l1(x, np.ones(4)), r"`penalty`.*broadcasts to \(3, 2\).*\(4,\)"),
        (lambda x: optimize.prox_group_l2(x, np.ones(4)), r"`penalty`.*\(3,\).*\(4,\)"),
        (lambda x: optimize.project_simplex(x, radius=-1.0), "`radius` must be 0 or above"),
        (lambda x: optimize.project_simplex(x, axis=2), "no axis 2"),
        (lambda x: optimize.project_simplex(x, mask=np.ones(3, bool)), r"`mask`.*\(3, 2\)"),
        (lambda x: optimize.project_l1_ball(x, np.inf), "`radius` must be finite"),
        (lambda x: optimize.project_box(x, 1.0, 0.0), "`lower` must not be above `upper`"),
        (
            lambda x: optimize.prox_l1(x, tf.ones(2, tf.float64)),
            "`penalty` must have the dtype.*float32.*float64",
        ),
    ],
)
def test_bad_parameters_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(tf.ones((3, 2)))


def test_box_without_one_bound_and_on_the_border():
    value, *gradients = pulled_back(
        optimize.project_box,
        (np.array([-3.0, 0.0, 5.0]), np.float64(0.0), np.float64(np.inf)),
        np.ones(3),
    )
    np.testing.assert_array_equal(value, [0.0, 0.0, 5.0])
    np.testing.assert_array_equal(gradients[0], [0.0, 1.0, 1.0])
    assert gradients[1:] == [1.0, 0.0]
