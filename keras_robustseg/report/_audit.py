"""The audit of masks: which images, objects and pixels look wrong, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_robustseg.data._ingest import choose_reader
from keras_robustseg.errors import DataError

from ._audit_data import AuditData, AuditSample, MemoryData, checked
from ._audit_examine import METHODS, Rule, examine, suggestion
from ._audit_passes import ClassLevels, confident_issues
from ._audit_report import AuditReport
from ._audit_tally import Tally
from ._audit_write import AuditWriter, NoWriter


def audit(
    data: AuditData | Sequence[AuditSample],
    out: str | Path | None = None,
    *,
    method: str = "regret",
    ignore_class: int | None = None,
    min_region: int = 5,
    overlays: int = 100,
    pixel_scores: bool = False,
) -> AuditReport:
    """Rank masks and objects by how wrong they look, and mark wrong pixels.

        severity of a mask = max over masks m of D(p, m) - D(p, given),    D soft Dice, p belief

    is how much expected Dice the given mask loses against the best one, a mean over its classes.
    A pixel is marked where it lies in a region whose most likely class is not the given one, and
    some pixel of the region is confident of that (confident learning). Docs: docs/audit.md.

    The data are gone through twice, one sample in memory at a time; four more passes over masks
    and probabilities are made for `method="cleanlab"`. With several readers each mask counts.

    Args:
        data: samples, or data from `open_predictions` and the like.
        out: new or empty directory for tables, corrected masks and a page to look at; None
            writes nothing.
        method: "regret", or "cleanlab": image scores and marked pixels of cleanlab.segmentation
            (softmin of p[y]; Lad and Mueller, 2023), for comparison.
        ignore_class: mask value that is void, besides -1 and (where it is no class) 255.
        min_region: smallest region that is marked, in pixels.
        overlays: how many masks the page shows, the worst ones.
        pixel_scores: also write how wrong each pixel looks, as float16 .npy.

    Returns:
        The tables.

    Raises:
        DataError: no samples, or one that cannot be audited; `out` is not left half-written.
        StateError: `out` is not empty, or cannot be written.
        ValueError: a setting is out of range.

    Example:
        ```python
        samples = [AuditSample("a", mask, probabilities), AuditSample("b", mask_b, p_b)]
        report = audit(samples)
        report.images[0]["id"], report.images[0]["severity"]
        ```
    """
    _check(method, min_region, overlays)
    if not isinstance(data, AuditData):
        data = MemoryData(data)
    writer = NoWriter() if out is None else AuditWriter(Path(out), data, overlays, pixel_scores)
    with writer:
        rule = _rule(data, method, ignore_class, min_region)
        tally = Tally(data.classes, rule.thresholds)
        for drawn in _drawn(data, ignore_class):
            _take_in(drawn, rule, tally, writer)
        report = tally.report(data, method)
        writer.finish(report)
    return report


def _check(method: str, min_region: int, overlays: int) -> None:
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}. Received: {method!r}"
        )
    if min_region < 1 or overlays < 0:
        raise ValueError(
            "`min_region` must be at least 1 and `overlays` at least 0. Received: "
            f"min_region={min_region}, overlays={overlays}"
        )


class _Drawn(NamedTuple):
    """A sample as it came, as it is computed with, and the masks in it by reader."""

    raw: AuditSample
    sample: AuditSample
    masks: list[tuple[int | None, np.ndarray]]


def _drawn(data: AuditData, ignore_class: int | None) -> Iterator[_Drawn]:
    """Each sample with the masks that were given; the reader is None where there is one only."""
    for raw in data:
        try:
            sample = checked(raw, len(data.classes), ignore_class)
        except DataError as error:
            raise DataError(f"{data.name}: {error}") from error
        stack = sample.mask
        given = [r for r in range(stack.shape[-1]) if (stack[..., r] >= 0).any()]
        names = given if stack.shape[-1] > 1 else [None] * len(given)
        yield _Drawn(raw, sample, [(n, stack[..., r]) for n, r in zip(names, given, strict=True)])


def _rule(data: AuditData, method: str, ignore_class: int | None, min_region: int) -> Rule:
    """The first pass: thresholds; and for cleanlab's rule the passes that find its limit."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for drawn in _drawn(data, ignore_class):
            for _, mask in drawn.masks:
                yield drawn.sample.probabilities, mask

    levels = ClassLevels(len(data.classes))
    names: set[str] = set()
    for drawn in _drawn(data, ignore_class):
        if drawn.raw.id in names:
            raise DataError(
                f"audit: two samples are named {drawn.raw.id!r}, expected different ids"
            )
        names.add(drawn.raw.id)
        for _, mask in drawn.masks:
            levels.add(drawn.sample.probabilities, mask)
    if not levels.pixels.any():
        raise DataError(f"{data.name}: there is no mask with a pixel that is not void")
    limit = confident_issues(pairs, levels.thresholds) if method == "cleanlab" else -1.0
    return Rule(method, levels.thresholds, levels.haze, limit, min_region)


def _take_in(drawn: _Drawn, rule: Rule, tally: Tally, writer: AuditWriter | NoWriter) -> None:
    """The second pass: examine the masks of one sample, and write what belongs to it."""
    sample = drawn.sample
    for reader, mask in drawn.masks:
        finding = examine(
            sample.probabilities,
            mask,
            rule,
            image=sample.image,
            spacing=sample.spacing,
        )
        row = tally.add(sample.id, reader, mask, finding)
        writer.mask(sample, reader, mask, finding, row, rule)
    if len(drawn.masks) == 1:
        writer.corrected(drawn.raw, finding.suggested)
    elif drawn.masks:
        vote = choose_reader(sample.mask, "majority", seed=0, sample_id=sample.id)
        writer.corrected(drawn.raw, suggestion(sample.probabilities, vote, rule))
