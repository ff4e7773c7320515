"""`check`: one pass over a data set that lists all that is wrong with it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from keras_robustseg.data._check_guard import guard, raise_first
from keras_robustseg.data._check_layout import open_folder
from keras_robustseg.data._check_report import CheckReport
from keras_robustseg.data._check_summary import count, crossing_groups, survey, whole_set_problems
from keras_robustseg.data._problem import HEADINGS, BadFile, Problem
from keras_robustseg.data._source import Source
from keras_robustseg.errors import DataError

__all__ = ["check", "guard", "guard_listing"]

_THREADS = 8


def check(source: Source | str | Path) -> CheckReport:
    """Reads every sample of a data set once and lists everything that is wrong.

    Args:
        source: A source, or a folder or `.npz` file whose layout is then guessed.

    Returns:
        All problems with file, value, count, first position and what was expected, and what the
        data set holds. A data set that cannot be opened is one problem of the kind `layout`.

    Example:
        ```python
        report = check("cells")
        print(report.text())
        ```
    """
    root = ""
    notes: tuple[str, ...] = ()
    if not isinstance(source, Source):
        root = str(Path(source).expanduser())
        try:
            source, notes = open_folder(source)
        except DataError as error:
            return CheckReport((_layout_problem(error, root),), {}, root)
    root = root or str(getattr(source, "root", ""))
    # Decoders work outside Python's lock: threads keep the disk busy.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        surveys = list(pool.map(partial(survey, source), range(len(source.samples))))
    found = [problem for one in surveys for problem in one.problems]
    problems = [*source.listing_problems, *found, *whole_set_problems(source, surveys)]
    order = list(HEADINGS)
    problems.sort(key=lambda problem: order.index(problem.kind))
    return CheckReport(tuple(_distinct(problems)), count(source, surveys), root, notes)


def guard_listing(source: Source) -> None:
    """Refuses a source whose list of samples is wrong, before anything is loaded.

    Args:
        source: A source that is about to be trained on.

    Raises:
        DataError: Masks without an image, two samples of one name, a group in two splits ...
    """
    raise_first([*source.listing_problems, *crossing_groups(source)])


def _layout_problem(error: DataError, root: str) -> Problem:
    if isinstance(error, BadFile):
        return error.problem
    text = str(error)
    message = text.removeprefix(root).lstrip(": ")
    return Problem(root, "layout", message, expected="a folder of images and masks, nnU-Net, npz")


def _distinct(problems: list[Problem]) -> list[Problem]:
    """The listing and the loading may both find a file missing: it is said once."""
    return list(dict.fromkeys(problems))
