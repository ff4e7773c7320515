"""Time of pixel classifiers against scikit-learn, and of their hypergradients against their fits.

    python benchmarks/classifiers.py [--pixels 1000000] [--rounds 3]

One thread, the time that the process itself computes, medians of rounds in which ours and the rival
take turns. Random pixels. "off" is how far the objective is above the least that either reached, in
parts of it.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
parser = argparse.ArgumentParser()
parser.add_argument("--pixels", type=int, default=1_000_000)
parser.add_argument("--rounds", type=int, default=3)
arguments = parser.parse_args()

import numpy as np  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from keras_robustseg.classifiers import PixelLogisticRegression, PixelSVM  # noqa: E402


def pixels(count: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(count, features))
    scores = X @ rng.normal(size=(features, classes)) / 3.0
    return X, np.argmax(scores + rng.gumbel(size=(count, classes)), axis=1)


def timed(*calls: Callable[[], object]) -> list[tuple[float, object]]:
    """Median time of each, in turns, and what each returned last."""
    times: list[list[float]] = [[] for _ in calls]
    found: list[object] = [None] * len(calls)
    for _ in range(arguments.rounds):
        for number, call in enumerate(calls):
            start = time.process_time()
            found[number] = call()
            times[number].append(time.process_time() - start)
    return [(float(np.median(t)), f) for t, f in zip(times, found, strict=True)]


def objective(coef: np.ndarray, intercept: np.ndarray, X, y, l2: float) -> float:
    scores = X @ coef.T + intercept
    top = scores.max(axis=1)
    total = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
    return float(np.mean(total - scores[np.arange(len(y)), y]) + 0.5 * l2 * (coef**2).sum())


def fits() -> None:
    l2 = 1e-4
    X, y = pixels(arguments.pixels, 20, 4)
    C = 1.0 / (l2 * len(y))
    rival = LogisticRegression(C=C, solver="lbfgs", tol=1e-4, max_iter=1000)
    ours = PixelLogisticRegression(l2, tol=1e-4)
    (fast, mine), (slow, theirs) = timed(lambda: ours.fit(X, y), lambda: rival.fit(X, y))
    values = [objective(model.coef_, model.intercept_, X, y, l2) for model in (mine, theirs)]
    off = [(value - min(values)) / min(values) for value in values]
    print(f"fit, {len(y)} pixels x 20 features x 4 classes")
    print(f"  PixelLogisticRegression(tol=1e-4)  {fast:6.2f} s   off {off[0]:.1e}")
    print(f"  scikit-learn, lbfgs, its tol       {slow:6.2f} s   off {off[1]:.1e}")
    print(f"  ratio {fast / slow:.2f} (target .50)")


def hypergradients() -> None:
    X, y = pixels(32_768, 17, 4)
    validation = pixels(4096, 17, 4)
    l2 = np.full(4, 1e-3)
    cases = {
        "logistic, 4 penalties + 32,768 weights": (PixelLogisticRegression(l2), X, y),
        "logistic, 1,000 penalties": (PixelLogisticRegression(np.full((250, 4), 1e-3)),),
        "hinge, 1,000 weights": (PixelSVM("hinge", 1e-2), X[:1000], y[:1000] > 1),
    }
    wide = pixels(8192, 250, 4)
    for name, (model, *data) in cases.items():
        data = data or wide
        given = validation if data[0].shape[1] == 17 else wide
        given = (given[0][:4096], given[1][:4096] > 1 if "hinge" in name else given[1][:4096])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (solve, _), (gradient, _) = timed(
                lambda model=model, data=data: model.fit(*data),
                lambda model=model, given=given: model.hypergradient(*given),
            )
        print(f"{name}: fit {solve:.3f} s, hypergradient {gradient:.3f} s, {gradient / solve:.2f}")


if __name__ == "__main__":
    fits()
    hypergradients()
