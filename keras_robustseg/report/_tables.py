"""The figures of a run: one JSON file for machines, one table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_robustseg.training._atomic import write_json_atomic

# Short key -> name in `metrics.MaskEvaluation`, heading, format.
_COLUMNS = {
    "dice": ("dice", "Dice", "{:.4f}"),
    "iou": ("iou", "IoU", "{:.4f}"),
    "hd95": ("hausdorff_95", "HD95", "{:.2f}"),
    "assd": ("average_symmetric_surface_distance", "ASSD", "{:.2f}"),
    "nsd": ("normalized_surface_dice", "NSD", "{:.4f}"),
}
_ROW_NAMES = {
    "labels.given": "given masks",
    "labels.corrected": "corrected masks",
    "val": "network, validation",
    "test": "network, test",
}


def scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    """One section of metrics.json from `metrics.MaskEvaluation.summary()`.

    Args:
        summary: metric -> {mean, per_class, undefined}, and other plain values.

    Returns:
        The mean over foreground classes as `dice`, `iou`, `hd95`, `assd`, `nsd` (None where no
        case is defined), `undefined`: how many cases each of them leaves out, `per_class`, and the
        other values as they are.

    Example:
        >>> scores({"dice": {"mean": 0.5, "per_class": [0.9, 0.5], "undefined": [0, 2]}})
        {'dice': 0.5, 'undefined': {'dice': 2}, 'per_class': {'dice': [0.9, 0.5]}}
    """
    measured = {key: summary[name] for key, (name, *_) in _COLUMNS.items() if name in summary}
    long_names = {name for name, *_ in _COLUMNS.values()}
    return {
        **{key: value["mean"] for key, value in measured.items()},
        "undefined": {key: sum(value["undefined"][1:]) for key, value in measured.items()},
        "per_class": {key: value["per_class"] for key, value in measured.items()},
        **{name: value for name, value in summary.items() if name not in long_names},
    }


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The summary table of a run for a terminal.

    Every section of `metrics` that holds one of dice, iou, hd95, assd, nsd becomes a row. A number
    in brackets tells how many cases the metric leaves out because it is undefined for them.

    Args:
        metrics: as in metrics.json; sections may be nested or have dotted names.

    Example:
        >>> print(metrics_table({"labels.given.dice": 0.81, "test": {"dice": 0.9, "hd95": None}}))
                         Dice  HD95
        given masks    0.8100     -
        network, test  0.9000     -
    """
    rows = list(_sections(nest(metrics)))
    columns = [key for key in _COLUMNS if any(key in section for _, section in rows)]
    cells = [["", *(_COLUMNS[key][1] for key in columns)]]
    for name, section in rows:
        cells.append([_ROW_NAMES.get(name, name), *(_cell(section, key) for key in columns)])
    lines = _aligned(cells)
    if any("(" in cell for row in cells[1:] for cell in row[1:]):
        lines.append("(n): n cases left out, because a mask without the class has no such value")
    return "\n".join(lines)


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: nested objects, NaN as null, the whole file in one step.

    Args:
        path: the file.
        metrics: nested mappings, or dotted names (`"labels.given.dice"`), or both.

    Raises:
        StateError: the file cannot be written.
        ValueError: a name is both a value and a section.
    """
    write_json_atomic(path, nest(metrics))


def nest(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings; the inverse of `flatten`.

    Example:
        >>> nest({"test.dice": 0.9, "test": {"iou": 0.8}})
        {'test': {'dice': 0.9, 'iou': 0.8}}
    """
    nested: dict[str, Any] = {}
    for name, value in flatten(metrics).items():
        *sections, last = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ValueError(f"metrics: {section!r} of {name!r} is a value and a section")
        if last in target:
            raise ValueError(f"metrics: {name!r} is a value and a section")
        target[last] = value
    return nested


def flatten(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested mappings into dotted names.

    Example:
        >>> flatten({"labels": {"given": {"dice": 0.8}}, "epochs": 3})
        {'labels.given.dice': 0.8, 'epochs': 3}

    Raises:
        ValueError: a name is given twice.
    """
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        inner = flatten(value) if isinstance(value, Mapping) else None
        new = {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
        twice = new.keys() & flat.keys()
        if twice:
            raise ValueError(f"metrics: {min(twice)!r} is given twice")
        flat |= new
    return flat


def _sections(metrics: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping]]:
    """Every mapping with a metric as one of its values, by its dotted name."""
    if any(key in metrics and not isinstance(metrics[key], Mapping | list) for key in _COLUMNS):
        yield name, metrics
        return
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _sections(value, f"{name}.{key}" if name else key)


def _cell(section: Mapping[str, Any], key: str) -> str:
    value, left_out = section.get(key), section.get("undefined", {}).get(key, 0)
    text = "-" if value is None or value != value else _COLUMNS[key][2].format(value)
    return f"{text} ({left_out})" if left_out else text


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Pad the columns, first one to the left, the others to the right.

    Counts in brackets get a column of their own width, so that the numbers stay in line.
    """
    widths = [
        max(len(row[column].partition(" (")[0]) if column else len(row[0]) for row in cells)
        for column in range(len(cells[0]))
    ]
    counts = [
        max(len("".join(row[column].partition(" (")[1:])) if column else 0 for row in cells)
        for column in range(len(cells[0]))
    ]
    lines = []
    for row in cells:
        parts = [row[0].ljust(widths[0])]
        for column, cell in enumerate(row[1:], start=1):
            number, bracket, count = cell.partition(" (")
            parts.append(number.rjust(widths[column]) + (bracket + count).ljust(counts[column]))
        lines.append("  ".join(parts).rstrip())
    return lines
