"""What a fit minimises: the mean loss of the pixels plus the penalties."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_robustseg.classifiers._design import Pixels
from keras_robustseg.classifiers._losses import ScoreLoss
from keras_robustseg.classifiers._penalty import Penalty


class Objective(NamedTuple):
    """(1 / divisor) sum_i loss_i(V^T x_i) + penalty(V), V (P, K).

    Args:
        loss: of the scores.
        pixels: in blocks.
        divisor: of the sum over pixels.
        penalty: of the coefficients.
    """

    loss: ScoreLoss
    pixels: Pixels
    divisor: float
    penalty: Penalty

    def gradient(self, V: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value, and the gradient (P, K) of all but the kinks."""
        value, gradient = 0.0, np.zeros(V.shape)
        for design, masses in self.pixels.blocks():
            part, residual = self.loss.value_and_residual(design.scores(V), masses)
            value += part
            gradient += design.pull(residual)
        pull = self.penalty.l2 * V
        value = value / self.divisor + 0.5 * np.vdot(pull, V) + self.penalty.kinks(V)
        return value, gradient / self.divisor + pull

    def hessian(self, V: np.ndarray) -> np.ndarray:
        """Return the second derivative of all but the kinks, (P K, P K), V in C order."""
        rows, columns = V.shape
        found = np.zeros((rows, columns, rows, columns))
        for design, masses in self.pixels.blocks():
            for k, other, weight in self.loss.curvatures(design.scores(V), masses):
                found[:, k, :, other] += design.gram(weight)
        for k in range(columns):
            for other in range(k):
                found[:, other, :, k] = found[:, k, :, other]
        found = found.reshape(V.size, V.size) / self.divisor
        found[np.diag_indices(V.size)] += self.penalty.l2.ravel()
        return found

    def curve(self, V: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return that second derivative times a direction (P, K)."""
        found = np.zeros(V.shape)
        for design, masses in self.pixels.blocks():
            turned = self.loss.curve(design.scores(V), masses, design.scores(along))
            found += design.pull(turned)
        return found / self.divisor + self.penalty.l2 * along
