"""Small pictures of a mask for a page: image, given outlines, suggested outlines, wrong pixels."""

from __future__ import annotations

import base64
import heapq
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ._audit_data import AuditSample
from ._audit_examine import Finding
from ._canvas import BRIGHT

_EDGE = 220  # pixels of the longer side of a panel
_COLOURS = 64
_MARK = np.array([255, 0, 160], np.float64)
_VEIL = np.array([128, 128, 128], np.float64)


@dataclass(frozen=True)
class Picture:
    """A mask as it is shown.

    Attributes:
        row: its row in the table of images.
        objects: its objects that look wrong, as (kind, given class, suggested class), all counted.
        classes: numbers of the classes that it is about, for filtering.
        png: the panels side by side.
        cut: index of the slice that is shown of a volume, else None.
        has_image: whether there was an image to draw on.
    """

    row: dict[str, Any]
    objects: tuple[tuple[str, int, int], ...]
    classes: tuple[int, ...]
    png: bytes
    cut: int | None
    has_image: bool

    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


class Gallery:
    """Keeps the pictures of the worst masks; others are never drawn, or forgotten again.

    Args:
        limit: how many.
        classes: class names.
    """

    def __init__(self, limit: int, classes: Sequence[str]) -> None:
        self._limit, self._classes = limit, tuple(classes)
        self._heap: list[tuple[float, int, Picture]] = []
        self._order = itertools.count()

    def offer(
        self, sample: AuditSample, mask: np.ndarray, finding: Finding, row: dict[str, Any]
    ) -> None:
        """Draw a mask if it is among the worst so far."""
        full = len(self._heap) >= self._limit
        if full and (not self._limit or finding.severity <= self._heap[0][0]):
            return
        entry = (finding.severity, -next(self._order), draw(sample.image, mask, finding, row))
        if full:
            heapq.heappushpop(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)

    def pictures(self) -> list[Picture]:
        """The pictures, the worst mask first."""
        return [picture for _, _, picture in sorted(self._heap, key=lambda e: (-e[0], -e[1]))]


def draw(
    image: np.ndarray | None, mask: np.ndarray, finding: Finding, row: dict[str, Any]
) -> Picture:
    """Draw one mask: the image, the given outlines, the suggested outlines with wrong pixels.

    Of a volume the slice along its first axis with the most wrong pixels is shown, or with the
    most drawn ones where none looks wrong.

    Example:
        `draw(image, mask, examine(probabilities, mask, rule), {}).uri()`
    """
    cut = None
    suggested, wrong = finding.suggested, finding.wrong
    if mask.ndim == 3:
        counts = (wrong if wrong.any() else mask > 0).sum(axis=(1, 2))
        cut = int(counts.argmax())
        image = None if image is None else image[cut]
        mask, suggested, wrong = mask[cut], suggested[cut], wrong[cut]
    base = np.full((*mask.shape, 3), 60.0) if image is None else _grey_or_colour(image)
    size = _shown_size(mask.shape)
    base, mask, suggested = (_scaled(part, size) for part in (base, mask, suggested))
    wrong = _scaled(wrong, size)
    base[mask < 0] = (base[mask < 0] + _VEIL) / 2
    panels = [base, _outlined(base, mask), _outlined(_marked(base, wrong), suggested)]
    shown = panels if image is not None else panels[1:]
    kinds = tuple((item.kind, item.given, item.suggested) for item in finding.objects)
    numbers = {finding.worst_class, *(k for _, *pair in kinds for k in pair if k)}
    return Picture(row, kinds, tuple(sorted(numbers)), _png(shown), cut, image is not None)


def draw_panels(image: np.ndarray, mask: np.ndarray, *, reference: np.ndarray) -> bytes:
    """Draw an image and, beside it, the outlines of a mask, with the pixels that differ hatched.

    Args:
        image: (*S, channels); of a volume the slice with the largest objects is shown.
        mask: (*S), -1 void.
        reference: (*S), what the mask is compared with.
    """
    if mask.ndim == 3:
        cut = int((reference > 0).sum(axis=(1, 2)).argmax())
        image, mask, reference = image[cut], mask[cut], reference[cut]
    size = _shown_size(mask.shape)
    base, mask, reference = (_scaled(p, size) for p in (_grey_or_colour(image), mask, reference))
    base[mask < 0] = (base[mask < 0] + _VEIL) / 2
    wrong = (mask != reference) & (mask >= 0)
    return _png([base, _outlined(_marked(base, wrong), mask)])


def _grey_or_colour(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 255], without letting single extreme pixels darken the rest."""
    shown = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    low, high = np.percentile(shown, (0.5, 99.5))
    return np.clip((shown - low) / max(high - low, 1e-12), 0, 1) * 255


def _shown_size(size: tuple[int, ...]) -> tuple[int, int]:
    """Small masks are enlarged by whole factors, so that their pixels stay squares."""
    longest = max(size)
    if longest <= _EDGE:
        return size[0] * (_EDGE // longest), size[1] * (_EDGE // longest)
    return max(1, size[0] * _EDGE // longest), max(1, size[1] * _EDGE // longest)


def _scaled(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour: labels must stay labels."""
    rows = np.arange(size[0]) * part.shape[0] // size[0]
    columns = np.arange(size[1]) * part.shape[1] // size[1]
    return part[rows[:, None], columns]


def _outlined(base: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the inner border of each object in the colour of its class, on a dark line."""
    shown = base.copy()
    labels = np.where(mask > 0, mask, 0)
    padded = np.pad(labels, 1)
    inner = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    border = (labels > 0) & np.any([side != labels for side in inner], axis=0)
    around = np.pad(border, 1)
    shadow = around[1:-1, :-2] | around[1:-1, 2:] | around[:-2, 1:-1] | around[2:, 1:-1]
    shown[shadow & ~border] *= 0.35
    for label in np.unique(labels[border]):
        shown[border & (labels == label)] = colour(int(label))
    return shown


def _marked(base: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Hatch the pixels that look wrong: stripes are seen without telling colours apart."""
    shown = base.copy()
    stripes = np.add.outer(np.arange(wrong.shape[0]), np.arange(wrong.shape[1])) % 6 < 3
    shown[wrong & stripes] = _MARK
    shown[wrong & ~stripes] = 0.6 * shown[wrong & ~stripes] + 0.4 * _MARK
    return shown


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, 0 to 255."""
    text = BRIGHT[(label - 1) % len(BRIGHT)]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _png(panels: Sequence[np.ndarray]) -> bytes:
    gap = np.full((panels[0].shape[0], 4, 3), 255.0)
    strip = [part for panel in panels for part in (gap, panel)][1:]
    picture = Image.fromarray(np.concatenate(strip, axis=1).round().astype(np.uint8))
    reduced = picture.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
    stream = io.BytesIO()
    reduced.save(stream, "PNG", optimize=True)
    return stream.getvalue()
