"""The running totals of an audit; of pixels only counts are kept."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._audit_bias import BiasEvidence, statement
from ._audit_data import AuditData
from ._audit_examine import Finding
from ._audit_pixels import FloatArray
from ._audit_report import AuditReport
from ._objects import KINDS, ObjectIssue

MISSHAPEN = ("too_large", "too_small", "shape")
_OBJECTS = 100_000  # rows that are kept, the worst ones


class Tally:
    """Gathers findings, and makes the tables of them.

    Args:
        classes: class names, background first.
        thresholds: (C,), see `ClassLevels`.
    """

    def __init__(self, classes: Sequence[str], thresholds: FloatArray) -> None:
        self.classes, self.thresholds = tuple(classes), thresholds
        self.images: list[dict[str, Any]] = []
        self.changes = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self.kinds: dict[int, Counter[str]] = defaultdict(Counter)
        self.evidence = {label: BiasEvidence() for label in range(1, len(self.classes))}
        self.by_reader: dict[int, BiasEvidence] = defaultdict(BiasEvidence)
        self.object_count = 0
        self._objects: list[tuple[float, int, dict[str, Any]]] = []
        self._order = itertools.count()
        self._ids: set[str] = set()
        self._with_images = False

    def add(
        self, sample_id: str, reader: int | None, mask: np.ndarray, finding: Finding
    ) -> dict[str, Any]:
        """Take in one mask and return its row."""
        self._ids.add(sample_id)
        valid = mask >= 0
        pairs = mask[valid] * len(self.classes) + finding.suggested[valid]
        found = np.bincount(pairs, minlength=self.changes.size)
        self.changes += found.reshape(self.changes.shape)
        for item in finding.objects:
            self._add_object(sample_id, reader, item)
        for label, offsets in finding.offsets.items():
            for name, offset in offsets.items():
                self._with_images |= name == "edge_offset"
                self.evidence[label].add(name, offset)
                if reader is not None:
                    self.by_reader[reader].add(name, offset)
        row = self._row(sample_id, reader, finding, int(valid.sum()))
        self.images.append(row)
        return row

    def _row(
        self, sample_id: str, reader: int | None, finding: Finding, pixels: int
    ) -> dict[str, Any]:
        wrong = int(finding.wrong.sum())
        kinds = Counter(item.kind for item in finding.objects)
        return {
            "rank": 0,
            "id": sample_id,
            "reader": reader,
            "severity": float(finding.severity),
            "worst_class": self.classes[finding.worst_class],
            "wrong_pixels": wrong,
            "wrong_share": wrong / pixels,
            **_counted(kinds),
            "softmin": finding.softmin,
        }

    def _add_object(self, sample_id: str, reader: int | None, item: ObjectIssue) -> None:
        self.object_count += 1
        self.kinds[item.given or item.suggested][item.kind] += 1
        row = {
            "rank": 0,
            "id": sample_id,
            "reader": reader,
            "kind": item.kind,
            "given": self.classes[item.given],
            "suggested": self.classes[item.suggested],
            "severity": item.severity,
            "given_pixels": item.given_pixels,
            "suggested_pixels": item.suggested_pixels,
            "wrong_pixels": item.wrong_pixels,
            "box": ",".join(f"{start}:{stop}" for start, stop in item.box),
        }
        entry = (item.severity, -next(self._order), row)
        if len(self._objects) < _OBJECTS:
            heapq.heappush(self._objects, entry)
        else:
            heapq.heappushpop(self._objects, entry)

    def report(self, data: AuditData, method: str) -> AuditReport:
        """Return the tables, the worst rows first."""
        objects = [row for _, _, row in sorted(self._objects, key=lambda e: (-e[0], -e[1]))]
        images = sorted(self.images, key=lambda row: -row["severity"])
        for rows in (images, objects):
            for rank, row in enumerate(rows, start=1):
                row["rank"] = rank
        bias = {self.classes[label]: e.verdict() for label, e in self.evidence.items()}
        return AuditReport(
            summary=self._summary(data, method),
            images=images,
            objects=objects,
            classes=[self._class_row(label, bias) for label in range(len(self.classes))],
            confusions=self._confusions(),
            readers=self._readers(),
            bias=bias,
            statements=[
                statement(name, verdict, with_images=self._with_images)
                for name, verdict in bias.items()
            ],
        )

    def _summary(self, data: AuditData, method: str) -> dict[str, Any]:
        pixels, same = int(self.changes.sum()), int(np.trace(self.changes))
        return {
            "data": data.name,
            "method": method,
            "classes": list(self.classes),
            "images": len(self._ids),
            "masks": len(self.images),
            "pixels": pixels,
            "wrong_pixels": pixels - same,
            "wrong_share": (pixels - same) / pixels,
            "objects": self.object_count,
            "objects_listed": len(self._objects),
            "rendered_images": data.rendered,
            "origin": data.origin,
            "notice": data.notice,
        }

    def _class_row(self, label: int, bias: dict[str, dict[str, Any]]) -> dict[str, Any]:
        given = int(self.changes[label].sum())
        wrong = given - int(self.changes[label, label])
        name = self.classes[label]
        return {
            "class": name,
            "given_pixels": given,
            "suggested_pixels": int(self.changes[:, label].sum()),
            "wrong_pixels": wrong,
            "wrong_share": wrong / given if given else None,
            "threshold": float(self.thresholds[label]) if given else None,
            **_counted(self.kinds[label]),
            "suspicion": bias[name]["suspicion"] if label else None,
        }

    def _confusions(self) -> list[dict[str, Any]]:
        rows = [
            {
                "given": self.classes[given],
                "suggested": self.classes[suggested],
                "pixels": int(count),
                "share_of_given": float(count / self.changes[given].sum()),
            }
            for (given, suggested), count in np.ndenumerate(self.changes)
            if count and given != suggested
        ]
        return sorted(rows, key=lambda row: -row["pixels"])

    def _readers(self) -> list[dict[str, Any]]:
        rows = []
        for reader in sorted({row["reader"] for row in self.images if row["reader"] is not None}):
            own = [row for row in self.images if row["reader"] == reader]
            verdict: Any = self.by_reader[reader].verdict()
            rows.append(
                {
                    "reader": reader,
                    "images": len(own),
                    "severity": float(np.mean([row["severity"] for row in own])),
                    "wrong_share": float(np.mean([row["wrong_share"] for row in own])),
                    "displacement": verdict["displacement"]["median"],
                    "suspicion": verdict["suspicion"],
                }
            )
        return rows


def _counted(kinds: Counter[str]) -> dict[str, int]:
    """Objects by kind, the misshapen ones together."""
    plain = {kind: kinds[kind] for kind in KINDS if kind not in MISSHAPEN}
    return {**plain, "misshapen": sum(kinds[kind] for kind in MISSHAPEN)}
