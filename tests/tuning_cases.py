"""A small smooth estimator with a closed form, and noisy annotators, for the tests of tuning."""

from __future__ import annotations

import numpy as np

from keras_robustseg.optimize import SolveInfo, Status


class Ridge:
    """Least squares on labels -1 and 1: mean s (x w - t)^2 / 2 + sum l2 w^2 / 2."""

    def __init__(self, l2=1.0, tol=1e-4):
        self.l2, self.tol = l2, tol

    def get_params(self, deep=True):
        return {"l2": self.l2, "tol": self.tol}

    def set_params(self, **params):
        for name, value in params.items():
            if name not in ("l2", "tol"):
                raise ValueError(f"Invalid parameter {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, X, y, sample_weight=None):
        self.x, self.t = np.asarray(X, float), 2.0 * np.asarray(y) - 1
        self.s = np.ones(len(y)) if sample_weight is None else sample_weight
        self.h = self.x.T @ (self.x * self.s[:, None]) / len(y)
        self.h += np.diag(np.broadcast_to(self.l2, self.x.shape[1]))
        self.w = np.linalg.solve(self.h, self.x.T @ (self.s * self.t)) / len(y)
        self.solve_info_ = SolveInfo(int(Status.OK), 1, 0.0, 0.0)
        return self

    def validation_loss(self, X, y, sample_weight=None):
        return np.average((X @ self.w - 2.0 * y + 1) ** 2, weights=sample_weight) / 2

    def score(self, X, y):
        return np.mean((X @ self.w > 0) == y)

    def hypergradient(self, X, y, sample_weight=None, names=None):
        share = sample_weight / sample_weight.sum()
        u = np.linalg.solve(self.h, X.T @ (share * (X @ self.w - 2.0 * y + 1)))
        l2 = -u * self.w
        return {
            "l2": l2.sum() if np.ndim(self.l2) == 0 else l2,
            "sample_weight": -(self.x @ u) * (self.x @ self.w - self.t) / len(self.t),
        }


def pixels(seed, count, features=4, classes=2):
    """Pixels of overlapping classes, and their true ids."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, features))
    y = rng.integers(0, classes, count)
    return centres[y] + rng.normal(size=(count, features)), y


def annotated(seed, count, *, bad=4, annotators=10, flips=0.8, classes=2):
    """Pixels with the labels of annotators, of whom the first `bad` flip a share `flips`."""
    x, truth = pixels(seed, count, classes=classes)
    rng = np.random.default_rng(seed + 1)
    who = rng.integers(0, annotators, count)
    flipped = (who < bad) & (rng.random(count) < flips)
    other = (truth + rng.integers(1, classes, count)) % classes
    return x, np.where(flipped, other, truth), who, truth
