"""ALMA prox: golden values of its parts and its iterations, and what it promises."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import VOID, golden, random_network, random_problem, reference_network
from scipy.optimize import minimize

from keras_robustseg import attacks
from keras_robustseg.attacks._logit_ratio import constant_scale, logit_ratio, margin
from keras_robustseg.attacks._penalty import penalty, penalty_gradient
from keras_robustseg.attacks._prox import PROX, prox_linf, searched_prox_linf

LEVEL = 1 / 255


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-7), ("float64", 1e-12)])
@pytest.mark.parametrize("size", ["small", "large"])
def test_prox_of_the_golden_instances(size, dtype, tolerance):
    data = golden("prox_golden")
    names = ("delta", "lam", "H", "lower", "upper")
    delta, lam, *rest = (data[f"{size}_{name}"].astype(dtype) for name in names)
    found = prox_linf(delta, lam[:, None], *rest)
    assert np.abs(found - data[f"{size}_prox"]).max() <= tolerance


@pytest.mark.parametrize("norm", ["l1", "l2sq", "linf"])
def test_prox_against_a_general_solver(norm, rng):
    n = 5
    delta, metric = rng.normal(size=(1, n)), rng.uniform(0.2, 3, (1, n))
    lower, upper, scale = -rng.random((1, n)), rng.random((1, n)), np.array([[0.3]])
    sizes = {"l1": np.sum, "linf": np.max, "l2sq": lambda a: np.sum(a**2)}

    def objective(p):
        return np.sum(metric * (p - delta) ** 2) / 2 + 0.3 * sizes[norm](np.abs(p))

    found = PROX[norm](delta, scale, metric, lower, upper).numpy()[0]
    box = list(zip(lower[0], upper[0], strict=True))
    best = minimize(objective, np.zeros(n), bounds=box, method="Powell", options={"ftol": 1e-12})
    assert objective(found) <= best.fun + 1e-9
    assert np.all((found >= lower[0]) & (found <= upper[0]))


def test_penalty_and_both_derivatives():
    data = golden("unit_golden")
    y, rho, mu = (data[f"pen_{name}"] for name in ("y", "rho", "mu"))
    np.testing.assert_allclose(penalty(y, rho, mu), data["pen_value"], rtol=1e-12)
    for kind in ("exact", "released"):
        found = penalty_gradient(y, rho, mu, kind)
        np.testing.assert_allclose(found, data[f"pen_grad_{kind}"], rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 4, 5, 19, 21])
def test_logit_ratio(classes):
    data = golden("unit_golden")
    logits, labels = (data[f"dlr_C{classes}_{name}"] for name in ("logits", "labels"))
    for targeted in (False, True)[: 1 + (classes > 3)]:
        found = logit_ratio(logits[None], labels[None].astype("int32"), targeted)[0]
        expected = data[f"dlr_C{classes}_{'targeted' if targeted else 'untargeted'}"]
        np.testing.assert_allclose(-found if targeted else found, expected, rtol=1e-12)


def test_two_classes_have_a_scale_of_their_own(rng):
    """Blind to the scale of the logits and to void; sign and slope those of the margin."""
    logits, labels = rng.normal(size=(2, 9, 2)), rng.integers(0, 2, (2, 9)).astype("int32")
    valid = rng.random((2, 9)) < 0.7
    scale = constant_scale(logits, labels, valid).numpy()
    size = np.abs(logits[..., 0] - logits[..., 1])
    expected = [size[i][valid[i]].mean() for i in range(2)]
    np.testing.assert_allclose(scale[:, 0], expected)
    ratio = logit_ratio(logits, labels, tolerance=0.0, scale=scale)
    larger = constant_scale(7 * logits, labels, valid)
    np.testing.assert_allclose(logit_ratio(7 * logits, labels, tolerance=0.0, scale=larger), ratio)
    np.testing.assert_allclose(ratio * scale, margin(logits, labels))


@pytest.mark.parametrize("kind", ["exact", "released"])
def test_first_gradient(kind):
    data = golden("dev_A")
    images = tf.constant(data["images"][:4].astype("float64"))
    valid = (data["labels"][:4] != VOID).reshape(4, -1)
    labels = np.where(valid, data["labels"][:4].reshape(4, -1), 0).astype("int32")
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = tf.reshape(reference_network("A", "float64")(images), (4, -1, 3))
        ratio = logit_ratio(logits, labels)
    rho, mu = tf.fill(ratio.shape, np.float64(0.01)), tf.ones_like(ratio)
    slope = np.where(valid, penalty_gradient(ratio, rho, mu, kind), 0)
    gradient = tape.gradient(ratio, images, output_gradients=tf.constant(slope))
    expected = data[f"it0_grad_{kind}64"][:4]
    np.testing.assert_allclose(gradient, expected, atol=1e-10)
    np.testing.assert_allclose(ratio, data["it0_dlr64"][:4].reshape(4, -1), atol=1e-12)


def searched_radius(delta, scale, metric, lower, upper):
    """The radius by the reference's ternary search on the objective, which ends at 1e-6."""
    inside = np.clip(delta, lower, upper)
    low, high = 0.0, np.abs(inside).max()

    def objective(t):
        return np.sum(metric * (np.clip(inside, -t, t) - delta) ** 2) + 2 * scale * t

    for _ in range(int(np.ceil(np.log(1e-6 / max(high, 1e-6)) / np.log(2 / 3)))):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        low, high = (one, high) if objective(one) >= objective(two) else (low, two)
    radius = (low + high) / 2
    return np.clip(inside, -radius, radius), objective(radius)


def test_published_search_is_the_reference_and_no_closer_than_ours(rng):
    delta = rng.normal(size=(6, 40)) * np.array([1e-7, 1e-3, 0.1, 1, 5, 0])[:, None]
    scale, metric = rng.random((6, 1)) * 0.1, rng.random((6, 40)) + 0.1
    lower, upper = -rng.random((6, 40)), rng.random((6, 40))
    arguments = (delta, scale, metric, lower, upper)
    found, ours = searched_prox_linf(*arguments).numpy(), prox_linf(*arguments).numpy()
    for i in range(6):
        expected, reached = searched_radius(delta[i], scale[i], metric[i], lower[i], upper[i])
        np.testing.assert_allclose(found[i], expected, atol=1e-15)
        own = np.sum(metric[i] * (ours[i] - delta[i]) ** 2) + 2 * scale[i] * np.abs(ours[i]).max()
        assert own <= reached * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["exact", pytest.param("released", marks=pytest.mark.slow)])
@pytest.mark.parametrize("search", ["ternary", pytest.param("bisection", marks=pytest.mark.slow)])
def test_iterations_in_float64(kind, search):
    """As published they are the reference's to rounding.

    With the bisection, which is closer to the minimiser, a single one may differ by more than 1e-5.
    """
    settings = None if search == "ternary" else attacks.AlmaSettings()
    data, picked = golden("dev_A"), [0, 3]
    result = attacks.alma_prox(
        reference_network.__wrapped__("A", "float64"),
        data["images"][picked].astype("float64"),
        data["labels"][picked],
        steps=100,
        penalty_grad=kind,
        preset="published",
        settings=settings,
        ignore_label=VOID,
        return_trace=True,
    )
    assert result.adversarial.dtype == np.float64
    for column, image in enumerate(picked):
        found = {k: v[:, column] for k, v in result.trace.items()}
        reference = {k: data[f"trace64_{kind}_img{image}_{k}"] for k in found}
        off = np.abs(found["linf"] - reference["linf"])
        np.testing.assert_allclose(found["apsr"][:30], reference["apsr"][:30], atol=1e-6)
        if search == "ternary":
            assert off.max() < 1e-8
        assert np.sort(off[:20])[-2] < 1e-5
        assert off.max() < 1e-4
        for name, tolerance in (("mu", 1e-4), ("rho", 1e-6), ("w", 1e-6), ("lam", 1e-9)):
            np.testing.assert_allclose(found[name][:20], reference[name][:20], atol=tolerance)


def published(name, steps, kind, targeted=False):
    data = golden(f"dev_{name}")
    return attacks.alma_prox(
        reference_network(name),
        data["images"],
        data["target_labels" if targeted else "labels"],
        steps=steps,
        penalty_grad=kind,
        preset="published",
        ignore_label=VOID,
        targeted=targeted,
    )


@pytest.mark.parametrize("kind", ["exact", pytest.param("released", marks=pytest.mark.slow)])
def test_norms_after_a_hundred_iterations(kind):
    data, result = golden("dev_A"), published("A", 100, kind)
    assert np.abs(result.norm - data[f"alma_{kind}_100_linf"]).max() < 0.15 * LEVEL
    expected = data[f"alma_{kind}_100_apsr"] >= 0.99
    assert result.success.sum() == expected.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "kind", "targeted", "key"),
    [
        ("A", 500, "exact", False, "exact_500"),
        ("A", 500, "released", False, "released_500"),
        ("B", 200, "exact", False, "exact_200"),
        ("B", 200, "released", False, "released_200"),
        ("B", 200, "exact", True, "targeted0_exact_200"),
        ("B", 100, "released", True, "targeted0_released_100"),
    ],
)
def test_norms_after_many_iterations(name, steps, kind, targeted, key):
    data, result = golden(f"dev_{name}"), published(name, steps, kind, targeted)
    assert np.median(result.norm) == pytest.approx(np.median(data[f"alma_{key}_linf"]), rel=0.03)
    assert abs(result.success.sum() - (data[f"alma_{key}_apsr"] >= 0.99).sum()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("steps", [100, 200])
@pytest.mark.parametrize("name", ["A", "B"])
def test_the_walk_finds_smaller_norms_than_all_rivals(name, steps):
    """At the same number of gradient evaluations, failures infinite."""
    data, model = golden(f"dev_{name}"), reference_network(name)
    call, options = (model, data["images"], data["labels"]), {"ignore_label": VOID}
    ours = np.median(attacks.alma_prox(*call, steps=steps, **options).minimal_norm)
    search = {"steps": steps // 10, "search_steps": 10, "max_eps": 0.1}
    ratio_pgd = partial(attacks.pgd, loss="logit_ratio")
    rivals = [
        attacks.alma_prox(*call, steps=steps, preset="published", **options),
        attacks.fmn(*call, steps=steps, **options),
        attacks.dag(*call, steps=steps, **options),
        *(
            attacks.minimal_eps(a, *call, **search, **options)
            for a in (ratio_pgd, attacks.pgd, attacks.segpgd, attacks.cospgd)
        ),
    ]
    assert ours <= 1.02 * min(np.median(r.minimal_norm) for r in rivals)


def small(rng, classes=3, spatial=2, shape=(2, 7, 6, 2)):
    model = random_network(classes, spatial=spatial)
    return (model, *random_problem(model, shape, rng))


@pytest.mark.parametrize(
    ("classes", "norm"),
    [
        (2, "linf"),
        (1, "l1"),
        (5, "l2sq"),
        pytest.param(21, "linf", marks=pytest.mark.slow),
        pytest.param(3, "l1", marks=pytest.mark.slow),
    ],
)
def test_small_successes_are_true(classes, norm, rng):
    model, images, labels = small(rng, classes)
    fast = attacks.AlmaSettings(learning_rate=0.02, walk_share=0.5)
    options = {"steps": 120, "norm": norm, "success_rate": 0.6, "settings": fast}
    result = attacks.alma_prox(model, images, labels, **options)
    moved = (result.adversarial.astype("float64") - images).reshape(2, -1)
    order = {"linf": np.inf, "l1": 1, "l2sq": 2}[norm]
    np.testing.assert_allclose(result.norm, np.linalg.norm(moved, order, axis=-1), rtol=1e-6)
    output = np.asarray(model(result.adversarial))
    found = output.argmax(-1) if classes > 1 else output[..., 0] > 0
    hits = ((found != labels) & (labels >= 0)).sum((1, 2)) / (labels >= 0).sum((1, 2))
    np.testing.assert_allclose(result.success_rate, hits)
    assert result.success.all()
    if norm == "linf":
        noisy = attacks.noise(model, images, labels, eps=result.norm, success_rate=0.6)
        assert not noisy.success.any()


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_targets_with_few_classes(classes, rng):
    model, images, labels = small(rng, classes)
    targets = np.where(labels < 0, -1, 1)
    fast = attacks.AlmaSettings(learning_rate=0.02, walk_share=0.5)
    options = {"steps": 120, "success_rate": 0.6, "targeted": True, "settings": fast}
    result = attacks.alma_prox(model, images, targets, **options)
    assert result.success.all()
    found = np.asarray(model(result.adversarial)).argmax(-1)
    rate = ((found == 1) & (labels >= 0)).sum((1, 2)) / (labels >= 0).sum((1, 2))
    np.testing.assert_allclose(result.success_rate, rate)


def test_images_do_not_influence_each_other(rng):
    """Volumes, with as many void pixels as they like; one of them with nothing else."""
    model, images, labels = small(rng, 4, 3, (4, 3, 5, 4, 2))
    labels[1, :2], labels[2] = -1, -1
    options = {"steps": 30, "success_rate": 0.8}
    result = attacks.alma_prox(model, images, labels, **options)
    assert np.isnan(result.success_rate[2])
    assert not result.success[2]
    for i in (0, 1):
        alone = attacks.alma_prox(model, images[i : i + 1], labels[i : i + 1], **options)
        np.testing.assert_allclose(alone.norm, result.norm[i : i + 1], atol=1e-4)


def test_bounds_of_the_input(rng):
    from keras import Input, Model, layers

    model, images, labels = small(rng)
    wide = Input((None, None, 2))
    scaled = Model(wide, model(layers.Rescaling(1 / 255)(wide)))
    options = {"steps": 20, "success_rate": 0.6}
    expected = attacks.alma_prox(model, images, labels, **options)
    found = attacks.alma_prox(scaled, 255 * images, labels, bounds=(0, 255), **options)
    np.testing.assert_allclose(found.norm / 255, expected.norm, atol=1e-3)


def test_a_far_boundary_is_reached_in_few_steps():
    """Pixels of value b turn at 1/2: the least norm is 1/2 - b. The published form stays behind."""
    image = keras.Input((4, 4, 1))
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(image))
    dense.set_weights([np.array([[-3.0, 3.0]]), np.array([1.5, -1.5])])
    values = np.array([0.05, 0.2, 0.45], "float32")
    call = (model, np.tile(values[:, None, None, None], (1, 4, 4, 1)), np.zeros((3, 4, 4), int))
    found = attacks.alma_prox(*call, steps=60)
    assert found.success.all()
    assert np.all(found.norm >= 0.5 - values)
    assert np.all(found.norm <= 1.03 * (0.5 - values))
    assert not attacks.alma_prox(*call, steps=60, preset="published").success[0]


def test_what_was_flipped_before_needs_no_norm(rng):
    model, images, labels = small(rng)
    wrong = np.where(labels < 0, -1, (labels + 1) % 3)
    result = attacks.alma_prox(model, images, wrong, steps=10)
    np.testing.assert_array_equal(result.norm, 0)
    assert result.success.all()
    assert np.all(result.first_success == 0)


@pytest.mark.slow
def test_compiled_by_xla(rng):
    model, images, labels = small(rng)
    one, two = (
        attacks.alma_prox(model, images, labels, steps=20, success_rate=0.6, jit_compile=jit)
        for jit in (False, True)
    )
    np.testing.assert_allclose(one.norm, two.norm, atol=5e-3)


def test_a_model_without_derivative_is_refused(rng):
    model, images, labels = small(rng)
    image = keras.Input(images.shape[1:])
    blind = keras.Model(image, model(0.0 * image))
    with pytest.raises(ValueError, match=r"^The gradient of the logit ratio is zero"):
        attacks.alma_prox(blind, images, labels, steps=2)
    hard = keras.Model(image, keras.ops.one_hot(keras.ops.argmax(model(image), -1), 3))
    with pytest.raises(ValueError, match=r"^No gradient reaches the images"):
        attacks.alma_prox(hard, images, labels, steps=2)


@pytest.mark.parametrize(
    "wrong", [{"norm": "l0"}, {"penalty_grad": "wrong"}, {"preset": "best"}, {"steps": 0}]
)
def test_bad_input_is_explained(wrong, rng):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        attacks.alma_prox(*small(rng), **wrong)
