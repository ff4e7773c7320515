"""`check`: every kind of damage, each named with file, value, count, first position, expected."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_files import SIZE, blob, write_nifti, write_nnunet, write_pairs
from PIL import Image

from keras_robustseg.data import (
    Example,
    FolderSource,
    NpzSource,
    Sample,
    Source,
    check,
    guard,
    guard_listing,
)
from keras_robustseg.errors import DataError

CLASSES = ["background", "cell"]


def _mask(root: Path, name: str) -> np.ndarray:
    return np.array(Image.open(root / "masks" / f"{name}.png"))


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _out_of_range(root: Path) -> None:
    mask = _mask(root, "00")
    mask[4, 3] = mask[9, 0] = 7
    Image.fromarray(mask).save(root / "masks" / "00.png")


def _wrong_size(root: Path) -> None:
    Image.fromarray(_mask(root, "01")[:-1]).save(root / "masks" / "01.png")


def _truncated(root: Path) -> None:
    _half(root / "images" / "02.png")


def _float(root: Path) -> None:
    mask = _mask(root, "03").astype(np.float32)
    (root / "masks" / "03.png").unlink()
    np.save(root / "masks" / "03.npy", mask)


def _between(root: Path) -> None:
    mask = _mask(root, "04").astype(np.float64)
    mask[2, 1] = 0.5
    (root / "masks" / "04.png").unlink()
    np.save(root / "masks" / "04.npy", mask)


def _jpeg(root: Path) -> None:
    Image.fromarray(255 * _mask(root, "05")).save(root / "masks" / "05.jpg")
    (root / "masks" / "05.png").unlink()


def _palette(root: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[6, 2:4] = 1
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(root / "masks" / "06.png")


def _colour(root: Path) -> None:
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[3, 5] = (255, 0, 0)
    Image.fromarray(mask).save(root / "masks" / "07.png")


def _nan(root: Path) -> None:
    pixels = np.zeros(SIZE, np.float32)
    pixels[8, 1:4] = np.nan
    (root / "images" / "08.png").unlink()
    np.save(root / "images" / "08.npy", pixels)


def _no_mask(root: Path) -> None:
    (root / "masks" / "09.png").unlink()


def _no_image(root: Path) -> None:
    (root / "images" / "10.png").unlink()


def _twice(root: Path) -> None:
    shutil.copy(root / "images" / "11.png", root / "images" / "11.tif")


def _case(root: Path) -> None:
    for part in ("images", "masks"):
        (root / part / "12.png").rename(root / part / "Cell.png")
        shutil.copy(root / part / "Cell.png", root / part / "cell.png")


def _channels(root: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "images" / "13.png")


def _empty(root: Path) -> None:
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / "14.png")


def _void(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(root / "masks" / "15.png")


def _link(root: Path) -> None:
    (root / "images" / "16.png").unlink()
    (root / "images" / "16.png").symlink_to(root / "gone.png")


def _web_page(root: Path) -> None:
    (root / "masks" / "17.png").write_text("<!DOCTYPE html>")


def _text(root: Path) -> None:
    (root / "images" / "notes.txt").write_text("hello")


def _sixteen(root: Path) -> None:
    Image.fromarray(_mask(root, "18")).save(root / "masks" / "18.tif")
    _half(root / "masks" / "18.tif")
    (root / "masks" / "18.png").unlink()


PIXELS = SIZE[0] * SIZE[1]
# damage -> kind, file, value, count, first position, part of `expected`
DAMAGE = [
    (_out_of_range, "label_out_of_range", "masks/00.png", "7", 2, (4, 3), "0 (background)"),
    (_wrong_size, "wrong_size", "masks/01.png", "(11, 9)", None, None, "(12, 9)"),
    (_truncated, "unreadable", "images/02.png", None, None, None, "a complete PNG"),
    (_float, "float_mask", "masks/03.npy", "float32", PIXELS, (0, 0), "an integer type"),
    (_between, "non_integer_mask", "masks/04.npy", "0.5", 1, (2, 1), "whole numbers"),
    (_jpeg, "jpeg_mask", "masks/05.jpg", "JPEG with", ..., ..., "lossless"),
    (_palette, "palette_mask", "masks/06.png", "1", 2, (6, 2), "palette: true"),
    (_colour, "colour_mask", "masks/07.png", "(255, 0, 0)", 1, (3, 5), "a grey picture"),
    (_nan, "not_finite", "images/08.npy", "NaN (3)", 3, (8, 1, 0), "finite numbers"),
    (_no_mask, "missing_partner", "images/09.png", None, None, None, "a mask named 09"),
    (_no_image, "missing_partner", "masks/10.png", None, None, None, "an image named 10"),
    (_twice, "duplicate_id", "images/11.tif", "11", 2, None, "one file per name"),
    (_case, "duplicate_id", "images/cell.png", "cell", 2, None, "names that differ"),
    (_channels, "mixed_channels", "images/13.png", "3 channels", None, None, "1"),
    (_empty, "empty_mask", "masks/14.png", "background", PIXELS, None, "another class"),
    (_void, "void_mask", "masks/15.png", "void", PIXELS, None, "some pixels"),
    (_link, "missing_file", "images/16.png", None, None, None, "a readable file"),
    (_web_page, "unreadable", "masks/17.png", None, None, None, "a complete PNG"),
    (_text, "unknown_file", "images/notes.txt", ".txt", None, None, None),
    (_sixteen, "unreadable", "masks/18.tif", None, None, None, "a complete TIFF"),
]
WARNINGS = {"empty_mask", "void_mask", "unknown_file"}


def test_one_pass_lists_every_damage(tmp_path, rng):
    """Twenty kinds of damage in one folder: each is reported exactly, and nothing else is."""
    write_pairs(tmp_path, rng, number=40)
    for damage, *_ in DAMAGE:
        damage(tmp_path)
    report = check(FolderSource(tmp_path, classes=CLASSES, void=255))
    found = {(p.kind, str(Path(p.file).relative_to(tmp_path))): p for p in report.problems}
    assert set(found) == {(kind, file) for _, kind, file, *_ in DAMAGE}
    assert len(report.problems) == len(DAMAGE)
    for _, kind, file, value, count, first, expected in DAMAGE:
        problem = found[kind, file]
        assert (problem.value or "").startswith(value or ""), problem
        assert count in (..., problem.count), problem
        assert first in (..., problem.first_position), problem
        assert (expected or "") in (problem.expected or ""), problem
        assert problem.warning == (kind in WARNINGS), problem


def test_the_text_is_aligned_and_short(tmp_path, rng):
    """At most 20 lines per kind, then how many more; names relative to the folder; JSON too."""
    write_pairs(tmp_path, rng, number=40)
    for index in range(25):
        (tmp_path / "masks" / f"{index:02d}.png").unlink()
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(tmp_path / "masks" / "30.png")
    report = check(FolderSource(tmp_path, classes=CLASSES))
    lines = report.text().splitlines()
    assert lines[0] == "40 samples (28 train, 4 val, 8 test); sizes 12x9"
    assert sum(line.startswith("  images/") for line in lines) == 20
    assert "  ... and 5 more" in lines
    assert any(line.startswith("missing_partner: 25 errors: ") for line in lines)
    row = next(line for line in lines if line.startswith("  masks/30.png"))
    header = lines[lines.index(row) - 1]
    assert header.index("count") == row.index("108")
    assert header.index("first") == row.index("[0, 0]")
    assert lines[-1].startswith("total: 26 errors, 0 warnings, of 2 kinds")
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["ok"], data["errors"], data["kinds"]["missing_partner"]) == (False, 26, 25)
    assert data["counts"]["samples"] == {"train": 28, "val": 4, "test": 8}


def test_a_sound_folder_has_no_problems_and_right_counts(tmp_path, rng):
    """Pixels per class and split are those of the files."""
    write_pairs(tmp_path, rng)
    source = FolderSource(tmp_path, classes=CLASSES)
    report = check(source)
    assert report.problems == ()
    assert report.text().endswith("no problems found")
    cells = sum(int(_mask(tmp_path, source.samples[i].id).sum()) for i in source.split("train"))
    expected = {"void": 0, "background": 7 * PIXELS - cells, "cell": cells}
    assert report.counts["pixels"]["train"] == expected


def test_whole_set_problems(tmp_path, rng):
    """A class absent from train is an error, from test a warning; groups may not cross."""
    write_pairs(tmp_path, rng, number=6)
    for index in range(5):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "masks" / f"{index:02d}.png")
    table = {f"{i:02d}": split for i, split in enumerate(["train"] * 3 + ["test"] * 3)}
    (tmp_path / "s.json").write_text(json.dumps(table))
    source = FolderSource(tmp_path, classes=CLASSES, split_file=tmp_path / "s.json", group="^0")
    with pytest.raises(DataError, match="0: is in more than one split"):
        guard_listing(source)
    report = check(source)
    assert [(p.kind, p.file, p.value, p.count) for p in report.errors] == [
        ("group_crosses_splits", "0", "3 train, 3 test", 6),
        ("class_absent", "train", "class cell", 0),
    ]
    assert [(p.kind, p.file) for p in report.warnings][:1] == [("empty_split", "val")]
    assert report.counts["empty_masks"] == 5


def test_mixed_spacing_is_a_warning(tmp_path, rng):
    """One warning per unusual spacing, with the number of files."""
    for index, width in enumerate([1.0, 1.0, 1.0, 2.5, 2.5]):
        for part in ("images", "masks"):
            path = tmp_path / part / f"{index}.nii.gz"
            write_nifti(path, blob(rng, 2, (4, 6, 5)), spacing=(width, 1, 1))
    (problem,) = check(FolderSource(tmp_path, classes=CLASSES)).problems
    assert (problem.kind, problem.value, problem.count) == ("mixed_spacing", "(2.5, 1.0, 1.0)", 2)
    assert (problem.expected, problem.warning) == ("(1.0, 1.0, 1.0)", True)


def test_bare_folders_are_guessed(tmp_path, rng):
    """Images and masks with values 0 and 255, nnU-Net, and npz, without a recipe."""
    write_pairs(tmp_path / "a", rng)
    for file in (tmp_path / "a" / "masks").iterdir():
        Image.fromarray(255 * np.array(Image.open(file))).save(file)
    stray = _mask(tmp_path / "a", "03")
    stray[0, 0] = 4
    Image.fromarray(stray).save(tmp_path / "a" / "masks" / "03.png")
    report = check(tmp_path / "a")
    assert report.notes == ("layout: images and masks; classes guessed from the masks: 0, 255",)
    (problem,) = report.problems
    assert (problem.kind, problem.value, problem.count) == ("label_out_of_range", "4", 1)
    write_nnunet(tmp_path / "b", rng)
    assert check(tmp_path / "b").problems == ()
    masks = blob(rng, 3, (9, 8, 7))
    np.savez(tmp_path / "c.npz", image=rng.normal(size=(9, 8, 7, 1)), mask=masks)
    assert check(tmp_path / "c.npz").errors == ()
    for name, message in (("none", "not found"), ("empty", "no folder of images")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (problem,) = check(tmp_path / name).problems
        assert problem.kind == "layout"
        assert message in problem.message


def test_names_that_are_no_text(tmp_path, rng):
    """A file name of bytes that are no UTF-8 does not stop the listing or the printing."""
    write_pairs(tmp_path, rng, number=4)
    name = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    (tmp_path / "images" / name).write_bytes(b"no picture")
    report = check(FolderSource(tmp_path, classes=CLASSES, val=0.3, test=0.3))
    assert {p.kind for p in report.problems} == {"unreadable", "missing_partner"}
    assert "images/\\udcff\\udcfe.png" in report.text()
    assert json.dumps(report.to_dict()).encode()


def test_decoders_do_not_write_beside_the_report(tmp_path, rng, caplog):
    """nibabel logs what it trips over without the file's name; the report has it all."""
    write_nnunet(tmp_path, rng, number=3)
    path = tmp_path / "labelsTr" / "case1.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[70:72] = b"\xff\x7f"
    path.write_bytes(gzip.compress(bytes(content)))
    found = [p.file for p in check(tmp_path).errors if p.kind == "unreadable"]
    assert found == [str(path)]
    assert caplog.records == []


def test_npz_samples_are_checked_alike(tmp_path, rng):
    """NaN pixels and wrong labels in an archive name the sample."""
    image, mask = rng.normal(size=(5, 8, 7, 1)), blob(rng, 2, (5, 8, 7))
    image[1, 2, 3, 0], mask[3, 4, 5] = np.inf, 6
    np.savez(tmp_path / "c.npz", image=image, mask=mask)
    report = check(NpzSource(tmp_path / "c.npz", classes=CLASSES))
    label, pixel = report.errors
    assert (label.file, label.value) == (f"{tmp_path}/c.npz: sample 3", "6")
    assert label.first_position == (4, 5)
    assert (pixel.file, pixel.value) == (f"{tmp_path}/c.npz: sample 1", "infinity (1)")
    assert pixel.first_position == (2, 3, 0)


class _OneSample(Source):
    """A source that hands out what it is given: stands for any source of the package."""

    classes = ("background", "cell")
    samples = (Sample("a", "train", "image a", "mask a"),)

    def __init__(self, example: Example) -> None:
        self.example = example

    def load(self, index: int) -> Example:
        return self.example


def _example(**changes: object) -> Example:
    sound = {
        "image": np.zeros((4, 3, 1), np.float32),
        "mask": np.ones((4, 3, 1), np.int16),
        "truth": None,
        "spacing": (1.0, 1.0),
    }
    return Example(**(sound | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.full((4, 3, 1), np.nan)}, r"image a: .*got NaN \(12\), 12 times"),
        ({"image": np.full((4, 3, 1), 3e38, np.float32) * [[[1], [2], [1]]]}, None),
        ({"image": np.zeros((4, 3, 2))}, "image a: .*got 2 channels, expected 1"),
        ({"image": np.zeros((4, 3))}, "image a: wrong number of axes"),
        ({"mask": np.full((4, 3, 1), 2)}, r"mask a: .*got 2, 12 times, first at \[0, 0, 0\]"),
        ({"mask": np.full((4, 3, 2), -2)}, "mask a: .*expected 0 to 1, or -1 for void"),
        ({"mask": np.ones((3, 4, 1), int)}, r"mask a: .*got \(3, 4\), expected \(4, 3\)"),
        ({"mask": np.ones((4, 3, 1))}, "mask a: is not made of integers, got float64"),
        ({"truth": np.full((4, 3), 5)}, "mask a: has values that are no class, got 5"),
        ({"spacing": (1.0, 0.0)}, "image a: has a pixel size"),
        ({"spacing": (1.0,)}, "expected 2 positive numbers"),
        ({}, None),
    ],
)
def test_the_guard_of_training_is_the_one_of_check(changes, message):
    """For any source, `guard` raises what `check` reports, and lets sound samples through."""
    source = _OneSample(_example(**changes))
    _, problems = source.inspect(0)
    if message is None:
        guard(source.load(0), source.samples[0], source)
        assert problems == []
    else:
        with pytest.raises(DataError, match=message):
            guard(source.load(0), source.samples[0], source)
        assert problems[0] in check(source).problems
