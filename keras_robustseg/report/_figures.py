"""The learning curves of a run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._canvas import DARK, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = ("#F2F2F2", "#DDEBF5", "#FBEBDD", "#E4F2EA")
_MANY = 60  # epochs from which single points are no longer marked


def curves(history_rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw loss and Dice over the epochs.

    Args:
        history_rows: as `History.rows`: `epoch` (from 0), `loss`, `val_loss`, `dice`, `val_dice`
            ...; where a row has a `phase`, the phases are shaded.
        path: the PNG file.

    Raises:
        StateError: the file cannot be written.

    Example:
        >>> curves([{"epoch": 0, "loss": 1.0, "dice": 0.2}], "/tmp/curves.png")
    """
    from matplotlib.ticker import MaxNLocator

    columns = list(dict.fromkeys(name for row in history_rows for name in row))
    dice = [name for name in columns if "dice" in name and "loss" not in name]
    panels = {"loss": [name for name in columns if name == "loss" or name.endswith("_loss")]}
    if dice:
        panels["Dice"] = dice
    figure = new_figure(5.2 * len(panels), 3.6)
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        _draw_phases(axes, history_rows)
        _draw_lines(axes, history_rows, names)
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, max((row["epoch"] for row in history_rows), default=0) + 1.5)
    save_png(figure, path)


def _draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """One line a column; validation is dashed, in the colour of its training column."""
    stems = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    for name in names:
        stem = name.removeprefix("val_")
        points = [(row["epoch"] + 1, row[name]) for row in rows if row.get(name) is not None]
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            color=DARK[stems.index(stem) % len(DARK)],
            linestyle="-" if name == stem else "--",
            marker="." if len(rows) < _MANY else None,
            label=name,
        )
    axes.grid(alpha=0.3)
    if names:
        axes.legend(frameon=False)


def _draw_phases(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shade each run of epochs with the same phase and write its name above."""
    runs = itertools.groupby(rows, key=lambda row: row.get("phase"))
    spans = [(phase, [row["epoch"] + 1 for row in group]) for phase, group in runs]
    phases = list(dict.fromkeys(phase for phase, _ in spans))
    for phase, epochs in spans:
        if phase is None:
            continue
        left, right = epochs[0] - 0.5, epochs[-1] + 0.5
        shade = _SHADES[phases.index(phase) % len(_SHADES)]
        axes.axvspan(left, right, color=shade, zorder=0, linewidth=0)
        axes.text(
            (left + right) / 2,
            1.01,
            str(phase),
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize="small",
        )
