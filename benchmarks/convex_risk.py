"""Robust logistic regression on clean test data after training on flipped labels.

    python benchmarks/convex_risk.py [--splits 5] [--train 190]

    minimise over (w, b)   risk(log(1 + exp(-s (w x + b)))) + ridge / 2 |w|^2

on the breast cancer data that scikit-learn brings, for plain risk minimisation, balls of the
Kullback-Leibler divergence and Wasserstein balls over the training samples, both stances. A share
of the training labels is flipped at random. Pessimistic problems are convex; all are solved by
L-BFGS from 0 with the gradients of `keras_robustseg.risk`. In the spirit of general risk measures
for robust learning (arXiv 1904.11707); it repeats none of its tables. The radii are fixed
beforehand: .1 for the divergence, a tenth of the median distance between samples for transport.
"""

from __future__ import annotations

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("--splits", type=int, default=5)
parser.add_argument("--train", type=int, default=190)
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from scipy.optimize import minimize  # noqa: E402
from scipy.spatial.distance import cdist  # noqa: E402
from sklearn.datasets import load_breast_cancer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from keras_robustseg import risk  # noqa: E402

RIDGE, RADIUS, SHARES = 0.01, 0.1, (0.0, 0.1, 0.2, 0.3)


def measures(x: np.ndarray) -> dict[str, risk.RiskMeasure]:
    """What is compared, for these training samples."""
    distance = cdist(x, x)
    distance /= np.median(distance)
    both = ("pessimistic", "optimistic")
    return {
        "mean": risk.Expectation(),
        **{f"KL, {s}": risk.DivergenceBall("kl", RADIUS, stance=s) for s in both},
        **{f"Wasserstein, {s}": risk.WassersteinBall(distance, RADIUS, stance=s) for s in both},
    }


def fit(measure: risk.RiskMeasure, x: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Weights and bias, (d + 1,)."""
    inputs = tf.constant(np.column_stack([x, np.ones(len(x))]) * sign[:, None])
    ridged = tf.constant(np.append(np.ones(x.shape[1]), 0.0))

    @tf.function
    def objective(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(at)
            losses = tf.nn.softplus(-tf.linalg.matvec(inputs, at))
            value = measure(losses) + RIDGE / 2 * tf.reduce_sum(ridged * at**2)
        return value, tape.gradient(value, at)

    def for_scipy(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(tf.constant(at))
        return float(value), gradient.numpy()

    return minimize(for_scipy, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x


def as_scikit_learn(x: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """The mean's solution by scikit-learn, a witness."""
    found = LogisticRegression(C=1 / (RIDGE * len(x)), tol=1e-8, max_iter=2000).fit(x, sign)
    return np.append(found.coef_, found.intercept_)


def main() -> None:
    """Print a table: test accuracy and area under the curve, mean and deviation over splits."""
    data, target = load_breast_cancer(return_X_y=True)
    found: dict[tuple[float, str], list[tuple[float, ...]]] = {}
    apart = 0.0
    for seed in range(arguments.splits):
        x, test, y, truth = train_test_split(
            data, target, train_size=arguments.train, stratify=target, random_state=seed
        )
        scaler = StandardScaler().fit(x)
        x, test = scaler.transform(x), scaler.transform(test)
        order = np.random.default_rng(seed).permutation(len(y))
        for share in SHARES:
            sign = 2.0 * y - 1.0
            sign[order[: round(share * len(y))]] *= -1
            for name, measure in measures(x).items():
                at = fit(measure, x, sign)
                if name == "mean":
                    apart = max(apart, float(np.max(abs(at - as_scikit_learn(x, sign)))))
                score = test @ at[:-1] + at[-1]
                figures = (
                    accuracy_score(truth, score > 0),
                    roc_auc_score(truth, score),
                    log_loss(truth, 1 / (1 + np.exp(-score))),
                )
                found.setdefault((share, name), []).append(figures)
    print(f"mean against scikit-learn, largest difference of a weight: {apart:.1e}")
    for (share, name), rows in found.items():
        middle, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        cells = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(middle, spread, strict=True))
        print(f"| {share:.0%} | {name} | {cells} |")


if __name__ == "__main__":
    main()
