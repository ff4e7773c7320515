"""Fits by hinge losses: pixels to items, one program or one for each class, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_robustseg.classifiers._adjoint import Adjoint
from keras_robustseg.classifiers._design import Design
from keras_robustseg.classifiers._hinge import Items
from keras_robustseg.classifiers._hinge_active import HingeFit, solve_hinge
from keras_robustseg.classifiers._penalty import Penalty
from keras_robustseg.optimize import SolveInfo


class HingeFits(NamedTuple):
    """Programs that share the pixels: one for all columns, or one for each.

    Args:
        design: features of the pixels.
        parts: the programs.
        penalty: of the coefficients.
        divisor: of the sum over pixels.
    """

    design: Design
    parts: Sequence[HingeFit]
    penalty: Penalty
    divisor: float

    def adjoint(
        self, V: np.ndarray, gradient: np.ndarray, start: np.ndarray | None = None
    ) -> Adjoint:
        """Return the adjoint of a validation gradient (P, K); it is factorised, not iterated."""
        found = [
            part.adjoint(piece)
            for part, piece in zip(self.parts, self._split(gradient), strict=True)
        ]
        return Adjoint(np.hstack([one.U for one in found]), worst([one.info for one in found]))

    def mass_gradient(
        self, V: np.ndarray, U: np.ndarray, normalized: bool, mean: bool
    ) -> np.ndarray:
        """Return d val / d masses, (n, C)."""
        scores, along = self.design.scores(V), self.design.scores(U)
        if len(self.parts) == 1:
            found = self.parts[0].to_costs(scores, along)
        else:
            found = np.zeros_like(scores)
            for k, part in enumerate(self.parts):
                rest, own = part.to_costs(scores[k : k + 1], along[k : k + 1])
                found += rest
                found[k] += own - rest
        shared = -np.vdot(U, self.penalty.l2 * V) if mean and not normalized else 0.0
        return -(found.T - shared) / self.divisor

    def _split(self, gradient: np.ndarray) -> list[np.ndarray]:
        return [gradient] if len(self.parts) == 1 else np.hsplit(gradient, len(self.parts))


def fit_hinge(
    design: Design,
    masses: np.ndarray,
    penalty: Penalty,
    divisor: float,
    start: np.ndarray,
    max_iter: int,
    joint: bool,
) -> tuple[np.ndarray, SolveInfo, HingeFits]:
    """Return coefficients, certificate and the programs.

    Args:
        design: features of n pixels.
        masses: (n, C).
        penalty: its l2 alone is used.
        divisor: of the sum over pixels.
        start: (P, K).
        max_iter: bound on the iterations.
        joint: one program for all columns, or one for each against the rest.
    """
    if joint:
        problems = [to_items(design, masses / divisor, penalty.l2)]
    else:
        total = masses.sum(axis=1)
        pairs = (np.column_stack([total - own, own]) / divisor for own in masses.T)
        problems = [
            to_items(design, pair, l2[:, None])
            for pair, l2 in zip(pairs, penalty.l2.T, strict=True)
        ]
    starts = [start] if joint else np.hsplit(start, start.shape[1])
    parts = [
        HingeFit(items, solve_hinge(items, begin, max_iter))
        for items, begin in zip(problems, starts, strict=True)
    ]
    V = np.hstack([part.answer.V for part in parts])
    info = worst([part.answer.info for part in parts])
    return V, info, HingeFits(design, parts, penalty, divisor)


def worst(infos: Sequence[SolveInfo]) -> SolveInfo:
    """Return one certificate of several programs: the worst of each figure.

    Example:
        `worst([info, info])  # info`
    """
    greatest = SolveInfo(*np.max(np.array(infos, dtype=np.float64), axis=0).tolist())
    return greatest._replace(
        status=int(greatest.status),
        iterations=int(greatest.iterations),
        active_set_changes=int(greatest.active_set_changes),
        kink_margin=min(info.kink_margin for info in infos),
    )


def to_items(design: Design, masses: np.ndarray, l2: np.ndarray) -> Items:
    """Return one item for each pixel and class of positive mass.

    Args:
        design: features of n pixels.
        masses: (n, C) costs.
        l2: (P, K).
    """
    pixel, own = np.nonzero(masses > 0)
    alone = len(pixel) == len(masses) and (np.diff(pixel) > 0).all()
    chosen = design if alone else design._replace(x=design.x[pixel])
    return Items(chosen, own, masses[pixel, own], l2, masses.shape[1])
