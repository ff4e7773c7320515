"""What a fit remembers, so that its hyper-parameters can be differentiated."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from keras_robustseg.classifiers._adjoint import Adjoint, mass_gradient, smooth_adjoint
from keras_robustseg.classifiers._objective import Objective
from keras_robustseg.classifiers._penalty import Penalty


class Fitted(Protocol):
    """A solved problem that can be differentiated."""

    @property
    def penalty(self) -> Penalty:
        """Penalty of the coefficients."""

    def adjoint(
        self, V: np.ndarray, gradient: np.ndarray, start: np.ndarray | None = None
    ) -> Adjoint:
        """Return the adjoint of a validation gradient (P, K); `start` is a guess, or None."""

    def mass_gradient(
        self, V: np.ndarray, U: np.ndarray, normalized: bool, mean: bool
    ) -> np.ndarray:
        """Return d val / d masses, (n, C)."""


class SmoothFit(NamedTuple):
    """A fit with a smooth loss."""

    objective: Objective

    @property
    def penalty(self) -> Penalty:
        """Penalty of the coefficients."""
        return self.objective.penalty

    def adjoint(
        self, V: np.ndarray, gradient: np.ndarray, start: np.ndarray | None = None
    ) -> Adjoint:
        """Return the adjoint of a validation gradient (P, K); `start` is a guess, or None."""
        return smooth_adjoint(self.objective, V, gradient, start)

    def mass_gradient(
        self, V: np.ndarray, U: np.ndarray, normalized: bool, mean: bool
    ) -> np.ndarray:
        """Return d val / d masses, (n, C)."""
        return mass_gradient(self.objective, V, U, normalized, mean)
