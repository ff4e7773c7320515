"""PENCIL's equations: terms, row step, optimum, flip rule, limits, convergence of the rows."""

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops

from keras_robustseg.labels import (
    LabelStore,
    Pencil,
    full_logits,
    initial_logits,
    label_store_bytes,
    optimal_labels,
    pencil_terms,
    row_step,
)


def draws(seed, classes, count=50):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.7), size=count).astype("float32") + 1e-6
    p /= p.sum(-1, keepdims=True)
    yhat = np.eye(classes, dtype="float32")[rng.integers(0, classes, count)]
    return p, yhat


def objective(q, p, yhat, margin):
    """The paper's label problem times C, as plain NumPy."""
    return np.sum(p * (np.log(p) - np.log(q)), -1) - margin * np.sum(yhat * np.log(q), -1)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("margin", [0.05, 0.2, 0.8])
def test_the_optimum_is_the_mixture_and_a_solver_agrees(classes, margin):
    p, yhat = draws(classes, classes, 8)
    q = np.exp(ops.convert_to_numpy(optimal_labels(np.log(p), yhat, flip_margin=margin)))
    np.testing.assert_allclose(q, (p + margin * yhat) / (1 + margin), rtol=1e-5)
    for row in range(4):

        def value(z, row=row):
            e = np.exp(z - z.max())
            return objective(e / e.sum(), p[row].astype("float64"), yhat[row], margin)

        best = scipy.optimize.minimize(value, np.zeros(classes), method="BFGS", tol=1e-12)
        # q comes in float32, the solver works in float64
        assert value(np.log(q[row] + 1e-300)) <= best.fun + 1e-6


@pytest.mark.parametrize("classes", [2, 4])
def test_the_row_step_is_minus_the_gradient_of_the_loss(classes):
    p, yhat = draws(3, classes, 6)
    rng = np.random.default_rng(0)
    z = rng.normal(size=p.shape)
    margin = 0.3

    def total(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return objective(e / e.sum(-1, keepdims=True), p.astype("float64"), yhat, margin).sum()

    step = np.zeros_like(z)
    for i in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        step[i] = -(total(up) - total(down)) / 2e-5
    q = ops.convert_to_numpy(ops.softmax(z.astype("float32"), axis=-1))
    found = ops.convert_to_numpy(row_step(p, q, yhat, flip_margin=margin))
    np.testing.assert_allclose(found, step[:, 1:] - step[:, :1], atol=2e-5)


def test_flip_rule():
    for classes in (2, 3, 6):
        p, yhat = draws(11, classes, 4000)
        for margin in (0.1, 0.5, 0.9):
            log_q = ops.convert_to_numpy(optimal_labels(np.log(p), yhat, flip_margin=margin))
            given = yhat.argmax(-1)
            lead = p.max(-1) - p[np.arange(len(p)), given]
            clear = np.abs(lead - margin) > 1e-4
            moved = log_q.argmax(-1) != given
            assert (moved == (lead > margin))[clear].all()
            assert moved.any()


def test_rows_run_to_convergence_reach_the_optimum_for_hard_and_soft_masks():
    classes, margin = 3, 0.25
    p, hard = draws(5, classes, 40)
    p = 0.97 * p + 0.01  # the rate of convergence is that of the least likely class
    soft = 0.7 * hard + 0.1
    for yhat in (hard, soft):
        delta = np.zeros((40, classes - 1), "float64")
        start = ops.convert_to_numpy(initial_logits(yhat))
        for _ in range(4000):
            z = start + np.concatenate([np.zeros((40, 1)), delta], -1)
            q = np.exp(z - z.max(-1, keepdims=True))
            q /= q.sum(-1, keepdims=True)
            step = (p - q) + margin * (yhat - q)
            delta += 1.0 * (step[:, 1:] - step[:, :1])
        np.testing.assert_allclose(q, (p + margin * yhat) / (1 + margin), atol=1e-6)


def test_start_is_the_given_mask():
    _, yhat = draws(1, 4, 5)
    q = ops.convert_to_numpy(ops.softmax(initial_logits(yhat, 10.0), axis=-1))
    np.testing.assert_allclose(q.max(-1), np.exp(10) / (np.exp(10) + 3), rtol=1e-6)
    soft = np.array([[0.5, 0.25, 0.25]], "float32")
    q = ops.convert_to_numpy(ops.softmax(initial_logits(soft), axis=-1))
    np.testing.assert_allclose(q, soft, atol=1e-6)


def test_the_pixel_loss_is_the_papers():
    p, yhat = draws(2, 3, 10)
    q = draws(4, 3, 10)[0]
    pencil = Pencil(alpha=0.1, entropy=0.4)
    found = ops.convert_to_numpy(pencil.pixel_loss(np.log(p), np.log(q), yhat))
    kl = (p * (np.log(p) - np.log(q))).sum(-1)
    wanted = kl / 3 + 0.1 * -(yhat * np.log(q)).sum(-1) + 0.4 / 3 * -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    terms = pencil_terms(np.log(p), np.log(q), yhat)
    np.testing.assert_allclose(terms.classification, kl, rtol=1e-4, atol=1e-6)


def test_three_ways_to_say_the_same_strength():
    margins = [Pencil(flip_margin=0.25), Pencil(trust=0.2), Pencil(alpha=0.125)]
    assert [pencil.margin(2) for pencil in margins] == pytest.approx([0.25] * 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"flip_margin": 0.2, "trust": 0.2}, "exactly one"),
        ({"flip_margin": 1.0}, "flip_margin"),
        ({"trust": 0.5}, "trust"),
        ({"alpha": 0.0}, "alpha"),
        ({"entropy": 1.0}, "entropy"),
        ({"label_rate": 0.0}, "label_rate"),
        ({"label_rate": float("nan")}, "label_rate"),
        ({"warmup": 0.7, "finetune": 0.4}, "sum to at most 1"),
        ({"store": "cloud"}, "store"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        Pencil(**arguments)


def test_an_alpha_that_can_change_nothing_is_refused():
    with pytest.raises(ValueError, match="no label could ever change"):
        Pencil(alpha=0.4).margin(4)


def test_config_round_trip():
    pencil = Pencil(trust=0.3, entropy=0.2, label_rate=1.5, warmup=0.1, store="none")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pencil))
    assert again.get_config() == pencil.get_config()


def test_store_reads_zero_and_adds_where_it_was_told():
    store = LabelStore([(3, 4), (2, 5)], 3)
    assert store.count_params() == (12 + 10) * 2
    index = np.array([[[[0], [13]], [[21], [-1]]]], "int32")
    update = np.arange(8, dtype="float32").reshape(1, 2, 2, 2)
    store.add(index, update)
    table = ops.convert_to_numpy(store.delta)
    assert (table[[0, 13, 21]] == [[0, 1], [2, 3], [4, 5]]).all()
    assert np.abs(table).sum() == 15  # the row outside the image went nowhere
    found = ops.convert_to_numpy(store.read(index))
    assert (found[0, 0] == [[0, 1], [2, 3]]).all()
    assert (found[0, 1, 1] == 0).all()
    assert store.sample(1).shape == (2, 5, 2)


def test_add_is_the_transpose_of_read():
    rng = np.random.default_rng(3)
    store = LabelStore([(6, 7)] * 2, 2)
    store.delta.assign(rng.normal(size=(84, 1)))
    index = rng.integers(-1, 84, size=(2, 4, 4, 4)).astype("int32")
    weight = rng.uniform(size=index.shape).astype("float32")
    update = rng.normal(size=(2, 4, 4, 1)).astype("float32")
    before = ops.convert_to_numpy(store.delta).copy()
    left = (ops.convert_to_numpy(store.read(index, weight)) * update).sum()
    store.add(index, update, weight)
    right = ((ops.convert_to_numpy(store.delta) - before) * before).sum()
    assert left == pytest.approx(right, rel=1e-4)


def test_index_of_whole_images_and_its_refusal():
    store = LabelStore([(2, 3)] * 4, 2)
    rows = ops.convert_to_numpy(store.index(np.array([3, 1])))
    assert (rows[0].ravel() == np.arange(18, 24)).all()
    with pytest.raises(ValueError, match="differ in size"):
        LabelStore([(2, 3), (3, 3)], 2).index(np.array([0]))


def test_size_is_told_and_a_store_that_does_not_fit_is_refused():
    assert label_store_bytes([(64, 64)] * 1000, 2) == 4 * 64 * 64 * 1000
    with pytest.raises(ValueError, match="GiB"):
        LabelStore([(2048, 2048)] * 400, 200)
    with pytest.raises(ValueError, match="num_classes"):
        LabelStore([(2, 2)], 1)
    with pytest.raises(ValueError, match="shapes"):
        LabelStore([], 2)


def test_full_logits_put_class_zero_at_zero():
    offsets = np.array([[1.0, -2.0]], "float32")
    assert ops.convert_to_numpy(full_logits(offsets)).tolist() == [[0.0, 1.0, -2.0]]
