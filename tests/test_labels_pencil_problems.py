"""Every variant of PENCIL's label problem against its own equation: steps, optima, known values."""

import numpy as np
import pytest
from keras import ops
from scipy.optimize import minimize
from scipy.special import lambertw, log_softmax, softmax, wrightomega

from keras_robustseg.labels import (
    Pencil,
    geometric_labels,
    lambert_labels,
    official_row_step,
    optimal_labels,
    row_step,
)
from keras_robustseg.labels._closed_forms import wright_omega

K = 10.0
VARIANTS = {
    "paper": {},
    "official": {"variant": "official_code"},
    "label first": {"direction": "label_first"},
    "geometric": {"direction": "label_first", "compatibility": "kl"},
}


def start(yhat):
    return np.log(np.maximum(yhat, np.exp(-K)))


def problem(name, z, p, yhat, margin):
    """C times the label problem at logits z, as its equation is written, in float64."""
    log_q, log_p = log_softmax(z), np.log(p)
    q = np.exp(log_q)
    if name == "paper":
        return (p * (log_p - log_q)).sum() - margin * (yhat * log_q).sum()
    if name == "official":
        return (p * (log_p - log_q)).sum() - margin * (yhat * log_softmax(q)).sum()
    if name == "label first":
        return (q * (log_q - log_p)).sum() - margin * (yhat * log_q).sum()
    given = log_softmax(start(yhat))
    return (q * (log_q - log_p)).sum() + margin * (q * (log_q - given)).sum()


def draw(rng, classes, soft):
    p = 0.98 * rng.dirichlet(np.full(classes, 0.7)) + 0.02 / classes
    yhat = np.eye(classes)[rng.integers(classes)]
    return p, 0.8 * yhat + 0.2 * rng.dirichlet(np.ones(classes)) if soft else yhat


def f32(*arrays):
    return [np.asarray(a, "float32") for a in arrays]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("classes", [2, 5])
def test_the_row_step_is_minus_the_gradient_of_its_problem(rng, name, classes):
    pencil = Pencil(**VARIANTS[name])
    for soft in (False, True):
        p, yhat = draw(rng, classes, soft)
        z, margin = rng.normal(size=classes), 0.3
        slope = [
            (problem(name, z + h, p, yhat, margin) - problem(name, z - h, p, yhat, margin)) / 2e-5
            for h in 1e-5 * np.eye(classes)
        ]
        log_p, log_q, y = f32(np.log(p), log_softmax(z), yhat)
        found = ops.convert_to_numpy(pencil.row_step(log_p, log_q, y, flip_margin=margin))
        np.testing.assert_allclose(found, slope[0] - np.array(slope[1:]), atol=5e-6)


@pytest.mark.parametrize("name", ["paper", "label first", "geometric"])
@pytest.mark.parametrize("margin", [0.05, 0.4, 0.95])
def test_the_optimum_is_that_of_a_solver(rng, name, margin):
    pencil = Pencil(**VARIANTS[name])
    for classes, soft in ((2, False), (3, True), (6, False)):
        p, yhat = draw(rng, classes, soft)
        log_p, y = f32(np.log(p), yhat)
        found = ops.convert_to_numpy(pencil.optimum(log_p, y, flip_margin=margin))
        best = minimize(
            lambda z, p=p, yhat=yhat: problem(name, z, p, yhat, margin),
            np.zeros(classes),
            tol=1e-12,
        )
        np.testing.assert_allclose(np.exp(found), softmax(best.x), atol=2e-5)
        assert problem(name, found.astype("float64"), p, yhat, margin) <= best.fun + 1e-6


def test_the_optimum_is_where_the_row_stands_still(rng):
    for name in ("paper", "label first", "geometric"):
        pencil, rows = Pencil(**VARIANTS[name]), [draw(rng, 4, k % 2) for k in range(50)]
        log_p, y = f32(np.log([p for p, _ in rows]), [yhat for _, yhat in rows])
        optimum = pencil.optimum(log_p, y, flip_margin=0.4)
        step = pencil.row_step(log_p, optimum, y, flip_margin=0.4)
        assert np.abs(ops.convert_to_numpy(step)).max() < 5e-6


def test_lambert_labels_are_scipys_lambert_w(rng):
    """q_j = k / W(k / (s p_j)) with s = (1 - q_j)/(1 - p_j), q_c = s p_c, for a hard mask."""
    p = rng.dirichlet(np.ones(3), 200) * 0.999 + 0.001 / 3
    yhat, margin = np.eye(3)[rng.integers(3, size=200)], 0.2
    log_p, y = f32(np.log(p), yhat)
    q = np.exp(ops.convert_to_numpy(lambert_labels(log_p, y, flip_margin=margin))).astype("float64")
    given = yhat.argmax(-1), np.arange(200)
    p_j, q_j = p[given[1], given[0]], q[given[1], given[0]]
    share = (1 - q_j) / (1 - p_j)
    np.testing.assert_allclose(q_j, margin / lambertw(margin / (share * p_j)).real, rtol=2e-4)
    others = yhat == 0
    np.testing.assert_allclose(q[others], (share[:, None] * p)[others], rtol=1e-4, atol=1e-6)


def test_wright_omega_is_scipys():
    z = np.concatenate([np.linspace(-80, 80, 301), [0.999, 1.0, 1.001]]).astype("float32")
    found = ops.convert_to_numpy(wright_omega(ops.convert_to_tensor(z)))
    np.testing.assert_allclose(found, wrightomega(z.astype("float64")), rtol=2e-5)


def test_geometric_labels_have_chernoffs_value_and_their_own_flip_rule(rng):
    for _ in range(20):
        p, yhat = draw(rng, 3, False)
        margin, given = 0.3, log_softmax(start(yhat))
        w = margin / (1 + margin)
        log_q = ops.convert_to_numpy(geometric_labels(*f32(np.log(p), given), flip_margin=margin))
        value = problem("geometric", log_q.astype("float64"), p, yhat, margin)
        chernoff = -(1 + margin) * np.log((p ** (1 - w) * np.exp(w * given)).sum())
        assert value == pytest.approx(chernoff, abs=1e-5)
        j = yhat.argmax()
        for k in range(3):
            if k != j:
                lead = np.log(p[k] / p[j]) - margin * K
                assert (log_q[k] > log_q[j]) == (lead > 0)


def test_a_label_first_label_of_two_classes_flips_at_a_log_ratio_of_twice_the_margin(rng):
    p1, margin = rng.uniform(0.01, 0.99, 3000), 0.6
    log_p = np.log(np.stack([1 - p1, p1], -1)).astype("float32")
    yhat = np.tile(np.array([1.0, 0.0], "float32"), (3000, 1))
    log_q = ops.convert_to_numpy(lambert_labels(log_p, yhat, flip_margin=margin))
    lead = log_p[:, 1] - log_p[:, 0] - 2 * margin
    clear = np.abs(lead) > 1e-3
    assert ((log_q[:, 1] > log_q[:, 0]) == (lead > 0))[clear].all()


def test_the_flip_rule_has_no_exception_in_two_hundred_thousand_draws(rng):
    classes, count = 4, 200_000
    p = rng.dirichlet(np.full(classes, 0.5), count).astype("float32") + 1e-7
    j, margin = rng.integers(classes, size=count), rng.uniform(0.01, 0.99, (count, 1))
    margin = margin.astype("float32")
    yhat = np.eye(classes, dtype="float32")[j]
    log_q = ops.convert_to_numpy(optimal_labels(np.log(p), yhat, flip_margin=margin))
    rows = np.arange(count)
    rival = np.where(yhat == 1, -1.0, p).max(-1)
    lead = rival - p[rows, j] - margin[:, 0]
    moved = log_q.argmax(-1) != j
    clear = np.abs(lead) > 1e-5
    assert (moved == (lead > 0))[clear].all()
    assert 0.1 < moved.mean() < 0.9


def stationary(step, p, j, margin, rate, visits=60_000):
    """Label probability of the given class and the first visit at which it is not the largest."""
    yhat, flipped = np.eye(len(p))[j], None
    z = start(yhat)
    for visit in range(visits):
        q = softmax(z)
        if flipped is None and q.argmax() != j:
            flipped = visit
        move = rate * step(p, q, yhat, margin)
        z = z + move
        if np.abs(move).max() < 1e-10:
            break
    return softmax(z)[j], flipped


def numpy_step(released):
    """The steps in NumPy: tens of thousands of visits are too many for tensors."""

    def step(p, q, yhat, margin):
        pull = yhat - softmax(q) if released else None
        given = q * (pull - (q * pull).sum()) if released else yhat - q
        return (p - q) + margin * given

    return step


@pytest.mark.parametrize(
    ("classes", "alpha", "other", "released", "paper"),
    [
        (10, 0.4, 0.9, 0.734, 0.802),
        (10, 0.1, 0.9, 0.144, 0.506),
        (100, 0.1, 0.9, 0.899, 0.909),
        (2, 0.1, 0.99, 0.014, 0.175),
    ],
)
def test_where_labels_end_in_the_released_program_and_in_the_paper(
    classes, alpha, other, released, paper
):
    p = np.full(classes, (1 - other) / (classes - 1))
    p[1] = other
    margin = alpha * classes
    assert stationary(numpy_step(True), p, 0, margin, 1.0)[0] == pytest.approx(released, abs=6e-4)
    assert stationary(numpy_step(False), p, 0, margin, 0.3)[0] == pytest.approx(paper, abs=6e-4)
    z = np.random.default_rng(0).normal(size=classes)
    q, yhat = softmax(z), np.eye(classes)[0]
    for step, here in ((official_row_step, True), (row_step, False)):
        found = ops.convert_to_numpy(step(*f32(p, q, yhat), flip_margin=margin))
        wanted = numpy_step(here)(p, q, yhat, margin)
        np.testing.assert_allclose(found, wanted[1:] - wanted[0], atol=2e-6)


@pytest.mark.parametrize(("rate", "epoch"), [(200, 43), (300, 29)])
def test_when_a_label_flips_in_the_released_program(rate, epoch):
    """C = 10, alpha = .1, a network that says .9 for another class, batches of 128."""
    p = np.full(10, 0.1 / 9)
    p[1] = 0.9
    assert stationary(numpy_step(True), p, 0, 1.0, rate / 1280, 200)[1] == epoch
    assert stationary(numpy_step(False), p, 0, 1.0, rate / 1280, 3000)[1] is None


def test_pixel_loss_of_each_variant_is_its_equation(rng):
    for name, options in VARIANTS.items():
        pencil = Pencil(alpha=0.1, entropy=0.4, **options)
        for classes in (2, 4):
            p, yhat = draw(rng, classes, True)
            z = rng.normal(size=classes)
            log_p, log_q, y = f32(np.log(p), log_softmax(z), yhat)
            found = float(pencil.pixel_loss(log_p, log_q, y))
            entropy = -(p * np.log(p)).sum()
            wanted = problem(name, z, p, yhat, 0.1 * classes) + 0.4 * entropy
            assert found == pytest.approx(wanted / classes, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"variant": "released"}, "variant"),
        ({"direction": "both"}, "direction"),
        ({"storage": "int4"}, "storage"),
        ({"variant": "official_code", "direction": "label_first"}, "released program"),
        ({"variant": "official_code", "store": "none"}, "no closed form"),
        ({"variant": "official_code", "store": "teacher"}, "no closed form"),
        ({"compatibility": "kl"}, "label_first"),
        ({"storage": "uint8", "initial_logit": 13.0}, "initial_logit"),
        ({"teacher_decay": 1.0}, "teacher_decay"),
    ],
)
def test_what_has_no_meaning_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Pencil(**options)


def test_published_strengths_are_allowed_where_the_flip_rule_does_not_hold():
    assert Pencil(alpha=0.4, variant="official_code").margin(10) == pytest.approx(4.0)
    assert Pencil(alpha=0.4, direction="label_first").margin(10) == pytest.approx(4.0)
