"""Objects of two masks side by side: which are missing, too many, of another class, or misshapen.

An object is a connected set of pixels of one foreground class (corners connect), in 2-D or 3-D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ._audit_pixels import BoolArray, FloatArray, regions

Box = tuple[slice, ...]
KINDS = ("missing", "extra", "wrong_class", "too_large", "too_small", "shape")
_FOUND = 0.1  # share of an object that the other mask must cover for it to count as there
_SAME_SIZE = 0.1  # relative difference of areas up to which an object is of the right size
_DOUBT = 4.0  # pixels; an object of so many has half the severity of a large one


@dataclass(frozen=True)
class ObjectIssue:
    """One object that looks wrong.

    Attributes:
        kind: "missing" (suggested, not given), "extra" (given, not suggested), "wrong_class",
            "too_large", "too_small" (the given one, by more than a tenth of its area), "shape".
        given: class that was given there, 0 for a missing object.
        suggested: class that is suggested there, 0 for an extra object.
        severity: in [0, 1]; mean probability of the suggested classes over what differs, times
            the share of given and suggested object that differs; small for specks.
        given_pixels: size of the given object.
        suggested_pixels: size of the suggested one.
        wrong_pixels: pixels of the two in which the masks differ.
        box: first and one past the last index along each axis, of both together.
    """

    kind: str
    given: int
    suggested: int
    severity: float
    given_pixels: int
    suggested_pixels: int
    wrong_pixels: int
    box: tuple[tuple[int, int], ...]


def compare_objects(
    given: np.ndarray, suggested: np.ndarray, confidence: FloatArray
) -> list[ObjectIssue]:
    """Compare the objects of a given mask with those of a suggested one, class by class.

        severity = sum of confidence over wrong pixels / (pixels of both objects + 4)

    Args:
        given: int (*S), negative is void.
        suggested: int (*S), void where `given` is.
        confidence: (*S), how sure the suggested class is, in [0, 1].

    Returns:
        One entry for each object that differs, in no particular order.

    Example:
        >>> given, suggested = np.zeros((2, 8, 8), int)
        >>> suggested[2:5, 2:5] = 1
        >>> compare_objects(given, suggested, np.ones((8, 8)))[0].kind
        'missing'
    """
    found: list[ObjectIssue] = []
    for label in np.union1d(given[given > 0], suggested[suggested > 0]):
        found += _Sides(int(label), given, suggested, confidence).issues()
    return found


class _Sides:
    """The objects of one class in a given and in a suggested mask."""

    def __init__(
        self, label: int, given: np.ndarray, suggested: np.ndarray, confidence: FloatArray
    ) -> None:
        self.label, self.given, self.suggested = label, given, suggested
        self.confidence = confidence
        self.drawn, self.believed = regions(given == label)[0], regions(suggested == label)[0]
        self.drawn_boxes = ndimage.find_objects(self.drawn)
        self.believed_boxes = ndimage.find_objects(self.believed)

    def issues(self) -> Iterator[ObjectIssue]:
        """Yield what is wrong with the given objects, then the missing ones."""
        matched: set[int] = set()
        for number, box in enumerate(self.drawn_boxes, start=1):
            here = self.drawn[box] == number
            below = np.bincount(np.maximum(self.suggested[box][here], 0), minlength=self.label + 1)
            if below[self.label] < _FOUND * here.sum():
                yield self._unfounded(box, here, int(below.argmax()))
                continue
            partners = np.unique(self.believed[box][here])
            partners = partners[partners > 0]
            matched.update(partners.tolist())
            yield from self._misshapen(number, partners)
        for number, box in enumerate(self.believed_boxes, start=1):
            there = self.believed[box] == number
            if number not in matched and not self._on_others(self.given[box][there]):
                yield self._issue("missing", 0, self.label, box, np.zeros_like(there), there)

    def _unfounded(self, box: Box, here: BoolArray, other: int) -> ObjectIssue:
        """A given object of which the suggested mask has nothing of this class."""
        if not other:
            return self._issue("extra", self.label, 0, box, here, np.zeros_like(here))
        there = here & (self.suggested[box] == other)
        return self._issue("wrong_class", self.label, other, box, here, there)

    def _misshapen(self, number: int, partners: np.ndarray) -> Iterator[ObjectIssue]:
        boxes = [self.drawn_boxes[number - 1], *(self.believed_boxes[i - 1] for i in partners)]
        box = _hull(boxes)
        here, there = self.drawn[box] == number, np.isin(self.believed[box], partners)
        there &= here | (self.given[box] != self.label)  # not what other given objects explain
        if (here == there).all():
            return
        size, wanted = int(here.sum()), int(there.sum())
        kind = "shape"
        if abs(size - wanted) > _SAME_SIZE * max(size, wanted):
            kind = "too_large" if size > wanted else "too_small"
        yield self._issue(kind, self.label, self.label, box, here, there)

    def _on_others(self, below: np.ndarray) -> bool:
        """Whether it lies mostly on objects of other classes, which are reported themselves."""
        others = np.count_nonzero((below > 0) & (below != self.label))
        return bool(others > 0.5 * below.size)

    def _issue(
        self, kind: str, given: int, suggested: int, box: Box, here: BoolArray, there: BoolArray
    ) -> ObjectIssue:
        both = here | there
        wrong = both & (self.suggested[box] != self.given[box])
        weight = float(self.confidence[box][wrong].sum())
        return ObjectIssue(
            kind=kind,
            given=given,
            suggested=suggested,
            severity=weight / (int(both.sum()) + _DOUBT),
            given_pixels=int(here.sum()),
            suggested_pixels=int(there.sum()),
            wrong_pixels=int(wrong.sum()),
            box=tuple((int(edge.start), int(edge.stop)) for edge in box),
        )


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around several."""
    edges = [[(edge.start, edge.stop) for edge in box] for box in boxes]
    return tuple(
        slice(min(start for start, _ in axis), max(stop for _, stop in axis))
        for axis in zip(*edges, strict=True)
    )
