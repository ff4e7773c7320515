"""The tables of a benchmark: JSON for machines, CSV for spreadsheets, Markdown for people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keras_robustseg.benchmark._results import CHOICES, Overall, Results, Row
from keras_robustseg.training._atomic import plain, write_json_atomic, write_text_atomic

_HEADINGS = (
    "method", "runs", "last epoch", "noisy val.", "clean val.", "oracle", "difference", "p (Holm)",
    "rank", "corrected", "net px", "collapse", "s",
)  # fmt: skip
_OVERALL = (
    "method", "cells", "runs", "Dice", "difference", "mean rank", "p (Holm)", "collapse", "s",
)  # fmt: skip


def write_tables(results: Results, out: Path) -> None:
    """Write `results.json`, `results.csv` (a row a method and cell), `runs.csv`, `table.md`.

    Each file is replaced in one step.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "results.json", results.to_dict())
    write_text_atomic(out / "results.csv", csv_text(_flat(row) for row in results.rows))
    write_text_atomic(out / "runs.csv", csv_text(asdict(run) for run in results.runs))
    write_text_atomic(out / "table.md", markdown(results))


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows with the same fields as CSV; what is undefined stays empty."""
    rows = [plain(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    values = asdict(row)
    mean, sd = values.pop("mean"), values.pop("sd")
    kinds = (("mean", mean), ("sd", sd))
    return values | {f"{name}_{kind}": part[name] for name in mean for kind, part in kinds}


def markdown(results: Results) -> str:
    """Return the tables and the verdicts as Markdown, columns aligned.

    Example:
        `print(markdown(results))`
    """
    parts = [
        f"# {results.name}, profile {results.profile}",
        f"{results.trained} of {results.total} runs are finished. Dice on the test split, mean "
        "(standard deviation over seeds): of the last epoch; of the epoch chosen on the validation "
        "masks as given, and on their truth; of the best epoch on the test split itself, which "
        f"nobody can choose. Difference of the last epoch to {results.baseline} with its 95 % "
        "bootstrap interval over images, and Wilcoxon's p over images after Holm. Corrected: Dice "
        "of the training masks; net px: pixels put right less pixels put wrong.",
    ]
    codes = {run.code for run in results.runs}
    if len(codes) > 1:
        parts.append(f"The runs were made by {len(codes)} states of the code; see runs.csv.")
    for cell in dict.fromkeys(row.cell for row in results.rows):
        parts += _cell([row for row in results.rows if row.cell == cell])
    parts += ["## All cells", "p over pairs of (cell, seed).", _aligned(_all(results.overall))]
    if results.verdicts:
        verdicts = "\n".join(verdict.text() for verdict in results.verdicts)
        parts += ["## Targets", f"```\n{verdicts}\n```"]
    if results.failed:
        lines = [f"- `{label}`: {error}" for label, error in results.failed.items()]
        parts += ["## Not trained", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _cell(rows: Sequence[Row]) -> list[str]:
    # The bound, which has no rank, is given the truth.
    given = [row.mean["given"] for row in rows if not math.isnan(row.rank)]
    title = f"## {rows[0].cell}"
    note = f"Dice of the given training masks: {_figure(given[0])}." if given else ""
    ranked = sorted(rows, key=lambda row: (math.isnan(row.rank), row.rank))
    return [title, note, _aligned([_HEADINGS, *(_line(row) for row in ranked)])]


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        str(row.runs),
        *(_spread(row.mean[name], row.sd[name]) for name in CHOICES),
        _interval(row),
        _figure(row.p_holm, 3),
        _figure(row.rank, 1),
        _spread(row.mean["corrected"], row.sd["corrected"]),
        _figure(row.mean["net"], 0),
        f"{row.collapse:.0%}",
        _figure(row.mean["seconds"], 0),
    )


def _interval(row: Row) -> str:
    if math.isnan(row.difference):
        return "-"
    return f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"


def _all(overall: Sequence[Overall]) -> list[tuple[str, ...]]:
    lines = [
        (
            entry.method,
            str(entry.cells),
            str(entry.runs),
            _figure(entry.dice),
            "-" if math.isnan(entry.difference) else f"{entry.difference:+.4f}",
            _figure(entry.rank, 2),
            _figure(entry.p_holm, 3),
            f"{entry.collapse:.0%}",
            _figure(entry.seconds, 0),
        )
        for entry in overall
    ]
    return [_OVERALL, *lines]


def _spread(mean: float, sd: float) -> str:
    return _figure(mean) if math.isnan(sd) else f"{_figure(mean)} ({_figure(sd)})"


def _figure(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(pairs)]
        for pairs in (zip(row, widths, strict=True) for row in (rows[0], rule, *rows[1:]))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
