"""STAPLE against SimpleITK's, against planted readers, and against its own equations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from keras_robustseg.labels import majority_vote, staple

ACCURACY = (0.95, 0.85, 0.7, 0.8, 0.6)


def planted(rng, shape, classes, accuracy=ACCURACY, spread=1.0):
    """Truth (*S), matrices (R, C, C) and masks (*S, R) of readers who err independently."""
    truth = rng.choice(classes, shape, p=rng.dirichlet(np.full(classes, 5.0)))
    wrong = rng.dirichlet(np.full(classes, spread), (len(accuracy), classes))
    trust = np.array(accuracy)[:, None, None]
    matrices = trust * np.eye(classes) + (1 - trust) * wrong
    chance = matrices[:, truth].cumsum(axis=-1)
    drawn = (chance > rng.random((len(accuracy), *shape, 1))).argmax(axis=-1)
    return truth, matrices, np.moveaxis(drawn, 0, -1)


def discs(rng, count=6, side=32):
    """Masks of one disc each by a good, an over-, an under-segmenting, a wrong, a blank reader."""
    axes = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1)
    truth, masks = [], []
    for _ in range(count):
        centre, radius = rng.uniform(0.35 * side, 0.65 * side, 2), rng.uniform(5, 8)
        disc = ((axes - centre) ** 2).sum(-1) < radius**2
        moved = np.roll(disc, (9, -9), (0, 1))
        readers = [
            disc ^ (rng.random(disc.shape) < 0.01),
            ndimage.binary_dilation(disc, iterations=2),
            ndimage.binary_erosion(disc, iterations=2),
            moved,
            np.zeros_like(disc),
        ]
        truth.append(disc)
        masks.append(np.stack(readers, -1))
    return np.stack(truth).astype("int32"), np.stack(masks).astype("int32")


def dice(mask, truth):
    return 2 * ((mask == 1) & (truth == 1)).sum() / ((mask == 1).sum() + (truth == 1).sum())


def images(sitk, masks):
    parts = np.moveaxis(masks.astype("uint8"), -1, 0)
    return [sitk.GetImageFromArray(np.ascontiguousarray(part)) for part in parts]


# Against SimpleITK -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(31, 17), (5, 13, 9)])
def test_binary_is_that_of_simpleitk(shape, rng):
    sitk = pytest.importorskip("SimpleITK")
    _, _, masks = planted(rng, shape, 2)
    oracle = sitk.STAPLEImageFilter()
    oracle.SetForegroundValue(1)
    oracle.SetMaximumIterations(10_000)
    weights = sitk.GetArrayFromImage(oracle.Execute(images(sitk, masks)))
    found = staple(masks, 2, tolerance=1e-10)
    assert found.converged
    np.testing.assert_allclose(found.posterior[..., 1], weights, atol=1e-5)
    np.testing.assert_allclose(found.confusion[:, 1, 1], oracle.GetSensitivity(), atol=1e-5)
    np.testing.assert_allclose(found.confusion[:, 0, 0], oracle.GetSpecificity(), atol=1e-5)


def test_of_discs_is_that_of_simpleitk(rng):
    sitk = pytest.importorskip("SimpleITK")
    for masks in discs(rng, count=3)[1]:
        oracle = sitk.STAPLEImageFilter()
        oracle.SetForegroundValue(1)
        oracle.SetMaximumIterations(10_000)
        weights = sitk.GetArrayFromImage(oracle.Execute(images(sitk, masks)))
        found = staple(masks, 2, tolerance=1e-10)
        np.testing.assert_allclose(found.posterior[..., 1], weights, atol=1e-4)
        np.testing.assert_allclose(found.confusion[:, 1, 1], oracle.GetSensitivity(), atol=1e-4)


def multi_label_staple(masks, classes):
    """Labels (*S) and matrices (R, C, C) of SimpleITK."""
    sitk = pytest.importorskip("SimpleITK")
    oracle = sitk.MultiLabelSTAPLEImageFilter()
    oracle.SetMaximumNumberOfIterations(100_000)
    oracle.SetTerminationUpdateThreshold(1e-9)
    labels = sitk.GetArrayFromImage(oracle.Execute(images(sitk, masks)))
    tables = [oracle.GetConfusionMatrix(r) for r in range(masks.shape[-1])]
    tables = np.reshape(tables, (-1, classes + 1, classes))[:, :classes]
    return labels, tables.swapaxes(1, 2)


@pytest.mark.parametrize("shape", [(95, 80), (18, 25, 24)])
@pytest.mark.parametrize("classes", [3, 6])
def test_many_classes_are_those_of_simpleitk(shape, classes, rng):
    _, _, masks = planted(rng, shape, classes, spread=10.0)
    labels, matrices = multi_label_staple(masks, classes)
    found = staple(masks, classes, tolerance=1e-10)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.confusion, matrices, atol=1e-5)


def test_what_simpleitk_finds_is_no_more_likely(rng):
    """Its start is a hard vote; an entry that is 0 there stays 0, whatever the votes say."""
    for _ in range(2):
        _, _, masks = planted(rng, (40, 30), 5)
        labels, matrices = multi_label_staple(masks, 5)
        found = staple(masks, 5, tolerance=1e-9, max_iterations=10_000)
        log_theta = np.log(np.maximum(matrices, 1e-300))
        scores = np.log(found.prior) + sum(
            table.T[votes]
            for table, votes in zip(log_theta, np.moveaxis(masks, -1, 0), strict=True)
        )
        np.testing.assert_array_equal(scores.argmax(-1), labels)
        assert found.log_likelihood >= np.logaddexp.reduce(scores, axis=-1).sum() - 1e-5


# Against what was planted ------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_planted_matrices_are_recovered(classes, rng):
    truth, matrices, masks = planted(rng, (2, 150, 150), classes)
    found = staple(masks, classes, prior="estimated")
    drawn = np.stack(
        [[np.bincount(votes[truth == k], minlength=classes) for k in range(classes)]
         for votes in np.moveaxis(masks, -1, 0)]
    )  # fmt: skip
    empirical = drawn / drawn.sum(-1, keepdims=True)
    assert np.abs(empirical - matrices).max() < 0.1
    np.testing.assert_allclose(found.confusion, empirical, atol=0.06)
    np.testing.assert_allclose(found.prior, np.bincount(truth.ravel()) / truth.size, atol=0.02)
    np.testing.assert_allclose(found.evidence.sum(-1), truth.size)
    assert (found.labels == truth).mean() > (majority_vote(masks, classes) == truth).mean()


def test_readers_of_discs_are_told_apart(rng):
    """Over: no miss but false alarms. Under: the reverse. Wrong and blank: no sensitivity."""
    truth, masks = discs(rng)
    found = staple(masks)
    good, over, under, wrong, blank = found.confusion
    assert good[1, 1] > 0.95
    assert over[1, 1] > 0.99
    assert over[0, 0] < good[0, 0]
    assert under[0, 0] > 0.999
    assert under[1, 1] < 0.7
    assert wrong[1, 1] < 0.3
    assert blank[1, 1] == 0.0
    assert dice(found.labels, truth) > dice(majority_vote(masks), truth) + 0.1


def test_one_good_reader_outweighs_two_bad_ones(rng):
    truth, _, masks = planted(rng, (60, 60), 3, accuracy=(0.99, 0.35, 0.35, 0.9))
    right = (staple(masks, 3).labels == truth).mean()
    assert right > (majority_vote(masks, 3) == truth).mean() + 0.02


# Absence and void --------------------------------------------------------------------------------


def test_missing_labels_anywhere_leave_the_matrices_where_they_are(rng):
    truth, matrices, masks = planted(rng, (150, 150), 3)
    masks = np.where(rng.random(masks.shape) < 0.4, -1, masks)
    masks[:3] = -1
    found = staple(masks, 3, prior="estimated")
    np.testing.assert_allclose(found.confusion, matrices, atol=0.08)
    np.testing.assert_array_equal(found.evidence.sum(-1).round(6), (masks >= 0).sum((0, 1)))
    void = (masks < 0).all(-1)
    assert (found.labels[void] == -1).all()
    assert not found.posterior[void].any()
    np.testing.assert_allclose(found.posterior[~void].sum(-1), 1.0, atol=1e-6)
    assert (found.labels == truth)[~void].mean() > 0.85


@pytest.mark.parametrize("prior", ["global", "estimated", "spatial"])
def test_void_pixels_and_absent_readers_are_as_if_cut_out(prior, rng):
    _, _, masks = planted(rng, (30, 8), 3)
    alone = staple(masks, 3, prior=prior)
    more = np.full((32, 8, 7), -1)
    more[:30, :, 1:6] = masks
    found = staple(more, 3, prior=prior)
    np.testing.assert_allclose(found.confusion[1:6], alone.confusion)
    np.testing.assert_allclose(found.posterior[:30], alone.posterior)
    np.testing.assert_allclose(found.confusion[[0, 6]], 1 / 3)
    assert not found.evidence[[0, 6]].any()
    assert found.log_likelihood == pytest.approx(alone.log_likelihood)


def test_ignore_class_is_void(rng):
    _, _, masks = planted(rng, (20, 9), 3)
    masks = np.where(rng.random(masks.shape) < 0.2, -1, masks)
    other = np.where(masks < 0, 255, masks).astype("uint8")
    found, expected = staple(other, 3, ignore_class=255), staple(masks, 3)
    np.testing.assert_array_equal(found.posterior, expected.posterior)


@pytest.mark.parametrize("prior", ["global", "estimated", "spatial"])
def test_one_reader_is_believed(prior, rng):
    masks = rng.integers(-1, 3, (9, 7, 1))
    found = staple(masks, 3, prior=prior)
    np.testing.assert_array_equal(found.labels, masks[..., 0])
    np.testing.assert_allclose(found.confusion[0], np.eye(3), atol=1e-12)


@pytest.mark.parametrize("prior", ["global", "estimated", "spatial"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (0, 2)])
def test_without_a_label_nothing_is_known(prior, shape):
    found = staple(np.full(shape, -1), 3, prior=prior)
    assert found.converged
    assert (found.labels == -1).all()
    assert not found.posterior.any()
    np.testing.assert_allclose(found.confusion, 1 / 3)
    assert found.log_likelihood == 0.0


def test_readers_who_agree_are_believed():
    masks = np.repeat(np.array([[0, 1], [2, 1]])[..., None], 4, axis=-1)
    found = staple(masks, 4)
    np.testing.assert_array_equal(found.labels, masks[..., 0])
    np.testing.assert_allclose(found.confusion[:, :3, :3], np.tile(np.eye(3), (4, 1, 1)))
    np.testing.assert_allclose(found.confusion[:, 3], 0.25)  # a class that nobody ever gave


# The equations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["global", "estimated", "spatial", "classes", "pixels"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_step_is_the_two_equations_pixel_by_pixel(prior, missing, rng):
    _, _, masks = planted(rng, (6, 5), 3, accuracy=(0.8, 0.6, 0.5))
    masks = np.where(rng.random(masks.shape) < missing, -1, masks)
    tables = {"classes": rng.dirichlet(np.ones(3)), "pixels": rng.dirichlet(np.ones(3), (6, 5))}
    found = staple(masks, 3, prior=tables.get(prior, prior), max_iterations=3, tolerance=0.0)
    votes = [row for row in masks.reshape(-1, 3) if (row >= 0).any()]
    kept = (masks >= 0).any(-1)
    tally = np.array([[row.tolist().count(c) for c in range(3)] for row in votes])
    share = tally / tally.sum(-1, keepdims=True)
    w = share
    for _ in range(3):
        theta = np.zeros((3, 3, 3))
        for row, mass in zip(votes, w, strict=True):
            for r, y in enumerate(row):
                if y >= 0:
                    theta[r, :, y] += mass
        theta /= theta.sum(-1, keepdims=True)
        pi = {
            "global": share.mean(0), "estimated": w.mean(0), "spatial": share,
            "classes": tables["classes"], "pixels": tables["pixels"][kept],
        }[prior] + np.zeros((len(votes), 1))  # fmt: skip
        w = pi.copy()
        for i, row in enumerate(votes):
            for r, y in enumerate(row):
                w[i] *= theta[r, :, y] if y >= 0 else 1.0
        likelihood, w = np.log(w.sum(-1)).sum(), w / w.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.confusion, theta, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.posterior[kept], w, atol=1e-7)
    assert found.log_likelihood == pytest.approx(likelihood)
    assert found.iterations == 3


@pytest.mark.parametrize("prior", ["global", "estimated"])
def test_the_likelihood_never_falls(prior, rng):
    masks = np.where(rng.random((20, 20, 4)) < 0.2, -1, rng.integers(0, 4, (20, 20, 4)))
    values = [
        staple(masks, 4, prior=prior, max_iterations=n, tolerance=0.0).log_likelihood
        for n in range(1, 15)
    ]
    assert (np.diff(values) >= -1e-9).all()


def test_each_pattern_counts_as_often_as_it_occurs(rng):
    """A prior per pixel turns the counting of patterns off; the answer is the same."""
    _, _, masks = planted(rng, (40, 30), 3)
    masks = np.where(rng.random(masks.shape) < 0.2, -1, masks)
    prior = np.array([0.5, 0.3, 0.2])
    fast = staple(masks, 3, prior=prior)
    slow = staple(masks, 3, prior=np.broadcast_to(prior, (40, 30, 3)))
    np.testing.assert_allclose(fast.confusion, slow.confusion, atol=1e-9)
    np.testing.assert_allclose(fast.posterior, slow.posterior, atol=1e-6)
    np.testing.assert_array_equal(fast.labels, slow.labels)
    assert fast.iterations == slow.iterations


def test_order_of_pixels_and_readers_does_not_matter(rng):
    _, _, masks = planted(rng, (12, 20), 4)
    expected = staple(masks, 4)
    readers, rows = rng.permutation(5), rng.permutation(12)
    found = staple(masks[rows][..., readers], 4)
    np.testing.assert_allclose(found.confusion, expected.confusion[readers], atol=1e-9)
    np.testing.assert_allclose(found.posterior, expected.posterior[rows], atol=1e-6)
    again = staple(masks, 4)
    np.testing.assert_array_equal(again.posterior, expected.posterior)


def test_a_prior_of_the_pixel_decides_where_readers_cannot(rng):
    masks = np.array([[[0, 1], [1, 0]]])
    prior = np.array([[[0.9, 0.1], [0.2, 0.8]]])
    np.testing.assert_array_equal(staple(masks, prior=prior, max_iterations=1).labels, [[0, 1]])


def test_a_volume_is_counted_by_its_patterns(rng):
    _, _, masks = planted(rng, (40, 40), 3)
    volume = np.broadcast_to(masks[None], (300, 40, 40, 5))
    found, small = staple(volume, 3), staple(masks, 3)
    np.testing.assert_allclose(found.confusion, small.confusion, atol=1e-6)
    np.testing.assert_array_equal(found.labels[150], small.labels)


def test_an_iteration_limit_is_told():
    masks = np.array([[0, 0, 1], [1, 1, 1], [1, 0, 0], [0, 1, 0]])
    assert not staple(masks, max_iterations=1).converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "mean"}, "'mean'"),
        ({"prior": [0.5, 0.5, 0.0]}, r"\(3,\)"),
        ({"prior": [1.0, -0.1]}, "non-negative"),
        ({"prior": [0.0, 0.0]}, "positive sum"),
        ({"max_iterations": 0}, "at least 1"),
        ({"num_classes": 1}, "holds class 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        staple(np.array([[0, 1], [1, 1]]), **{"num_classes": 2, **options})
