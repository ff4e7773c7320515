"""What a benchmark has to show: targets, judged on its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER_WORSE = 0.01
WORTH_WINNING = 0.05
SHARE_ON_AVERAGE = 0.5
SHARE_IN_A_CELL = 0.25


@dataclass(frozen=True)
class CellDice:
    """What a target looks at in a cell: mean Dice of the last epoch, method by method.

    Attributes:
        cell: its name.
        dice: method -> mean over seeds of the test Dice of the last epoch.
        given: mean Dice of the given training masks.
        corrected: method -> mean Dice of its corrected training masks.
        biased: whether its noise moves masks to one side.
    """

    cell: str
    dice: Mapping[str, float]
    given: float
    corrected: Mapping[str, float]
    biased: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target, whether it is met (None: nothing to judge yet), and its figures cell by cell."""

    target: str
    passed: bool | None
    figures: tuple[str, ...]

    def text(self) -> str:
        """Return the verdict and its figures as lines."""
        word = {True: "PASS", False: "FAIL", None: "open"}[self.passed]
        return "\n".join([f"{word}  {self.target}", *(f"      {line}" for line in self.figures)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {"target": self.target, "passed": self.passed, "figures": list(self.figures)}


def evaluate_targets(
    cells: Sequence[CellDice], *, ours: str, references: Sequence[str], bound: str
) -> list[Verdict]:
    """Judge a method against the better of its references, cell by cell.

    With R the Dice of the better reference, B that of the clean bound and O ours, all means over
    seeds of the last epoch:

    - never worse: O >= R - 0.01 in every cell;
    - wins back: where B - R > 0.05, (O - R)/(B - R) is at least 0.5 on average and 0.25 in each;
    - corrects: in every cell without bias, the corrected masks are better than the given ones.

    A cell where one of the methods has not run is left out, and then nothing passes: a target
    that no cell so far fails is open.

    Args:
        cells: the table.
        ours: the method that is judged.
        references: the methods of which the better one counts.
        bound: the method that was trained on the truth.

    Returns:
        One verdict for each target.

    Example:
        ```python
        cell = CellDice("a", {"ce": 0.7, "ours": 0.8, "clean": 0.9}, 0.6, {"ours": 0.75})
        verdicts = evaluate_targets([cell], ours="ours", references=["ce"], bound="clean")
        [verdict.passed for verdict in verdicts]  # [True, True, True]
        ```
    """
    needed = {ours, *references, bound}
    whole = [cell for cell in cells if needed <= cell.dice.keys()]
    missing = [cell.cell for cell in cells if cell not in whole]
    better = {cell.cell: max(references, key=lambda name: cell.dice[name]) for cell in whole}
    return [
        _never_worse(whole, ours, better, missing),
        _wins_back(whole, ours, better, bound, missing),
        _corrects(cells, ours),
    ]


def _never_worse(
    cells: Sequence[CellDice], ours: str, better: Mapping[str, str], missing: list[str]
) -> Verdict:
    lines, good = [], []
    for cell in cells:
        reference = better[cell.cell]
        difference = cell.dice[ours] - cell.dice[reference]
        good.append(difference >= -NEVER_WORSE)
        lines.append(
            f"{_mark(good[-1])} {cell.cell}: {cell.dice[ours]:.4f} against {reference} "
            f"{cell.dice[reference]:.4f}, {difference:+.4f}"
        )
    target = f"{ours} is nowhere worse than the better reference by more than {NEVER_WORSE}"
    return _verdict(target, good, lines, missing)


def _wins_back(
    cells: Sequence[CellDice],
    ours: str,
    better: Mapping[str, str],
    bound: str,
    missing: list[str],
) -> Verdict:
    lines, shares = [], []
    for cell in cells:
        reference, top = cell.dice[better[cell.cell]], cell.dice[bound]
        if top - reference <= WORTH_WINNING:
            lines.append(f"   {cell.cell}: loses {top - reference:.4f}, too little to judge")
            continue
        shares.append((cell.dice[ours] - reference) / (top - reference))
        lines.append(
            f"{_mark(shares[-1] >= SHARE_IN_A_CELL)} {cell.cell}: {better[cell.cell]} loses "
            f"{top - reference:.4f} to {bound} {top:.4f}, {shares[-1]:.0%} won back"
        )
    target = (
        f"where the better reference loses more than {WORTH_WINNING} to {bound}, {ours} wins back "
        f"{SHARE_ON_AVERAGE:.0%} on average and {SHARE_IN_A_CELL:.0%} in every cell"
    )
    good = [share >= SHARE_IN_A_CELL for share in shares]
    if shares:
        good.append(float(np.mean(shares)) >= SHARE_ON_AVERAGE)
        lines.append(f"{_mark(good[-1])} on average {np.mean(shares):.0%}")
    return _verdict(target, good, lines, missing)


def _corrects(cells: Sequence[CellDice], ours: str) -> Verdict:
    lines, good = [], []
    judged = [cell for cell in cells if not cell.biased]
    missing = [cell.cell for cell in judged if ours not in cell.corrected]
    for cell in judged:
        if ours in cell.corrected:
            good.append(cell.corrected[ours] > cell.given)
            lines.append(
                f"{_mark(good[-1])} {cell.cell}: corrected {cell.corrected[ours]:.4f}, given "
                f"{cell.given:.4f}"
            )
    target = f"masks corrected by {ours} are better than the given ones where noise has no bias"
    return _verdict(target, good, lines, missing)


def _mark(good: bool) -> str:
    return "ok" if good else "NO"


def _verdict(target: str, good: list[bool], lines: list[str], missing: list[str]) -> Verdict:
    if missing:
        lines = [*lines, f"not run yet: {', '.join(missing)}"]
    passed: bool | None = all(good) if good else None
    if passed and missing:
        passed = None
    return Verdict(target, passed, tuple(lines))
