"""The bilevel tuner: its gradient, what it finds, its certificates and its baselines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from tuning_cases import Ridge, annotated, pixels

from keras_robustseg import tuning
from keras_robustseg.tuning import BilevelTuner, Hyperparameter


def annotator_tuner(clean, **options):
    weights = Hyperparameter("sample_weight", transform="sigmoid", per="annotator", pull=1e-4)
    penalty = Hyperparameter("l2", initial=0.1)
    return BilevelTuner(Ridge(), [weights, penalty], clean, **options)


def test_one_penalty_is_the_minimum_that_a_scalar_search_finds():
    (x, y), clean = pixels(0, 30), pixels(1, 200)
    tuner = BilevelTuner(
        Ridge(),
        [Hyperparameter("l2", initial=3.0)],
        clean,
        optimizer="lbfgs",
        gradient_tolerance=1e-10,
    ).fit(x, y)

    def loss(free):
        return Ridge(float(np.exp(free))).fit(x, y).validation_loss(*clean)

    best = minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(tuner.values_["l2"], np.exp(best.x), rtol=1e-4)


def test_gradient_to_all_free_variables_agrees_with_finite_differences():
    x, y, who, _ = annotated(0, 120)
    parts = [
        Hyperparameter("sample_weight", transform="sigmoid", per="annotator", pull=0.3),
        Hyperparameter("l2", initial=0.2, per="feature"),
    ]
    tuner = BilevelTuner(Ridge(), parts, 3, steps=1).fit(x, y, groups=who)
    problem = tuner._problem
    free = np.random.default_rng(0).normal(size=problem.vector.size)
    found = problem.evaluate(free, None)
    for i in range(len(free)):
        step = 1e-5 * np.eye(len(free))[i]
        above, below = problem.evaluate(free + step, None), problem.evaluate(free - step, None)
        slope = (above.objective - below.objective) / 2e-5
        np.testing.assert_allclose(found.gradient[i], slope, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_bad_annotators_lose_their_weight(optimizer):
    x, y, who, truth = annotated(3, 900)
    names = np.array(["bad0", "bad1", "bad2", "bad3", *(f"good{i}" for i in range(6))])
    test = pixels(5, 4000)
    tuner = annotator_tuner(pixels(4, 150), optimizer=optimizer, steps=60)
    tuner.fit(x, y, groups=names[who])
    weights = dict(zip(tuner.annotators_, tuner.values_["sample_weight"], strict=True))
    bad, good = (np.array([w for n, w in weights.items() if kind in n]) for kind in ("bad", "good"))
    assert len(bad) == 4
    assert bad.max() < 0.1
    assert good.min() > 2 * bad.max()
    best = Ridge(0.1).fit(x, truth).score(*test)
    assert tuner.estimator_.score(*test) > best - 0.01
    assert tuner.estimator_.score(*test) > Ridge(0.1).fit(x, y).score(*test) + 0.01


def test_report_has_the_baselines_the_trajectory_and_certificates():
    x, y, who, _ = annotated(3, 300)
    tuner = annotator_tuner(pixels(4, 60), steps=12).fit(x, y, groups=who)
    report = tuner.report(test=pixels(5, 500))
    names = [row.name for row in report.rows]
    assert names == ["start", "tuned", "grid search", "random search", "validation data alone"]
    assert report.row("random search").solves <= report.row("tuned").solves == 24
    assert report.row("grid search").solves <= 24
    assert all(row.score > 0.3 and np.isfinite(row.loss) for row in report.rows)
    assert report.certified
    assert len(report.steps) == 12
    losses = [step.loss for step in report.steps]
    assert report.row("tuned").loss == min(losses) < losses[0] == report.row("start").loss
    tolerances = [step.tolerance for step in report.steps]
    np.testing.assert_allclose(tolerances, np.geomspace(1e-3, 1e-8, 12))
    assert "random search" in report.text()
    assert json.loads(json.dumps(report.to_dict()))["annotators"] == list(range(10))


def test_baselines_at_equal_time():
    x, y, who, _ = annotated(3, 300)
    tuner = annotator_tuner(pixels(4, 60), steps=20, baseline_cost="seconds")
    report = tuner.fit(x, y, groups=who).report()
    tuned, random = report.row("tuned").seconds, report.row("random search").seconds
    assert random < 2 * tuned + 0.05


def test_folds_of_the_training_data():
    x, y = pixels(0, 60)
    tuner = BilevelTuner(Ridge(), [Hyperparameter("l2", initial=5.0)], 5, steps=30).fit(x, y)
    assert tuner.steps_[-1].loss < tuner.steps_[0].loss
    names = [row.name for row in tuner.report().rows]
    assert "validation data alone" not in names


def test_weights_of_single_samples():
    x, y, _, truth = annotated(0, 80, annotators=2, bad=1)
    weights = Hyperparameter("sample_weight", transform="sigmoid", per="sample")
    tuner = BilevelTuner(Ridge(0.1), [weights], pixels(1, 300), steps=40).fit(x, y)
    found = tuner.values_["sample_weight"]
    assert found.shape == (80,)
    assert found[y != truth].mean() < found[y == truth].mean() - 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "exp"}, "transform"),
        ({"initial": -1.0}, "initial"),
        ({"initial": 2.0, "transform": "sigmoid"}, "initial"),
        ({"bounds": (2.0, 1.0)}, "bounds"),
        ({"per": "pixel"}, "per"),
        ({"per": "annotator"}, "sample_weight"),
        ({"name": "sample_weight"}, "annotator"),
        ({"pull": -1.0}, "pull"),
    ],
)
def test_records_that_mean_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hyperparameter(**{"name": "l2", **arguments})


def test_arguments_that_mean_nothing():
    part = Hyperparameter("l2")
    for options, message in [
        ({"method": "magic"}, "method"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"steps": 0}, "steps"),
        ({"tolerances": (1e-8, 1e-3)}, "tolerances"),
        ({"baseline_cost": "hours"}, "baseline_cost"),
    ]:
        with pytest.raises(ValueError, match=message):
            BilevelTuner(Ridge(), [part], 2, **options)
    with pytest.raises(ValueError, match="each name once"):
        BilevelTuner(Ridge(), [part, part], 2)
    with pytest.raises(TypeError, match="Hyperparameter"):
        BilevelTuner(Ridge(), ["l2"], 2)


def test_data_that_do_not_fit():
    x, y = pixels(0, 20)
    with pytest.raises(ValueError, match="groups"):
        annotator_tuner(pixels(1, 9)).fit(x, y)
    with pytest.raises(ValueError, match="groups of shape"):
        annotator_tuner(pixels(1, 9)).fit(x, y, groups=np.zeros(3))
    with pytest.raises(ValueError, match="y of shape"):
        annotator_tuner(pixels(1, 9)).fit(x, y[:5], groups=y)
    with pytest.raises(ValueError, match="folds"):
        BilevelTuner(Ridge(), [Hyperparameter("l2")], 50).fit(x, y)
    with pytest.raises(ValueError, match="number of folds"):
        BilevelTuner(Ridge(), [Hyperparameter("l2")], "clean").fit(x, y)
    with pytest.raises(ValueError, match="fit"):
        annotator_tuner(pixels(1, 9)).report()


def test_a_loss_that_is_not_finite_is_said_at_once():
    x, y = pixels(0, 20)
    broken = (np.full((3, 4), np.nan), np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="not finite at outer step 0"):
        BilevelTuner(Ridge(), [Hyperparameter("l2")], broken).fit(x, y)


def test_public_names():
    assert {"BilevelTuner", "Hyperparameter", "TuningReport"} <= set(dir(tuning))
