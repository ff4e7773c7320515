"""What `robustseg audit` does; the same from Python is `keras_robustseg.audit`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING

from keras_robustseg.errors import DataError, StateError

if TYPE_CHECKING:
    from keras_robustseg.data import Source
    from keras_robustseg.report import AuditData, AuditReport


class Split(enum.StrEnum):
    """Splits of a run's data."""

    train = "train"
    val = "val"
    test = "test"


class Method(enum.StrEnum):
    """Ways to score masks."""

    regret = "regret"
    cleanlab = "cleanlab"


def audit(
    target: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Path | Source | None = None,
    split: str = "train",
    method: str = "regret",
    ignore_class: int | None = None,
    min_region: int = 5,
    overlays: int = 100,
    pixel_scores: bool = False,
) -> AuditReport:
    """Audit the masks of a run, or of predictions in files, and write what was found.

    Args:
        target: directory of a run (its network and label rows are the belief), or predictions,
            see `report.open_predictions` for their layouts.
        out: new or empty directory; by default `audit` in the run, or `NAME-audit` beside the
            predictions.
        data: for predictions without masks: a recipe, a folder, an .npz, or a `data.Source`.
        split: which samples of a run.
        method, ignore_class, min_region, overlays, pixel_scores: as `report.audit`.

    Returns:
        The tables; `AuditReport.text()` is what the command prints.

    Raises:
        DataError: there is nothing to audit at `target`, or a sample cannot be audited.
        StateError: `out` is not empty, or the run is not finished.
        ValueError: a setting is out of range.

    Example:
        `audit("runs/quickstart").images[0]`
    """
    from keras_robustseg import report

    place = where_to_write(Path(target), out)
    opened = open_target(Path(target), data, split)
    return report.audit(
        opened,
        place,
        method=method,
        ignore_class=ignore_class,
        min_region=min_region,
        overlays=overlays,
        pixel_scores=pixel_scores,
    )


def is_run(target: Path) -> bool:
    """Whether a directory holds a run."""
    return (target / "recipe.json").is_file()


def require_network(run: Path) -> None:
    """Refuse a run whose training has not come to its end.

    Raises:
        StateError: it has no network.
    """
    if not (run / "network.keras").is_file():
        raise StateError(
            f"{run}: this run has no trained network yet. Go on with it by "
            f"`robustseg resume {run}`."
        )


def where_to_write(target: Path, out: str | Path | None = None) -> Path:
    """Return the directory of an audit; refuse one that is in use before anything slow is done.

    Raises:
        StateError: it is not empty.
    """
    from keras_robustseg.report._audit_write import check_free

    if out is None:
        out = target / "audit" if is_run(target) else target.with_name(f"{target.stem}-audit")
    check_free(Path(out))
    return Path(out)


def open_target(target: Path, data: str | Path | Source | None, split: str) -> AuditData:
    """Open a run or predictions.

    Raises:
        DataError, StateError: as `audit`.
    """
    if split not in list(Split):
        raise DataError(f"split: got {split!r}, expected one of {', '.join(Split)}")
    if not is_run(target):
        from keras_robustseg.report import open_predictions

        return open_predictions(target, _source(data) if isinstance(data, str | Path) else data)
    if data is not None:
        raise DataError(f"{target}: got data for a run, expected none: its recipe says where it is")
    require_network(target)
    from keras_robustseg._run_audit import RunData
    from keras_robustseg.recipes import load_network_recipe

    return RunData(target, load_network_recipe(target / "recipe.json"), split)


def _source(data: str | Path) -> Source:
    """The data that a recipe, a folder or an archive stands for."""
    from keras_robustseg.data import source_from_config
    from keras_robustseg.data._check_layout import is_data, open_folder

    if is_data(data):
        return open_folder(data)[0]
    from keras_robustseg.recipes import load_recipe

    return source_from_config(load_recipe(str(data)).data.source.model_dump())
