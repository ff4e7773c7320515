"""FMN, DAG, SEA, the search for the least eps, and the baselines."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from attack_cases import VOID, golden, random_network, random_problem, reference_network

from keras_robustseg import attacks
from keras_robustseg.attacks._apgd import check_lengths
from keras_robustseg.attacks._losses import jensen_shannon
from keras_robustseg.attacks._sea import _phases


def small(rng, classes=3, shape=(2, 7, 6, 2), **options):
    model = random_network(classes, **options)
    return (model, *random_problem(model, shape, rng))


def is_true(model, result, images, labels, norm="linf", goal=0.99):
    moved = np.abs(result.adversarial.astype("float64") - images).reshape(len(images), -1)
    size = moved.max(-1) if norm == "linf" else np.sqrt((moved**2).sum(-1))
    np.testing.assert_allclose(result.norm, size, atol=1e-7)
    output = np.asarray(model(result.adversarial))
    classes = output.argmax(-1) if output.shape[-1] > 1 else output[..., 0] > 0
    hits = (classes != labels) & (labels >= 0)
    rate = hits.sum((1, 2)) / (labels >= 0).sum((1, 2))
    np.testing.assert_allclose(result.success_rate, rate)
    np.testing.assert_array_equal(result.success, rate >= goal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "options", "key"),
    [
        (attacks.fmn, {"steps": 500}, "fmn_500"),
        (attacks.dag, {"steps": 500, "step_size": 0.001}, "dag_0.001_500"),
        (attacks.dag, {"steps": 500, "step_size": 0.003}, "dag_0.003_500"),
    ],
)
def test_norms_are_those_of_the_reference(attack, options, key):
    data, expected = golden("dev_A"), golden("dev_A_minnorm_baselines")
    result = attack(
        reference_network("A"), data["images"], data["labels"], ignore_label=VOID, **options
    )
    assert result.success.sum() == (expected[f"{key}_apsr"] >= 0.99).sum()
    assert np.median(result.norm) == pytest.approx(np.median(expected[f"{key}_linf"]), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "key"), [("cross_entropy", "ce"), ("logit_ratio", "dlr")])
def test_the_least_eps_of_pgd_is_that_of_the_reference(loss, key):
    data, expected = golden("dev_A"), golden("dev_A_minnorm_baselines")
    result = attacks.minimal_eps(
        attacks.pgd,
        reference_network("A"),
        data["images"],
        data["labels"],
        steps=40,
        loss=loss,
        ignore_label=VOID,
    )
    found = expected[f"minpgd_{key}_13x40_apsr"] >= 0.99
    if found.any():
        assert result.success.sum() == found.sum()
        # The step follows eps as in the reference, but crosses the ball in fewer iterations.
        reference = np.median(expected[f"minpgd_{key}_13x40_linf"])
        assert np.median(result.norm) < 1.05 * reference


@pytest.mark.parametrize(("classes", "norm"), [(5, "linf"), (3, "l2")])
def test_fmn_finds_small_successes(classes, norm, rng):
    model, images, labels = small(rng, classes)
    result = attacks.fmn(model, images, labels, steps=60, norm=norm, success_rate=0.6)
    is_true(model, result, images, labels, norm, goal=0.6)
    assert result.success.all()
    largest = 1 if norm == "linf" else np.sqrt(images[0].size)
    assert result.norm.max() < 0.6 * largest


@pytest.mark.parametrize("attack", [attacks.fmn, attacks.dag])
def test_steps_follow_the_bounds(attack, rng):
    model, images, labels = small(rng)
    wide = keras.Input((None, None, 2))
    scaled = keras.Model(wide, model(keras.layers.Rescaling(1 / 255)(wide)))
    expected = attack(model, images, labels, steps=8)
    found = attack(scaled, 255 * images, labels, steps=8, bounds=(0, 255))
    np.testing.assert_allclose(found.norm / 255, expected.norm, rtol=1e-3)


def test_dag_stops_at_success(rng):
    model, images, labels = small(rng)
    result = attacks.dag(model, images, labels, steps=80, step_size=0.02, success_rate=0.6)
    is_true(model, result, images, labels, goal=0.6)
    assert result.success.all()
    assert np.all(result.norm <= result.first_success * 0.02 + 1e-6)
    short = attacks.dag(model, images, labels, steps=2, step_size=0.02)
    assert np.all(short.first_success == -1)
    assert np.all(short.norm <= 0.04 + 1e-6)


def test_the_least_eps_is_near_the_boundary(rng):
    model, images, labels = small(rng)
    options = {"search_steps": 7, "steps": 8, "success_rate": 0.6}
    result = attacks.minimal_eps(attacks.cospgd, model, images, labels, **options)
    is_true(model, result, images, labels, goal=0.6)
    assert result.success.all()
    assert result.gradient_evaluations == 56
    eps = np.maximum(result.norm - 2**-5, 0)
    again = attacks.cospgd(model, images, labels, eps=eps, steps=8, success_rate=0.6)
    assert not again.success.any()


def test_sea_keeps_the_worst_of_its_losses(rng):
    model, images, labels = small(rng)
    options = {"eps": 0.08, "steps": 10}
    names = ("masked_cross_entropy", "jensen_shannon")
    both = attacks.sea(model, images, labels, losses=names, **options)
    is_true(model, both, images, labels)
    assert both.norm.max() <= 0.08 + 1e-6
    assert both.gradient_evaluations == 20
    first = attacks.sea(model, images, labels, losses=names[:1], **options)
    assert np.all(both.success_rate >= first.success_rate)


@pytest.mark.slow
def test_sea_is_the_strongest_on_the_reference_network():
    data = golden("dev_A")
    options = {"eps": 8 / 255, "ignore_label": VOID}
    call = (reference_network("A"), data["images"], data["labels"])
    best = attacks.sea(*call, steps=100, **options).success_rate.mean()
    for attack in (attacks.pgd, attacks.segpgd, attacks.cospgd):
        assert best > attack(*call, steps=100, **options).success_rate.mean()


def test_checks_of_the_step_are_those_of_the_paper():
    """.22, .41, .57, .70, .80, .87, .93, .99 of the steps."""
    lengths = check_lengths(100)
    np.testing.assert_array_equal(
        np.flatnonzero(lengths) + 1, np.ceil(np.array([22, 41, 57, 70, 80, 87, 93, 99]))
    )
    assert lengths.sum() == 99
    assert _phases(300) == [(2.0, 90), (1.5, 90), (1.0, 120)]
    assert _phases(1) == [(1.0, 1)]


def test_jensen_shannon_against_its_definition(rng):
    z = rng.normal(size=(2, 5, 4))
    y = rng.integers(0, 4, (2, 5)).astype("int32")
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    q = np.eye(4)[y]
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(a > 0, a * np.log(a / middle), 0).sum(-1) / 2 for a in (p, q)]
    np.testing.assert_allclose(jensen_shannon(z, y, 0.0, False), sum(terms), atol=1e-12)


def test_noise_and_transfer(rng):
    model, images, labels = small(rng)
    other = random_network(3, seed=5)
    for kind in ("sign", "uniform"):
        result = attacks.noise(model, images, labels, eps=0.05, steps=4, kind=kind)
        is_true(model, result, images, labels)
        assert result.norm.max() <= 0.05 + 1e-6
    options = {"eps": 0.05, "steps": 5}
    white = attacks.pgd(model, images, labels, **options)
    assert white.success_rate.mean() > result.success_rate.mean()
    moved = attacks.transfer(attacks.pgd, other, model, images, labels, **options)
    is_true(model, moved, images, labels)
    made = attacks.pgd(other, images, labels, **options)
    np.testing.assert_array_equal(moved.adversarial, made.adversarial)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *c: attacks.fmn(*c, norm="l1"), "`norm`"),
        (lambda *c: attacks.fmn(*c, step_size=0.0), "`step_size`"),
        (lambda *c: attacks.dag(*c, step_size=-1.0), "`step_size`"),
        (lambda *c: attacks.sea(*c, eps=0.1, losses=("hinge",)), "`losses`"),
        (lambda *c: attacks.noise(*c, eps=0.1, kind="pink"), "`kind`"),
        (lambda *c: attacks.minimal_eps(attacks.pgd, *c, eps=0.1), "`eps`"),
        (lambda *c: attacks.minimal_eps(attacks.pgd, *c, max_eps=0.0), "`max_eps`"),
    ],
)
def test_bad_input_is_explained(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(*small(rng, shape=(1, 4, 4, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attacks.fmn, attacks.dag, attacks.sea])
def test_compiled_by_xla(attack, rng):
    model, images, labels = small(rng, classes=4)
    options = {attacks.sea: {"eps": 0.1}, attacks.dag: {"step_size": 0.02}}.get(attack, {})
    one, two = (
        attack(model, images, labels, steps=6, jit_compile=jit, **options) for jit in (False, True)
    )
    np.testing.assert_allclose(one.success_rate, two.success_rate, atol=0.05)
    np.testing.assert_allclose(one.norm, two.norm, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attacks.fmn, attacks.dag, attacks.sea])
def test_volumes_void_images_and_targets(attack, rng):
    model = random_network(4, spatial=3)
    images, labels = random_problem(model, (2, 4, 5, 3, 2), rng)
    labels[1] = -1
    # Twenty of DAG's own small steps do not reach the boundary.
    options = {attacks.sea: {"eps": 0.2}, attacks.dag: {"step_size": 0.05}}.get(attack, {})
    result = attack(model, images, labels, steps=20, **options)
    assert np.isnan(result.success_rate[1])
    assert result.success_rate[0] > 0.3
    targets = np.where(labels < 0, -1, 2)
    reached = attack(model, images, targets, steps=20, targeted=True, **options)
    assert reached.success_rate[0] > np.mean((labels == 2)[0]) + 0.1
