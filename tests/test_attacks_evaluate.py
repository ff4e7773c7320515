"""The report of robustness: its counts, its worst case, its checks and its files."""

import json
import math

import keras
import numpy as np
import pytest
from scipy import ndimage

from keras_robustseg import attacks, report
from keras_robustseg.attacks import _evaluate_checks as checks
from keras_robustseg.attacks import _evaluate_scores as scores
from keras_robustseg.attacks._evaluate_report import RobustnessReport
from keras_robustseg.attacks._evaluate_scores import Tally
from keras_robustseg.errors import StateError


def pixelwise(classes=3, channels=2, seed=0, scale=4.0):
    layer = keras.layers.Dense(
        classes, kernel_initializer=keras.initializers.RandomNormal(0, scale, seed)
    )
    image = keras.Input((None, None, channels))
    return keras.Model(image, layer(image))


@pytest.fixture(scope="module")
def case():
    """A model, images that it classifies without a mistake, and their labels."""
    rng = np.random.default_rng(3)
    model = pixelwise()
    images = rng.uniform(0, 1, (5, 9, 11, 2)).astype("float32")
    labels = np.asarray(model(images)).argmax(-1).astype("int32")
    labels[1, :4] = -1
    labels[4] = -1
    return model, images, labels


@pytest.fixture(scope="module")
def found(case):
    model, images, labels = case
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    return attacks.evaluate_robustness(
        model, batches, ["pgd", "segpgd"], (0.01, 0.05, 0.2), steps=5, object_sizes=(5, 20)
    )


def test_confusion_iou_and_dice_are_those_of_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = rng.integers(-1, 4, (6, 7)), rng.integers(0, 4, (6, 7))
    counts = scores.confusion(predicted, labels, 4)
    valid = labels >= 0
    expected = metrics.confusion_matrix(labels[valid], predicted[valid], labels=range(4))
    np.testing.assert_array_equal(counts, expected)
    iou = metrics.jaccard_score(labels[valid], predicted[valid], average=None)
    np.testing.assert_allclose(scores.class_iou(counts), iou, rtol=1e-12)
    dice = metrics.f1_score(labels[valid], predicted[valid], average=None)
    np.testing.assert_allclose(scores.class_dice(counts), dice, rtol=1e-12)


def test_a_class_that_nobody_has_is_no_number():
    counts = np.diag([3, 0])
    assert math.isnan(scores.class_iou(counts)[1])
    assert math.isnan(scores.figures(Tally([counts], [np.zeros((3, 2))]), ("a", "b"))["mean_iou"])


@pytest.mark.parametrize("shape", [(12, 15), (6, 7, 8)])
def test_objects_are_grouped_by_their_pixels(shape, rng):
    labels = rng.integers(0, 3, shape)
    table = scores.hits_by_size(labels, scores.objects_by_size(labels, 3, (1, 4)))
    areas = np.concatenate([np.bincount(ndimage.label(labels == k)[0].ravel())[1:] for k in (1, 2)])
    expected = [areas[areas <= 1].sum(), areas[(areas > 1) & (areas <= 4)].sum()]
    assert table[:2, 1].tolist() == expected
    np.testing.assert_array_equal(table[:, 0], table[:, 1])
    none_right = scores.hits_by_size(labels + 1, scores.objects_by_size(labels, 3, (1, 4)))
    assert none_right[:, 0].sum() == 0


def test_the_worst_case_is_taken_image_by_image():
    def tally(*right):
        return Tally([np.array([[n, 10 - n], [0, 0]]) for n in right], [np.zeros((3, 2))] * 2)

    worst = scores.worst_of([tally(9, 2), tally(4, 7)])
    np.testing.assert_allclose(worst.accuracy, [0.4, 0.2])


def test_rows_are_what_the_attacks_return(case, found):
    model, images, labels = case
    assert found.clean["accuracy"] == 1.0
    again = attacks.pgd(model, images[:2], labels[:2], eps=0.05, steps=5)
    expected = [(p == y)[y >= 0].mean() for p, y in zip(again.predictions, labels[:2], strict=True)]
    np.testing.assert_allclose(found.tallies["pgd", 0.05].accuracy[:2], expected, rtol=1e-12)
    assert math.isnan(found.tallies["pgd", 0.05].accuracy[4])


def test_the_worst_case_is_below_every_attack_and_falls(found):
    rows = {(row["attack"], row["eps"]): row["accuracy"] for row in found.rows()}
    for size in found.eps:
        assert rows["worst", size] <= min(rows[a, size] for a in ("pgd", "segpgd", "noise"))
    worst = [rows["worst", size] for size in found.eps]
    assert worst[0] >= worst[1] >= worst[2]
    assert worst[2] < 0.9


def test_a_sound_model_passes_the_checks(found):
    verdicts = {check.name: check.passed for check in found.checks}
    assert found.trustworthy
    assert verdicts["an attack without limit succeeds"] is True
    assert verdicts["transfer is not stronger than the attacks"] is None


def test_a_transferred_attack_that_is_stronger_is_noticed(case):
    model, images, labels = case
    weak = {
        "weak": lambda model, images, labels, *, eps, steps, **common: attacks.pgd(
            model, images, labels, eps=eps * 1e-3, steps=1, **common
        )
    }
    found = attacks.evaluate_robustness(
        model,
        [(images[:3], labels[:3])],
        {"strong": attacks.pgd, **weak},
        (0.05,),
        steps=5,
        surrogate=pixelwise(),
    )
    accuracy = {
        key: float(scores.pixel_accuracy(np.sum(t.counts, 0))) for key, t in found.tallies.items()
    }
    for baseline in ("noise", "transfer"):
        assert checks.not_stronger(baseline, accuracy, ["strong"], (0.05,)).passed
        assert not checks.not_stronger(baseline, accuracy, ["weak"], (0.05,)).passed


def test_an_attack_of_minimal_norm_joins_the_worst_case_below_each_eps(case):
    model, images, labels = case

    def shrinking(model, images, labels, *, steps, **common):
        sizes = np.array([0.02, 0.2, 0.9])
        return attacks.pgd(model, images, labels, eps=sizes, steps=steps, **common)

    found = attacks.evaluate_robustness(
        model,
        [(images[:3], labels[:3])],
        {"minimal": shrinking},
        (0.1, 0.5, 1.0),
        minimal_steps=8,
        success_rate=0.02,
        object_sizes=(5, 20),
    )
    norms = np.array(found.minimal["minimal"])
    assert norms == pytest.approx([0.02, 0.2, 0.9], abs=1e-6)
    right = np.stack([found.tallies["minimal", size].accuracy for size in found.eps])
    assert ((right < 1) == (norms <= np.array(found.eps)[:, None])).all()
    assert found.survival([0.1, 0.5]) == [
        (0, 1),
        (0.1, pytest.approx(2 / 3)),
        (0.5, pytest.approx(1 / 3)),
    ]


def tallies_of(accuracies):
    """One image of 100 pixels for each (attack, eps)."""
    return {
        key: Tally([np.array([[round(100 * a), 100 - round(100 * a)], [0, 0]])], [np.zeros((3, 2))])
        for key, a in accuracies.items()
    }


def test_accuracy_that_rises_with_eps_is_noticed():
    accuracy = {("pgd", 0.1): 0.5, ("pgd", 0.2): 0.6}
    assert not checks.falls_with_eps(accuracy, ["pgd"], (0.1, 0.2)).passed
    assert checks.falls_with_eps({**accuracy, ("pgd", 0.2): 0.4}, ["pgd"], (0.1, 0.2)).passed
    assert checks.falls_with_eps(accuracy, ["pgd"], (0.1,)).passed is None


def test_a_minimal_norm_above_what_was_needed_is_noticed():
    tallies = tallies_of({("pgd", 0.1): 0.5, ("pgd", 0.2): 0.0})
    fits = checks.minimal_agrees(tallies, {"fmn": [0.15]}, ["pgd"], (0.1, 0.2), 0.99)
    beaten = checks.minimal_agrees(tallies, {"fmn": [math.inf]}, ["pgd"], (0.1, 0.2), 0.99)
    assert fits.passed
    assert not beaten.passed


def dead_model():
    """Its first operation is flat on the images, so that nothing moves it."""
    image = keras.Input((None, None, 2))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.ReLU()(image - 2.0)))


def test_an_image_without_gradient_is_noticed(case):
    _, images, labels = case
    probe = checks.Probe(dead_model(), images, labels)
    common = {"bounds": (0.0, 1.0), "success_rate": 0.99}
    assert not checks.gradients_exist(probe, common).passed


class Stubborn(keras.layers.Layer):
    """Nothing can change what is said of the left half."""

    def call(self, logits):
        left = keras.ops.cast(keras.ops.arange(11) < 5, "float32")[:, None]
        return logits + 100.0 * left * keras.ops.one_hot(0, 3)


@pytest.mark.parametrize(
    ("at_largest", "stubborn", "passed"),
    [(0.9, False, True), (0.9, True, None), (0.3, True, False)],
)
def test_an_attack_without_limit(case, at_largest, stubborn, passed):
    model, images, _ = case
    if stubborn:
        image = keras.Input((9, 11, 2))
        model = keras.Model(image, Stubborn()(model(image)))
    labels = np.asarray(model(images)).argmax(-1)
    probe = checks.Probe(model, images[:2], labels[:2])
    common = {"bounds": (0.0, 1.0), "success_rate": 0.99}
    found = checks.unlimited_succeeds(probe, {("pgd", 0.1): at_largest}, ["pgd"], (0.1,), common)
    assert found.passed is passed


def small_report(minimal):
    tallies = tallies_of({("clean", 0.0): 1.0, ("noise", 0.1): 0.9, ("fmn", 0.1): 0.5})
    many = {k: Tally(t.counts * 4, t.sizes * 4) for k, t in tallies.items()}
    return RobustnessReport(
        ("a", "b"), (0.1,), many, minimal, ("0", "1", "2", "3"), (), (), {"bounds": (0.0, 1.0)}
    )


def test_failures_are_infinite_in_medians_and_survival():
    norms = {
        "fmn": [0.1, math.inf, math.inf, math.nan],
        "alma_prox": [0.3, 0.2, math.inf, math.nan],
    }
    found = small_report(norms)
    assert found.median_minimal_norm == {"fmn": math.inf, "alma_prox": 0.3, "worst": 0.2}
    assert found.survival() == [
        (0.0, 1.0),
        (0.1, pytest.approx(2 / 3)),
        (0.2, pytest.approx(1 / 3)),
    ]
    assert found.survival([0.15]) == [(0.0, 1.0), (0.15, pytest.approx(2 / 3))]
    even = small_report({"fmn": [1.0, 2.0, 3.0, math.inf]})
    assert even.median_minimal_norm["fmn"] == 2.5


def test_files(found, tmp_path):
    place = report.write_robustness(found, tmp_path / "out", title="<A & B>", rendered=True)
    body = json.loads((place / "report.json").read_text())
    assert body["images"] == 5
    assert len((place / "attacks.csv").read_text().splitlines()) == 1 + len(found.rows())
    assert len((place / "images.csv").read_text().splitlines()) == 6
    page = (place / "robustness.html").read_text()
    assert (place / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (place / "survival.png").exists()  # no attack of minimal norm
    assert "&lt;A &amp; B&gt;" in page
    assert "rendered by software" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert page.count("<img") == 1 + 4 * len(found.examples)
    with pytest.raises(StateError, match="new or empty"):
        report.write_robustness(found, place)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_names_and_progress(case):
    model, images, labels = case
    seen, names = [], ["a", "b", "c"]
    batches = [(images[:2], labels[:2]), (images[2:3], labels[2:3])]
    found = attacks.evaluate_robustness(
        model, batches, ["pgd"], (0.1,), steps=1, names=names, progress=seen.append
    )
    assert seen == [2, 3]
    assert [row["image"] for row in found.image_rows()] == names
    assert [example.name for example in found.examples] == names
    with pytest.raises(ValueError, match="`names` has 2"):
        attacks.evaluate_robustness(model, batches, ["pgd"], (0.1,), steps=1, names=names[:2])


def test_images_without_labels_leave_the_checks_undecided(case):
    model, images, labels = case
    void = [(images[:1], np.full_like(labels[:1], -1))]
    found = attacks.evaluate_robustness(
        model, void, ["pgd", "fmn"], (0.1, 0.2), steps=1, minimal_steps=2
    )
    assert {check.passed for check in found.checks} == {None}


def test_void_weights_are_void(case):
    model, images, labels = case
    weight = np.where(labels < 0, 0, 1)
    wrong = np.where(labels < 0, 2, labels)
    arguments = (["pgd"], (0.05,))
    first = attacks.evaluate_robustness(model, [(images, labels)], *arguments, steps=2)
    again = attacks.evaluate_robustness(model, [(images, wrong, weight)], *arguments, steps=2)
    assert json.dumps(first.rows()) == json.dumps(again.rows())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["nothing"], (0.1,)), "unknown attack 'nothing'"),
        (([], (0.1,)), "`attacks` is empty"),
        ((["pgd"], ()), "`eps` must be positive and increase"),
        ((["pgd"], (0.2, 0.1)), "`eps` must be positive and increase"),
        (({"clean": attacks.pgd}, (0.1,)), "'clean' has a meaning"),
    ],
)
def test_bad_input(case, arguments, message):
    model, images, labels = case
    with pytest.raises(ValueError, match=message):
        attacks.evaluate_robustness(model, [(images, labels)], *arguments)
    with pytest.raises(ValueError, match="no batch"):
        attacks.evaluate_robustness(model, [], ["pgd"], (0.1,))
    with pytest.raises(ValueError, match="must name the 3 classes"):
        attacks.evaluate_robustness(
            model, [(images, labels)], ["pgd"], (0.1,), steps=1, classes=("a",)
        )


def test_robustness_is_tracked_while_a_network_trains(case):
    model, images, labels = case
    known = labels[:4]
    watch = attacks.RobustnessCallback(images[:4], known, "pgd", eps=0.05, steps=3, every=2)
    model = keras.models.clone_model(model)
    model.set_weights(case[0].get_weights())
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    )
    model.optimizer.learning_rate = 0.0
    history = model.fit(images, labels, epochs=2, callbacks=[watch], verbose=0).history
    found = attacks.pgd(model, images[:4], known, eps=0.05, steps=3)
    counts = scores.confusion(found.predictions, known, 3)
    assert history["robust_accuracy"] == [pytest.approx(float(scores.pixel_accuracy(counts)))]
    assert history["robust_dice"] == [pytest.approx(float(scores.class_dice(counts)[1:].mean()))]
    with pytest.raises(ValueError, match="at least 1"):
        attacks.RobustnessCallback(images, labels, "pgd", eps=0.1, every=0)
