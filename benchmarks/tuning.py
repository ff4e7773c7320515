"""Hyper-parameters found by their gradient, against searches; robust precision against plain.

    python benchmarks/tuning.py annotators [--source lidc icbm]    four of ten annotators are bad
    python benchmarks/tuning.py thousand                           1,000 weights at equal time
    python benchmarks/tuning.py support                      support of a precision matrix
    python benchmarks/tuning.py qda                                noise in training alone
    python benchmarks/tuning.py unrolled                 how far off unrolled steps are

Data of `annotators`: pixels of real masks, as many of each class, with multi-scale features; LIDC
images are rendered. Accuracy is on pixels of other images. Times are those of the process.
"""

from __future__ import annotations

import argparse
import itertools
import os

parser = argparse.ArgumentParser()
parser.add_argument("part", choices=["annotators", "thousand", "support", "qda", "unrolled"])
parser.add_argument("--source", nargs="+", choices=["lidc", "icbm"], default=["lidc", "icbm"])
parser.add_argument("--images", type=int, default=24)
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

from keras_robustseg.classifiers import PixelLogisticRegression, PixelQDA  # noqa: E402
from keras_robustseg.data import Icbm152TissueSource, LidcSource, Source  # noqa: E402
from keras_robustseg.optimize import robust_precision  # noqa: E402
from keras_robustseg.tuning import BilevelTuner, Hyperparameter  # noqa: E402

SOURCES = {
    "lidc": lambda: LidcSource(size=48),
    "icbm": lambda: Icbm152TissueSource(downsample=2),
}
Pixels = tuple[np.ndarray, np.ndarray]


def features(image: np.ndarray) -> np.ndarray:
    """The image, Gaussian means, gradients and Laplacians of it at three scales."""
    from scipy import ndimage

    planes = [image]
    for sigma in (1.0, 2.0, 4.0):
        planes.append(ndimage.gaussian_filter(image, sigma))
        planes.append(ndimage.gaussian_gradient_magnitude(image, sigma))
        planes.append(ndimage.gaussian_laplace(image, sigma))
    return np.stack(planes, axis=-1)


def pixels(source: Source, split: str, count: int) -> Pixels:
    """As many pixels of each class, from images of a split."""
    rng = np.random.default_rng(0)
    rows, ids = [], []
    for index in rng.permutation(source.split(split))[: arguments.images]:
        example = source.load(int(index))
        label = example.mask[..., 0] if example.truth is None else example.truth
        known = label >= 0
        rows.append(features(example.image[..., 0])[known].astype(np.float64))
        ids.append(label[known].astype(np.int64))
    x, y = np.concatenate(rows), np.concatenate(ids)
    each = count // len(np.unique(y))
    kept = [rng.permutation(np.flatnonzero(y == c))[:each] for c in np.unique(y)]
    order = rng.permutation(np.concatenate(kept))
    return x[order], y[order]


def splits(name: str) -> tuple[Pixels, Pixels, Pixels]:
    """Training, clean validation and test pixels, standardized by the first."""
    source = SOURCES[name]()
    found = [
        pixels(source, split, n) for split, n in (("train", 6000), ("val", 300), ("test", 8000))
    ]
    mean, spread = found[0][0].mean(axis=0), found[0][0].std(axis=0)
    train, val, test = (((x - mean) / spread, y) for x, y in found)
    return train, val, test


def annotated(y: np.ndarray, bad: int, of: int, flips: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of annotators, of whom the first flip a share of theirs, and whose each is."""
    rng = np.random.default_rng(7)
    who, classes = rng.integers(0, of, len(y)), int(y.max()) + 1
    other = (y + rng.integers(1, classes, len(y))) % classes
    return np.where((who < bad) & (rng.random(len(y)) < flips), other, y), who


def annotators() -> None:
    for name in arguments.source:
        (x, truth), val, test = splits(name)
        y, who = annotated(truth, 4, 10, 0.8)
        model = PixelLogisticRegression(formulation="multinomial")
        penalty = Hyperparameter("l2", initial=1e-2, per="class", bounds=(1e-6, 10.0))
        weights = Hyperparameter("sample_weight", transform="sigmoid", per="annotator")
        tuner = BilevelTuner(
            model, [weights, penalty], val, learning_rate=0.3, baseline_cost="seconds"
        ).fit(x, y, groups=who)
        clean = BilevelTuner(model, [penalty], val, learning_rate=0.3).fit(x, truth)
        print(f"\n{name}: {10 + len(np.unique(truth))} hyper-parameters\n")
        print(tuner.report(test=test).text())
        print(f"trained on clean labels, penalties tuned: {clean.estimator_.score(*test):.4f}")


def thousand() -> None:
    (x, truth), val, test = splits("icbm")
    y, who = annotated(truth, 400, 1000, 0.8)
    weights = Hyperparameter("sample_weight", transform="sigmoid", per="annotator", pull=1e-6)
    tuner = BilevelTuner(
        PixelLogisticRegression(l2=1e-3),
        [weights],
        val,
        steps=40,
        learning_rate=0.3,
        baseline_cost="seconds",
    ).fit(x, y, groups=who)
    print(tuner.report(test=test).text())
    clean = PixelLogisticRegression(l2=1e-3).fit(x, truth)
    print(f"trained on clean labels: {clean.score(*test):.4f}")


def f_scores(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F-scores of supports beside the diagonal."""
    off = ~np.eye(truth.shape[-1], dtype=bool)
    chosen, real = (found != 0)[..., off], (truth != 0)[..., off]
    return 2 * (chosen & real).sum(-1) / np.maximum(1, chosen.sum(-1) + real.sum(-1))


def sparse_precision(rng: np.random.Generator, size: int) -> np.ndarray:
    off = rng.uniform(0.3, 0.6, (size, size)) * (rng.random((size, size)) < 2.5 / size)
    off = np.triu(off, 1)
    return off + off.T + np.diag(np.abs(off + off.T).sum(axis=0) + 0.3)


def support() -> None:
    """Twenty matrices of 10 features; 16 values of l1, chosen by the truth or by clean draws."""
    size, seeds, points = 10, 20, 16
    print("| l1 | draws | noise | F, best l1 | F, l1 by clean data | error, best l1 |")
    print("|---|---|---|---|---|---|")
    for adaptive, draws, share in itertools.product(
        (False, True), (1_000, 10_000), (0.1, 0.25, 0.5, 1.0)
    ):
        rng = np.random.default_rng(0)
        truth = np.stack([sparse_precision(rng, size) for _ in range(seeds)])
        clean = np.linalg.inv(truth)
        scale = np.trace(clean, axis1=1, axis2=2) / size
        noise = share * scale
        noisy = clean + noise[:, None, None] * np.eye(size)
        zero = np.zeros(size)
        seen, held = (
            np.stack([np.cov(rng.multivariate_normal(zero, c, size=n).T, bias=True) for c in of])
            for of, n in ((noisy, draws), (clean, 1_000))
        )
        figures = [
            recovered(seen, held, truth, sigma2, scale, points, adaptive)
            for sigma2 in (np.zeros(seeds), noise)
        ]
        cells = [
            f"{plain.mean():.3f} / {robust.mean():.3f} ({spread(robust - plain)})"
            for plain, robust in zip(*figures, strict=True)
        ]
        kind = "adaptive" if adaptive else "one"
        print(f"| {kind} | {draws} | {share} | {' | '.join(cells)} |", flush=True)


def spread(difference: np.ndarray) -> str:
    """Mean difference and its standard error."""
    return f"{difference.mean():+.3f} +- {difference.std() / np.sqrt(len(difference)):.3f}"


def recovered(
    seen: np.ndarray,
    held: np.ndarray,
    truth: np.ndarray,
    sigma2: np.ndarray,
    scale: np.ndarray,
    points: int,
    adaptive: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F-score at the best l1, at the likeliest one for clean draws, and least relative error.

    Adaptive weights of l1 are one over the partial correlations of a first estimate by the same
    model (Zou, JASA 2006), so that each model has them of its own.
    """
    nuclear = np.where(sigma2 > 0, 1e-3, 0.0) * scale
    l1 = scale[:, None] * np.geomspace(5e-4, 0.5, points)
    settings = {"tol": 1e-4, "max_iterations": 100}
    if adaptive:
        first = np.asarray(robust_precision(seen, sigma2, nuclear, 1e-3 * scale, **settings)[0])
        root = np.sqrt(np.diagonal(first, axis1=1, axis2=2))
        partial = np.abs(first) / (root[:, :, None] * root[:, None, :])
        l1 = l1[..., None, None] * 0.1 / np.maximum(partial, 0.02)[:, None]
    every = [np.repeat(part[:, None], points, axis=1) for part in (seen, sigma2, nuclear)]
    found = np.asarray(robust_precision(*every, l1, **settings)[0])
    scores = f_scores(found, truth[:, None])
    error = np.linalg.norm(found - truth[:, None], axis=(-2, -1))
    error = error / np.linalg.norm(truth, axis=(-2, -1))[:, None]
    fit = np.einsum("...ij,...ji->...", found, held[:, None]) - np.linalg.slogdet(found)[1]
    chosen = scores[np.arange(len(scores)), fit.argmin(axis=1)]
    return scores.max(axis=1), chosen, error.min(axis=1)


def qda() -> None:
    (x, y), _, test = splits("icbm")
    columns = [0, 1, 4]  # the image and its Gaussian means at 1 and 2 pixels
    x, test = x[:, columns], (test[0][:, columns], test[1])
    print("| noise variance | empirical | robust | no noise |\n|---|---|---|---|")
    for sigma2 in (0.1, 0.3):
        noise = np.sqrt(sigma2) * np.random.default_rng(1).normal(size=x.shape)
        models = [
            PixelQDA("empirical").fit(x + noise, y),
            PixelQDA("robust", sigma2=sigma2, nuclear=1e-3, l1=1e-3, tol=1e-5).fit(x + noise, y),
            PixelQDA("empirical").fit(x, y),
        ]
        found = [f"{m.score(*test):.4f} ({m.validation_loss(*test):.3f})" for m in models]
        print(f"| {sigma2} | " + " | ".join(found) + " |", flush=True)


def unrolled() -> None:
    from keras_robustseg.tuning._data import Data
    from keras_robustseg.tuning._unrolled import Unrolled

    print("| classes | steps | error in l2 | error in sample_weight |\n|---|---|---|---|")
    for classes in (2, 4):
        rng = np.random.default_rng(0)
        y = rng.integers(0, classes, 210)
        x = rng.normal(size=(classes, 4))[y] + rng.normal(size=(210, 4))
        data, val = Data(x[:150], y[:150], np.ones(150)), Data(x[150:], y[150:], np.ones(60))
        model = PixelLogisticRegression(l2=0.05, tol=1e-12).fit(x[:150], y[:150])
        names = ("l2", "sample_weight")
        exact = model.hypergradient(val.x, val.y, names=names)
        for steps in (1, 10, 100, 1000):
            found = Unrolled(steps)(model, data, val, names)
            errors = [np.linalg.norm(found[n] - exact[n]) / np.linalg.norm(exact[n]) for n in names]
            print(f"| {classes} | {steps} | {errors[0]:.1e} | {errors[1]:.1e} |")


PARTS = {
    "annotators": annotators,
    "thousand": thousand,
    "support": support,
    "qda": qda,
    "unrolled": unrolled,
}
PARTS[arguments.part]()
