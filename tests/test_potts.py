"""The relaxed Potts problem: golden values, an outside solver, finite differences, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keras_robustseg.optimize import PottsOptions, Status, potts_objective, relaxed_potts
from keras_robustseg.optimize import potts_vjp as eager_vjp

GOLDEN = Path(__file__).parent / "golden" / "implicit" / "segtv.npz"
EXACT = PottsOptions(iterations=3000, tolerance=1e-12, adjoint_tolerance=1e-13)


def solution(cost, class_weights, edge_weights=None, epsilon=0.5, *, options):
    """`relaxed_potts` in a graph, where it is many times faster."""
    import tensorflow as tf

    solve = tf.function(lambda *given: relaxed_potts(*given, options=options), autograph=False)
    return solve(*_constants(cost, class_weights, edge_weights, epsilon))


def potts_vjp(cost, class_weights, edge_weights=None, epsilon=0.5, *, cotangent, options):
    """`optimize.potts_vjp` in a graph."""
    import tensorflow as tf

    solve = tf.function(
        lambda v, *given: eager_vjp(*given, cotangent=v, options=options), autograph=False
    )
    return solve(*_constants(cotangent, cost, class_weights, edge_weights, epsilon))


def _constants(*values):
    import tensorflow as tf

    # Through NumPy: of a Python number TensorFlow makes float32.
    return [None if value is None else tf.constant(np.asarray(value)) for value in values]


def problem(rng, space=(6, 5), classes=3, batch=2):
    """Costs, class weights, edge weights and a cotangent."""
    cost = rng.normal(size=(batch, *space, classes))
    weights = rng.uniform(0.1, 0.4, classes)
    edges = rng.uniform(0.3, 1.5, (batch, *space, len(space)))
    return cost, weights, edges, rng.normal(size=cost.shape)


@pytest.mark.parametrize(
    ("kind", "close", "rate"), [("float64", 1e-6, 1e-4), ("float32", 1e-4, 1e-2)]
)
def test_golden_values(kind, close, rate):
    golden = np.load(GOLDEN)
    options = EXACT if kind == "float64" else PottsOptions(iterations=2000)
    cost, lam = golden["unary"][None].astype(kind), golden["lam"]
    edges, v = np.ones((1, 16, 16, 2)), golden["qp_cotangent"][None]
    found, info, adjoint = potts_vjp(cost, lam, edges, 0.5, cotangent=v, options=options)
    u, _ = solution(cost, lam, options=options)
    assert int(info.status[0]) in (Status.OK, Status.NEAR_KINK)
    assert int(adjoint.status[0]) == Status.OK
    np.testing.assert_allclose(u[0], golden["qp_u"], atol=close)
    value = potts_objective(u, cost, lam)[0]
    np.testing.assert_allclose(value, golden["qp_value"], rtol=close)
    for name, expected in (
        ("cost", golden["qp_vjp_unary"]),
        ("class_weights", golden["qp_dlam"]),
        ("epsilon", golden["qp_deps"]),
    ):
        ours = np.asarray(found[name]).reshape(expected.shape)
        np.testing.assert_allclose(ours, expected, atol=rate * np.abs(expected).max())
    by_edge = np.asarray(found["edge_weights"])[0]
    size = rate * np.abs(golden["qp_dedge_v"]).max()
    np.testing.assert_allclose(by_edge[:-1, :, 0], golden["qp_dedge_v"], atol=size)
    np.testing.assert_allclose(by_edge[:, :-1, 1], golden["qp_dedge_h"], atol=size)
    assert not by_edge[-1, :, 0].any()
    assert not by_edge[:, -1, 1].any()


@pytest.mark.slow
def test_small_epsilon_tends_to_the_linear_program():
    golden, options = np.load(GOLDEN), PottsOptions(iterations=6000, tolerance=1e-5)
    for isotropic, value in ((False, "lp_value"), (True, "socp_value")):
        chosen = options._replace(isotropic=isotropic)
        cost = golden["unary"][None]
        u, _ = solution(cost, golden["lam"], epsilon=0.01, options=chosen)
        plain = potts_objective(u, cost, golden["lam"], epsilon=0.01, options=chosen)
        squares = 0.005 * np.sum(np.square(u))
        np.testing.assert_allclose(plain[0] - squares, golden[value], rtol=2e-3)


def neighbours(height, width):
    """Matrices of the differences down and right on flattened pixels."""
    down, right = np.zeros((2, height * width, height * width))
    for pixel in range(height * width):
        for matrix, there, step in (
            (down, pixel // width < height - 1, width),
            (right, pixel % width < width - 1, 1),
        ):
            if there:
                matrix[pixel, [pixel, pixel + step]] = -1.0, 1.0
    return down, right


def by_cvxpy(cost, lam, edges, isotropic, smoothing):
    """The minimiser by an interior-point solver; Huber's function as an infimal convolution."""
    cp = pytest.importorskip("cvxpy")
    height, width, classes = cost.shape
    u, w = cp.Variable((height * width, classes)), edges.reshape(-1, 2)
    value = cp.sum(cp.multiply(cost.reshape(-1, classes), u)) + 0.25 * cp.sum_squares(u)
    for k in range(classes):
        steps = [matrix @ u[:, k] for matrix in neighbours(height, width)]
        if isotropic:
            steps = [cp.multiply(w[:, a], step) for a, step in enumerate(steps)]
        if smoothing:
            sharp = [cp.Variable(height * width) for _ in steps]
            value += sum(cp.sum_squares(a - b) for a, b in zip(steps, sharp, strict=True)) / (
                2 * smoothing
            )
            steps = sharp
        if isotropic:
            value += lam[k] * cp.sum(cp.norm(cp.vstack(steps), 2, axis=0))
        else:
            value += lam[k] * sum(cp.sum(cp.multiply(w[:, a], cp.abs(steps[a]))) for a in (0, 1))
    cp.Problem(cp.Minimize(value), [u >= 0, cp.sum(u, axis=1) == 1]).solve(solver=cp.CLARABEL)
    return u.value.reshape(cost.shape)


@pytest.mark.parametrize(
    ("isotropic", "smoothing"),
    [
        (False, 0.0),
        (True, 0.0),
        pytest.param(False, 0.3, marks=pytest.mark.slow),
        pytest.param(True, 0.3, marks=pytest.mark.slow),
    ],
)
def test_an_outside_solver_finds_the_same(isotropic, smoothing, rng):
    cost, lam, edges, _ = problem(rng, batch=1)
    expected = by_cvxpy(cost[0], lam, edges[0], isotropic, smoothing)
    options = EXACT._replace(isotropic=isotropic, smoothing=smoothing)
    ours, _ = solution(cost, lam, edges, options=options)
    np.testing.assert_allclose(ours[0], expected, atol=3e-5)


@pytest.mark.parametrize(
    ("space", "classes", "isotropic", "smoothing"),
    [
        ((6, 5), 3, False, 0.0),
        ((6, 5), 3, True, 0.0),
        pytest.param((4, 5), 3, False, 0.2, marks=pytest.mark.slow),
        pytest.param((4, 5), 2, True, 0.2, marks=pytest.mark.slow),
        pytest.param((3, 4, 2), 3, True, 0.0, marks=pytest.mark.slow),
        pytest.param((1, 7), 20, False, 0.0, marks=pytest.mark.slow),
        ((9,), 2, False, 0.0),
    ],
)
def test_derivatives_are_those_of_finite_differences(space, classes, isotropic, smoothing, rng):
    cost, lam, edges, v = problem(rng, space, classes, batch=1)
    options = EXACT._replace(isotropic=isotropic, smoothing=smoothing)
    found, _, _ = potts_vjp(cost, lam, edges, 0.5, cotangent=v, options=options)
    given = {"cost": cost, "class_weights": lam[None], "edge_weights": edges}
    ways = {name: 1e-6 * rng.normal(size=point.shape) for name, point in given.items()}
    # One batch: each argument moved both ways, the others as they are.
    moved = {
        name: np.concatenate(
            [point + sign * ways[name] * (name == other) for other in given for sign in (1, -1)]
        )
        for name, point in given.items()
    }
    ends = np.sum(v * solution(**moved, options=options)[0], tuple(range(1, v.ndim)))
    for row, name in enumerate(given):
        expected = np.sum(np.asarray(found[name]) * ways[name])
        slope = (ends[2 * row] - ends[2 * row + 1]) / 2
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-10, err_msg=name)
    ends = [
        np.sum(v * solution(**given, epsilon=0.5 + way, options=options)[0])
        for way in (1e-6, -1e-6)
    ]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, found["epsilon"], rtol=1e-4, atol=1e-6)


def test_class_weights_of_each_item(rng):
    cost, _, _, v = problem(rng)
    lam = rng.uniform(0.1, 0.5, (2, 3))
    together, _, _ = potts_vjp(cost, lam, cotangent=v, options=EXACT)
    for b in range(2):
        alone, _, _ = potts_vjp(cost[[b]], lam[b], cotangent=v[[b]], options=EXACT)
        for name in ("cost", "class_weights"):
            pair = np.asarray(together[name])[b], np.asarray(alone[name]).reshape(-1, 3)
            np.testing.assert_allclose(pair[0].reshape(-1, 3), pair[1], atol=1e-8)


def test_an_item_that_is_solved_stands_still(rng):
    cost, lam, _, v = problem(rng, (8, 7))
    cost[1], v[0] = np.array([-9.0, 9.0, 9.0]), 0.0
    found, info, adjoint = potts_vjp(cost, lam, cotangent=v, options=EXACT)
    alone, _ = solution(cost[:1], lam, options=EXACT)
    together, _ = solution(cost, lam, options=EXACT)
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1], np.broadcast_to([1.0, 0.0, 0.0], (8, 7, 3)))
    assert info.iterations[0] > info.iterations[1]
    assert int(adjoint.iterations[0]) == 0
    assert not np.asarray(found["cost"]).any()


def test_huge_and_equal_costs(rng):
    cost = 1e8 * rng.normal(size=(1, 4, 5, 3))
    u, info = relaxed_potts(cost, 0.3)
    np.testing.assert_array_equal(u[0], np.eye(3)[cost[0].argmin(-1)])
    assert int(info.status[0]) == Status.OK
    u, _ = relaxed_potts(np.zeros((1, 4, 5, 3)), 0.3)
    np.testing.assert_allclose(u, 1 / 3, atol=1e-12)
    u, _ = relaxed_potts(cost / 1e8, 0.0)  # without edges: the projection of each pixel
    best = -cost / 1e8 / 0.5
    order = np.sort(best, -1)[..., ::-1]
    sizes = (np.cumsum(order, -1) - 1) / np.arange(1, 4)
    threshold = np.max(sizes, -1, keepdims=True)
    np.testing.assert_allclose(u, np.maximum(best - threshold, 0), atol=1e-12)


def test_too_few_iterations_are_a_status_and_a_warning(rng):
    cost, lam, _, _ = problem(rng, (16, 16))
    with pytest.warns(RuntimeWarning, match="not solved: NOT_CONVERGED"):
        _, info = relaxed_potts(cost, lam, options=PottsOptions(iterations=3))
    assert (np.asarray(info.status) == Status.NOT_CONVERGED).all()


def test_unrolled_tends_to_implicit_and_one_step_does_not(rng):
    import tensorflow as tf

    cost, lam, _, v = problem(rng)
    expected, _, _ = potts_vjp(cost, lam, cotangent=v, options=EXACT)

    def slope(**options):
        with tf.GradientTape() as tape:
            tape.watch(point := tf.constant(cost))
            u, _ = relaxed_potts(point, lam, options=PottsOptions(tolerance=1e-10, **options))
            value = tf.reduce_sum(u * v)
        error = tape.gradient(value, point) - expected["cost"]
        return np.linalg.norm(error) / np.linalg.norm(expected["cost"])

    assert slope() < 1e-5
    assert slope(adjoint="unrolled", iterations=400) < 1e-5
    assert slope(adjoint="neumann", adjoint_iterations=300) < 1e-3
    with pytest.warns(RuntimeWarning, match="far off"):
        assert slope(adjoint="one_step") > 0.3


def test_a_second_derivative_is_refused(rng):
    import tensorflow as tf

    cost, lam, _, v = problem(rng)
    with tf.GradientTape() as outer:
        outer.watch(point := tf.constant(cost))
        with tf.GradientTape() as inner:
            inner.watch(point)
            value = tf.reduce_sum(relaxed_potts(point, lam)[0] * v)
        first = tf.reduce_sum(tf.square(inner.gradient(value, point)))
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        outer.gradient(first, point)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"cost": np.full((1, 2, 2, 3), np.nan)}, "cost"),
        ({"cost": np.ones((1, 2, 2, 1))}, "cost"),
        ({"cost": np.ones((2, 3))}, "cost"),
        ({"class_weights": -0.1}, "class_weights"),
        ({"class_weights": [0.1, 0.2]}, "class_weights"),
        ({"edge_weights": np.ones((1, 2, 2, 1))}, "edge_weights"),
        ({"edge_weights": -np.ones((1, 2, 2, 2))}, "edge_weights"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"options": PottsOptions(iterations=0)}, "iterations"),
        ({"options": PottsOptions(smoothing=-1.0)}, "smoothing"),
        ({"options": PottsOptions(adjoint="magic")}, "adjoint"),
    ],
)
def test_bad_input_is_refused(change, name):
    arguments = {"cost": np.ones((1, 2, 2, 3)), "class_weights": 0.1, **change}
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        relaxed_potts(**arguments)


def test_a_compiled_function_may_hold_its_problem_as_a_constant(rng):
    import tensorflow as tf

    cost = tf.constant(rng.normal(size=(1, 4, 5, 3)))
    expected = relaxed_potts(cost, 0.3)[0]
    found = tf.function(lambda: relaxed_potts(cost, tf.constant(0.3, "float64"))[0])()
    np.testing.assert_allclose(found, expected, atol=1e-10)
    broken = cost * np.nan
    with pytest.raises(ValueError, match="`cost`"):
        tf.function(lambda: relaxed_potts(broken, 0.3)[0])()
