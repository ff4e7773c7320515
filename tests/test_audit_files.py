"""Predictions in files: every layout, streamed, and corrected masks in the format of the given."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from audit_cells import cells, predict
from data_files import write_nifti
from PIL import Image

from keras_robustseg import audit
from keras_robustseg.data import FolderSource, NpzSource
from keras_robustseg.errors import DataError, StateError
from keras_robustseg.report import open_predictions


def arrays(rng, number=4, shape=(20, 18), classes=3, dtype=np.float32):
    truth = np.stack([cells(rng, shape, classes) for _ in range(number)])
    given = truth.astype(np.uint8)
    given[0][truth[0] > 0] = 0  # all objects of the first are missing
    p = np.stack([predict(t, classes, rng, noise=0.3) for t in truth]).astype(dtype)
    return {"probabilities": p, "mask": given, "image": rng.random((*truth.shape, 1))}, truth


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_archive_of_all_samples(rng, tmp_path, save, dtype):
    parts, truth = arrays(rng, dtype=dtype)
    save(tmp_path / "p.npz", **parts, id=list("dcba"), classes=["background", "one", "two"])
    report = audit(tmp_path / "p.npz")
    assert report.images[0]["id"] == "d"
    assert {row["class"] for row in report.classes} == {"background", "one", "two"}
    out = tmp_path / "p-audit"
    with np.load(out / "corrected_masks" / "d.npz") as file:
        assert file["mask"].dtype == np.uint8
        assert (file["mask"] != truth[0]).mean() < (parts["mask"][0] != truth[0]).mean() / 3
    assert report.images[0]["missing"] == sum(row["id"] == "d" for row in report.objects)


def test_a_folder_of_archives_in_three_dimensions_with_readers_and_void(rng, tmp_path):
    parts, _ = arrays(rng, shape=(6, 16, 14))
    for index in range(4):
        mask = np.repeat(parts["mask"][index][..., None], 3, axis=-1).astype(np.int16)
        mask[..., 1] = np.roll(mask[..., 1], 3, axis=1)
        mask[0] = 255
        mask[1, :, :, 2] = -1
        if index == 2:
            mask[..., 2] = -1  # did not look at this one
        np.savez(
            tmp_path / f"{index}.npz",
            probabilities=parts["probabilities"][index],
            mask=mask,
            spacing=(2.0, 1.0, 1.0),
        )
    report = audit(tmp_path, tmp_path / "out")
    assert report.summary["masks"] == 11
    assert [row["reader"] for row in report.readers] == [0, 1, 2]
    worst = max(report.readers, key=lambda row: row["severity"])
    assert worst["reader"] == 1
    with np.load(tmp_path / "out" / "corrected_masks" / "1.npz") as file:
        assert (file["mask"][0] == 255).all()
        assert file["spacing"].tolist() == [2, 1, 1]


@pytest.mark.parametrize("void", [-1, 255, 7])
def test_what_lies_under_void_changes_nothing(rng, tmp_path, void):
    parts, _ = arrays(rng)
    masks = parts["mask"].astype(np.int16)
    masks[:, :5] = void
    rows = []
    for number in range(2):
        p = parts["probabilities"].copy()
        p[:, :5] = rng.dirichlet(np.ones(3), p[:, :5].shape[:-1])
        np.savez(tmp_path / f"{number}.npz", probabilities=p, mask=masks)
        ignored = 7 if void == 7 else None
        rows.append(audit(tmp_path / f"{number}.npz", ignore_class=ignored).images)
        with np.load(tmp_path / f"{number}-audit" / "corrected_masks" / "0.npz") as file:
            assert (file["mask"][:5] == void).all()
    assert rows[0] == rows[1]


def folder_of(tmp_path, rng, write):
    """A data folder, probabilities in another one, and the true masks."""
    parts, truth = arrays(rng, classes=2)
    (tmp_path / "p" / "sub").mkdir(parents=True)
    for index in range(4):
        name = f"sub/{index}" if index else "0"
        image = (255 * parts["image"][index, ..., 0]).astype(np.uint8)
        path = tmp_path / "data" / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        write(tmp_path / "data" / "masks" / name, parts["mask"][index])
        np.save(tmp_path / "p" / f"{name}.npy", parts["probabilities"][index])
    return truth


def grey(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask * 255).save(path.with_suffix(".png"))


def palette(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    picture.putpalette([9, 8, 7, 200, 100, 50])
    picture.save(path.with_suffix(".png"))


@pytest.mark.parametrize(
    ("write", "fields"),
    [(grey, {"values": {0: 0, 255: 1}}), (palette, {"palette": True})],
    ids=["values", "palette"],
)
def test_masks_of_a_folder_come_back_as_they_are_stored(rng, tmp_path, write, fields):
    folder_of(tmp_path, rng, write)
    source = FolderSource(tmp_path / "data", classes=("background", "cell"), **fields)
    report = audit(tmp_path / "p", tmp_path / "out", data=source)
    assert report.images[0]["id"] == "0"
    given = Image.open(tmp_path / "data" / "masks" / "0.png")
    found = Image.open(tmp_path / "out" / "corrected_masks" / "0.png")
    assert (found.mode, found.size) == (given.mode, given.size)
    assert found.getpalette() == given.getpalette()
    value = max(fields.get("values", {1: 1}))
    assert set(np.unique(np.asarray(found)).tolist()) == {0, value}


def test_the_data_may_be_named_by_path(rng, tmp_path):
    folder_of(tmp_path, rng, grey)
    assert audit(tmp_path / "p", data=tmp_path / "data").summary["masks"] == 4


def test_nifti_keeps_its_geometry(rng, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    parts, _ = arrays(rng, number=2, shape=(8, 14, 12), classes=2)
    (tmp_path / "p").mkdir()
    for index in range(2):
        for kind, pixels in (
            ("images", parts["image"][index, ..., 0]),
            ("masks", parts["mask"][index]),
        ):
            path = tmp_path / "data" / kind / f"{index}.nii.gz"
            write_nifti(path, pixels.astype(np.uint8), spacing=(2.5, 0.7, 0.7))
        np.save(tmp_path / "p" / f"{index}.npy", parts["probabilities"][index])
    source = FolderSource(tmp_path / "data", classes=("background", "cell"))
    audit(tmp_path / "p", tmp_path / "out", data=source)
    given, found = (
        nibabel.load(tmp_path / folder / "0.nii.gz")
        for folder in ("data/masks", "out/corrected_masks")
    )
    np.testing.assert_array_equal(found.affine, given.affine)
    assert found.header.get_zooms() == given.header.get_zooms()
    assert found.get_data_dtype() == given.get_data_dtype()
    assert found.get_fdata().sum() > given.get_fdata().sum()


def test_an_archive_larger_than_the_memory_that_is_used(rng, tmp_path):
    """Twice the samples need no more memory: they are read one at a time."""
    peaks = []
    for number in (4, 24):
        parts, _ = arrays(rng, number=number, shape=(64, 64), classes=4)
        np.savez_compressed(tmp_path / f"{number}.npz", **parts)
        tracemalloc.start()
        audit(tmp_path / f"{number}.npz", overlays=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one = 64 * 64 * 4 * 4
    assert peaks[1] < peaks[0] + 4 * one


# Bad input ----------------------------------------------------------------------


def bad_arrays(rng, **changes):
    parts, _ = arrays(rng, number=2)
    return {**parts, **{key: make(parts[key]) for key, make in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": np.log}, "softmax"),
        ({"probabilities": lambda p: p * 0.5}, "sum to"),
        ({"probabilities": lambda p: np.moveaxis(p, -1, 1)}, "classes last|sum to"),
        ({"probabilities": lambda p: p.astype(int)}, "floating point"),
        ({"probabilities": lambda p: np.where(p > 0.9, np.nan, p)}, "NaN"),
        ({"mask": lambda m: m + 3}, "expected 0 to 2"),
        ({"mask": lambda m: m.astype(float)}, "expected integers"),
        ({"mask": lambda m: m[:, 1:]}, "as the probabilities"),
        ({"mask": lambda m: m[1:]}, "equal numbers"),
        ({"image": lambda i: i[:, :, 1:]}, "an image of shape"),
        ({"mask": lambda m: np.full_like(m, 255)}, "not void"),
    ],
)
def test_bad_predictions_are_named_and_nothing_is_written(rng, tmp_path, changes, message):
    np.savez(tmp_path / "p.npz", **bad_arrays(rng, **changes))
    with pytest.raises(DataError, match=message):
        audit(tmp_path / "p.npz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_what_is_missing_is_said(rng, tmp_path):
    with pytest.raises(DataError, match="not found, expected a run directory"):
        open_predictions(tmp_path / "none")
    with pytest.raises(DataError, match=r"no \.npz file"):
        open_predictions(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match="--data"):
        open_predictions(tmp_path)
    np.savez(tmp_path / "a.npz", probabilities=np.zeros((1, 2, 2, 2)))
    with pytest.raises(DataError, match="expected 'mask'"):
        open_predictions(tmp_path / "a.npz")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"a file \.txt"):
        open_predictions(tmp_path / "a.txt")
    parts, _ = arrays(rng, number=2)
    np.savez(tmp_path / "b.npz", **parts, id=["x", "x"])
    with pytest.raises(DataError, match="different names"):
        open_predictions(tmp_path / "b.npz")


def test_a_file_that_names_no_sample_is_an_error(rng, tmp_path):
    parts, _ = arrays(rng, number=2)
    np.savez(tmp_path / "data.npz", image=parts["image"], mask=parts["mask"])
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p" / "other.npy", parts["probabilities"][0])
    source = NpzSource(tmp_path / "data.npz", classes=("a", "b", "c"))
    with pytest.raises(DataError, match="'other', which names no sample"):
        open_predictions(tmp_path / "p", source)


def test_a_damaged_archive_leaves_nothing_behind(rng, tmp_path):
    parts, _ = arrays(rng)
    np.savez(tmp_path / "p.npz", **parts)
    content = (tmp_path / "p.npz").read_bytes()
    at = len(content) // 3
    (tmp_path / "p.npz").write_bytes(content[:at] + b"\0" * 200 + content[at + 200 :])
    with pytest.raises(DataError, match=r"p\.npz"):
        audit(tmp_path / "p.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_audit_never_replaces_anything(rng, tmp_path):
    parts, _ = arrays(rng, number=2)
    np.savez(tmp_path / "p.npz", **parts)
    (tmp_path / "out").mkdir()
    audit(tmp_path / "p.npz", tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(StateError, match="is not empty"):
        audit(tmp_path / "p.npz", tmp_path / "out")
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(StateError, match="is a file"):
        audit(tmp_path / "p.npz", tmp_path / "p.npz")
