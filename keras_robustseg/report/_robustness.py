"""A report of robustness as files: JSON, CSV, pictures, and one page that needs nothing else.

report.json                 everything
attacks.csv images.csv      a row an attack and eps, a row an image
curves.png survival.png     accuracy and Dice by eps; survival where norms were looked for
robustness.html             tables, curves, checks and examples
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from keras_robustseg.errors import StateError
from keras_robustseg.training import _files
from keras_robustseg.training._atomic import plain, write_synced
from keras_robustseg.training._leftovers import discard, remove_leftovers, temporary

from ._audit_report import csv_text
from ._audit_write import check_free
from ._robustness_page import pictures, robustness_page
from ._tables import flatten

if TYPE_CHECKING:
    from keras_robustseg.attacks import RobustnessReport


def write_robustness(
    found: RobustnessReport,
    directory: str | Path,
    *,
    title: str = "Robustness",
    rendered: bool = False,
) -> Path:
    """Write a report of robustness into a new or empty directory, wholly or not at all.

    Args:
        found: what `attacks.evaluate_robustness` returned.
        directory: `report.json`, `attacks.csv`, `images.csv`, `curves.png`, `robustness.html` go
            there, and `survival.png` where there was an attack of minimal norm.
        title: of the page.
        rendered: whether the images are rendered by software; the page says so.

    Returns:
        The directory.

    Raises:
        StateError: it is not empty, or cannot be written.

    Example:
        `write_robustness(evaluate_robustness(model, [(images, masks)]), "robustness")`
    """
    out = Path(directory)
    check_free(out, "report")
    prepared = temporary(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent, out.name)
        _files.make_directory(prepared)
        for name, content in _files_of(found, title, rendered).items():
            write_synced(prepared / name, [memoryview(content)])
        _files.rename(prepared, out)
        _files.sync_directory(out.parent)
    except OSError as error:
        raise StateError(
            f"{out}: the report cannot be written: {error.strerror or error}. Free some space, or "
            "check the permissions of the directory; nothing was left there."
        ) from error
    finally:
        discard(prepared)
    return out


def _files_of(found: RobustnessReport, title: str, rendered: bool) -> dict[str, bytes]:
    drawn = pictures(found)
    texts = _texts(found, title, rendered)
    texts["robustness.html"] = robustness_page(found, drawn, title=title, rendered=rendered)
    return {
        **{name: text.encode() for name, text in texts.items()},
        **{f"{name}.png": png for name, png in drawn.items()},
    }


def _texts(found: RobustnessReport, title: str, rendered: bool) -> dict[str, str]:
    body = plain({"title": title, "rendered_images": rendered, **found.to_dict()})
    rows = [flatten(row) for row in found.rows()]
    images = list(found.image_rows())
    return {
        "report.json": json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        "attacks.csv": csv_text(list(rows[0]), rows),
        "images.csv": csv_text(list(images[0]), images),
    }
