"""Masks that are all too large or too small: suspected where planted, and only there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from audit_cells import samples
from scipy import stats

from keras_robustseg.data import noise
from keras_robustseg.report import audit
from keras_robustseg.report._audit_bias import (
    GENERAL,
    BiasEvidence,
    displacement,
    edge_offset,
    statement,
)


def ball(radius, shape=(41, 41)):
    axes = np.indices(shape)
    centre = [(n - 1) / 2 for n in shape]
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


@pytest.mark.parametrize("shape", [(41, 41), (31, 33, 31)])
@pytest.mark.parametrize(("given", "believed"), [(10.5, 8.5), (8.5, 10.5), (9.5, 9.5)])
def test_displacement_is_the_difference_of_radii(shape, given, believed):
    found = displacement(ball(given, shape), ball(believed, shape))
    assert found == pytest.approx(believed - given, abs=0.2)


def test_displacement_says_nothing_of_objects_elsewhere():
    assert np.isnan(displacement(ball(5), np.zeros((41, 41), bool)))
    assert np.isnan(displacement(ball(5), np.roll(ball(5), 8, axis=0)))


@pytest.mark.parametrize("shape", [(41, 41), (31, 33, 31)])
@pytest.mark.parametrize("given", [6.5, 8.5, 10.5])
def test_edge_offset_finds_the_edge_of_the_image(rng, shape, given):
    image = ball(8.5, shape)[..., None] + rng.normal(0, 0.05, (*shape, 1))
    mask = ball(given, shape).astype(int)
    assert edge_offset(image, mask, 1) == pytest.approx(8.5 - given, abs=0.5)


def test_edge_offset_counts_in_pixels_of_the_finest_axis(rng):
    image = ball(8.5, (41, 41))[::2, :, None] + rng.normal(0, 0.02, (21, 41, 1))
    mask = ball(10.5, (41, 41))[::2].astype(int)
    assert edge_offset(image, mask, 1, spacing=(2.0, 1.0)) == pytest.approx(-2, abs=0.7)


def test_edge_offset_is_not_misled_by_the_edge_of_a_neighbour(rng):
    inner, outer = ball(8.5), ball(13.5)
    image = (0.3 * inner + 2.0 * outer)[..., None] + rng.normal(0, 0.02, (41, 41, 1))
    mask = inner.astype(int) + 2 * (outer & ~inner)
    assert edge_offset(image, mask, 1) == pytest.approx(0, abs=0.5)


def test_the_verdict_is_a_sign_test(rng):
    for agreeing in range(10, 21):
        evidence = BiasEvidence()
        for number in range(20):
            evidence.add("displacement", 1.0 if number < agreeing else -1.0)
        flagged = evidence.verdict()["suspicion"] is not None
        chance = stats.binomtest(agreeing, 20).pvalue
        assert flagged == (chance < 0.01 and agreeing >= 15)


def biased(rng, make, *, learned):
    """Samples whose masks all carry a noise, before a belief that has learned it, or has not."""
    made, truths = samples(rng, 14, classes=2)
    noisy = []
    for number, (sample, truth) in enumerate(zip(made, truths, strict=True)):
        mask = make(truth, seed=number)
        p = sample.probabilities
        if learned:
            p = np.clip(np.eye(2)[mask], 0.02, 0.98).astype(np.float32)
        noisy.append(dataclasses.replace(sample, mask=mask, probabilities=p))
    return audit(noisy)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(
    ("make", "suspicion"),
    [(noise.dilate(2), "too_large"), (noise.erode(1.5), "too_small")],
    ids=["dilate", "erode"],
)
def test_planted_bias_is_suspected_and_said(rng, make, suspicion, learned):
    report = biased(rng, make, learned=learned)
    verdict = report.bias["class 1"]
    assert verdict["suspicion"] == suspicion
    assert verdict["displacement"]["consistent"] is not learned
    text = report.text()
    assert f"consistently {suspicion.replace('_', ' ')}" in text
    assert "without clean masks it cannot be told" in text
    assert report.to_dict()["limits"] == GENERAL
    assert report.classes[1]["suspicion"] == suspicion


@pytest.mark.parametrize("learned", [True, False])
def test_unbiased_noise_is_not_suspected(rng, learned):
    parts = [(noise.dilate(2), 0.4), (noise.erode(1.5), 0.4), (noise.shift(3), 0.1)]
    report = biased(rng, noise.mixture(parts), learned=learned)
    assert report.bias["class 1"]["suspicion"] is None
    assert GENERAL in report.text()


def test_clean_masks_are_not_suspected(rng):
    made, _ = samples(rng, 12)
    report = audit(made)
    assert [v["suspicion"] for v in report.bias.values()] == [None, None]


def test_without_images_it_is_said_that_edges_were_not_looked_at(rng):
    made, _ = samples(rng, 3)
    report = audit([dataclasses.replace(s, image=None) for s in made])
    assert all("images were not given" in text for text in report.statements)
    assert "too few" in statement("cell", BiasEvidence().verdict())
