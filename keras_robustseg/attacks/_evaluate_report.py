"""What an evaluation of robustness has found: figures, tables, text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_robustseg.attacks._evaluate_checks import Check
from keras_robustseg.attacks._evaluate_scores import Tally, figures, worst_of

BASELINES = ("clean", "noise", "transfer")


class Example(NamedTuple):
    """An image to look at.

    Attributes:
        name: of the image.
        image: (*S, F).
        labels: (*S), -1 void.
        predicted: (*S), classes of the clean image.
        attacked: by attack, the adversarial image and its classes; attacks of fixed eps at the
            largest one.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    attacked: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RobustnessReport:
    """Figures of an evaluation.

    Attributes:
        classes: names.
        eps: sizes, in units of the model's input.
        tallies: counts of each image by (attack, eps), with "clean" at 0 and "noise".
        minimal: norm of each image by attack of minimal norm, infinite where it failed.
        names: of the images.
        checks: signs that the figures should not be trusted.
        examples: images to look at.
        setting: how it was done.
    """

    classes: tuple[str, ...]
    eps: tuple[float, ...]
    tallies: Mapping[tuple[str, float], Tally]
    minimal: Mapping[str, Sequence[float]]
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    examples: tuple[Example, ...]
    setting: Mapping[str, Any]

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, without baselines."""
        return list(dict.fromkeys(a for a, _ in self.tallies if a not in BASELINES))

    @property
    def worst(self) -> dict[float, Tally]:
        """By eps, each image under the attack that leaves fewest of its pixels right."""
        found = {}
        for size in self.eps:
            candidates = [self.tallies["clean", 0.0], self.tallies["noise", size]]
            found[size] = worst_of([*candidates, *(self.tallies[a, size] for a in self.attacks)])
        return found

    @property
    def clean(self) -> dict[str, Any]:
        """Figures of the images as they are."""
        return figures(self.tallies["clean", 0.0], self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row an attack and eps, the worst case last; sizes increase."""
        worst = [("worst", size, tally) for size, tally in self.worst.items()]
        single = [(attack, size, tally) for (attack, size), tally in self.tallies.items()]
        return [
            {"attack": attack, "eps": size, **figures(tally, self.classes)}
            for attack, size, tally in [*single, *worst]
        ]

    @property
    def smallest_norms(self) -> np.ndarray:
        """Least norm of each image over attacks of minimal norm, infinite where all failed."""
        if not self.minimal:
            return np.full(len(self.names), np.nan)
        return np.min([np.asarray(norms) for norms in self.minimal.values()], axis=0)

    @property
    def median_minimal_norm(self) -> dict[str, float]:
        """Median norm by attack, failures counted as infinite, images without labels left out."""
        if not self.minimal:
            return {}
        found = {name: _median(norms) for name, norms in self.minimal.items()}
        return {**found, "worst": _median(self.smallest_norms)}

    def survival(self, eps: Sequence[float] | None = None) -> list[tuple[float, float]]:
        """Return (size, share of images that no attack of minimal norm has flipped up to it).

        Args:
            eps: sizes; by default every norm at which the share changes.
        """
        norms = self.smallest_norms
        norms = norms[~np.isnan(norms)]
        sizes = np.unique(norms[np.isfinite(norms)]) if eps is None else eps
        return [(float(s), float((norms > s).mean())) for s in [0.0, *sizes]] if len(norms) else []

    def image_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row an image: accuracy clean and at worst, and its smallest norm."""
        clean = self.tallies["clean", 0.0].accuracy
        worst = {size: tally.accuracy for size, tally in self.worst.items()}
        for n, name in enumerate(self.names):
            row: dict[str, Any] = {"image": name, "clean_accuracy": clean[n]}
            row |= {f"worst_accuracy_{size:.6g}": values[n] for size, values in worst.items()}
            row |= {f"norm_{attack}": norms[n] for attack, norms in self.minimal.items()}
            yield row

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values; an infinite norm is "infinite"."""
        medians = {name: _named(norm) for name, norm in self.median_minimal_norm.items()}
        return {
            "classes": list(self.classes),
            "images": len(self.names),
            "setting": dict(self.setting),
            "eps": list(self.eps),
            "rows": self.rows(),
            "median_minimal_norm": medians,
            "survival": self.survival(),
            "checks": [asdict(check) for check in self.checks],
            "trustworthy": self.trustworthy,
        }

    @property
    def trustworthy(self) -> bool:
        """Whether no check has failed."""
        return all(check.passed is not False for check in self.checks)

    def text(self) -> str:
        """Return the table that the command prints."""
        lines = [f"{'attack':<12} {'eps':>9} {'accuracy':>9} {'mean IoU':>9} {'mean Dice':>9}"]
        for row in self.rows():
            numbers = (row["accuracy"], row["mean_iou"], row["mean_dice"])
            cells = " ".join(f"{number:>9.4f}" for number in numbers)
            lines.append(f"{row['attack']:<12} {row['eps']:>9.4g} {cells}")
        for name, norm in self.median_minimal_norm.items():
            lines.append(f"median minimal norm, {name}: {norm:.4g}")
        marks = {True: "ok  ", False: "FAIL", None: "-   "}
        lines += [f"{marks[c.passed]} {c.name}: {c.detail}" for c in self.checks]
        return "\n".join(lines)


def _median(norms: Any) -> float:
    known = np.asarray(norms, "float64")
    known = np.sort(known[~np.isnan(known)])
    if not len(known):
        return math.nan
    middle = known[[(len(known) - 1) // 2, len(known) // 2]]
    return float(middle[1] if np.isinf(middle).any() else middle.mean())


def _named(number: float) -> float | str | None:
    """JSON knows neither infinity nor what is not a number."""
    if math.isnan(number):
        return None
    return "infinite" if math.isinf(number) else float(number)
