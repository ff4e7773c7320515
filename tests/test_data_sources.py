"""FolderSource, NnunetSource, NpzSource: what they find, load, split and write back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_files import SIZE, blob, write_nifti, write_nnunet, write_pairs
from PIL import Image

from keras_robustseg.data import (
    FolderSource,
    NnunetSource,
    NpzSource,
    guard_listing,
    source_from_config,
)
from keras_robustseg.errors import DataError

CLASSES = ["background", "cell"]


def test_folder_pairs_by_name_and_loads(tmp_path, rng):
    """Ten pairs, split 7/1/2 by default; images and masks are those of the files."""
    root = tmp_path / "my cells é"
    write_pairs(root, rng)
    source = FolderSource(root, classes=CLASSES)
    assert [s.id for s in source.samples] == [f"{i:02d}" for i in range(10)]
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [7, 1, 2]
    assert (source.dims, source.channels, source.listing_problems) == (2, 1, ())
    example = source.load(3)
    pixels = np.asarray(Image.open(root / "images" / "03.png"))
    np.testing.assert_array_equal(example.image[..., 0], pixels)
    given = np.asarray(Image.open(root / "masks" / "03.png"))
    np.testing.assert_array_equal(example.mask[..., 0], given)
    assert (example.image.dtype, example.mask.dtype) == (np.float32, np.int16)
    assert (example.spacing, example.truth) == ((1.0, 1.0), None)


@pytest.mark.parametrize("layout", ["images/train", "train/images"])
def test_splits_by_folders(tmp_path, rng, layout):
    """Both orders of the folder names give the same splits."""
    for folder in ("train", "valid", "test"):
        write_pairs(tmp_path / "pairs" / folder, rng, number=3)
        for part in ("images", "masks"):
            target = layout.replace("images", part).replace("train", folder)
            (tmp_path / "set" / target).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "pairs" / folder / part).rename(tmp_path / "set" / target)
    source = FolderSource(tmp_path / "set", classes=CLASSES)
    assert {s.id: s.split for s in source.samples}["valid/01"] == "val"
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [3, 3, 3]
    assert source.load(0).mask.shape == (*SIZE, 1)


def test_split_file_and_groups(tmp_path, rng):
    """A CSV decides; without it all slices of a patient are in one split."""
    write_pairs(tmp_path, rng, number=12)
    for index in range(12):
        for part in ("images", "masks"):
            file = tmp_path / part / f"{index:02d}.png"
            file.rename(file.with_name(f"pat{index // 3}_{index % 3}.png"))
    source = FolderSource(tmp_path, classes=CLASSES, group="(pat[0-9]+)_", val=0.25, test=0.25)
    by_split = [{source.samples[i].group for i in source.split(n)} for n in ("train", "val")]
    assert by_split[0].isdisjoint(by_split[1])
    assert sorted(len(source.split(n)) for n in ("train", "val", "test")) == [3, 3, 6]
    (tmp_path / "s.csv").write_text("id,split\npat0_0,test\npat0_1,train\n")
    source = FolderSource(tmp_path, classes=CLASSES, split_file=tmp_path / "s.csv")
    assert [(s.id, s.split) for s in source.samples] == [("pat0_0", "test"), ("pat0_1", "train")]
    assert {p.kind for p in source.listing_problems} == {"not_in_split"}


@pytest.mark.parametrize("form", ["folders", "suffixes"])
def test_several_readers(tmp_path, rng, form):
    """One mask per reader; a reader who gave none is -1 everywhere."""
    write_pairs(tmp_path, rng, number=3)
    given = {}
    for file in sorted((tmp_path / "masks").iterdir()):
        for reader in range(3):
            mask = given[file.stem, reader] = blob(rng)
            target = tmp_path / "masks" / f"{file.stem}_r{reader}.png"
            if form == "folders":
                target = tmp_path / f"reader{reader}" / file.name
                target.parent.mkdir(exist_ok=True)
            Image.fromarray(mask).save(target)
        file.unlink()
    target.unlink()
    masks = "masks" if form == "suffixes" else [f"reader{r}" for r in range(3)]
    source = FolderSource(tmp_path, classes=CLASSES, masks=masks)
    stack = source.load(2).mask
    assert stack.shape == (*SIZE, 3)
    np.testing.assert_array_equal(stack[..., 1], given["02", 1])
    assert (stack[..., 2] == -1).all()
    np.testing.assert_array_equal(source.load(0).mask[..., 2], given["00", 2])


def test_channels_in_several_files_and_one_folder(tmp_path, rng):
    """`x_t1`, `x_t2` and `x_seg` side by side make two channels and a mask, values mapped."""
    for case in ("a", "b"):
        for channel in ("t1", "t2"):
            np.save(tmp_path / f"{case}_{channel}.npy", rng.normal(size=SIZE))
        np.save(tmp_path / f"{case}_seg.npy", 255 * blob(rng))
    source = FolderSource(
        tmp_path,
        images=".",
        masks=".",
        classes=CLASSES,
        mask_suffix="_seg",
        image_suffixes=["_t1", "_t2"],
        values={0: 0, 255: 1},
        spacing=[0.5, 0.5],
    )
    assert [s.id for s in source.samples] == ["a", "b"]
    assert source.channels == 2
    example = source.load(1)
    np.testing.assert_array_equal(
        example.image[..., 1], np.load(tmp_path / "b_t2.npy").astype(np.float32)
    )
    assert example.spacing == (0.5, 0.5)
    written = source.save_mask(1, 1 - example.mask[..., 0], tmp_path / "out" / "b")
    np.testing.assert_array_equal(np.load(written), 255 - np.load(tmp_path / "b_seg.npy"))


def test_volumes_in_folders(tmp_path, rng):
    """3-D NIfTI: number of axes and spacing come from the files."""
    for index in range(3):
        volume = rng.normal(size=(4, 6, 5)).astype(np.float32)
        write_nifti(tmp_path / "images" / f"{index}.nii.gz", volume, spacing=(2, 1, 1))
        write_nifti(tmp_path / "masks" / f"{index}.nii.gz", blob(rng, 2, (4, 6, 5)))
    source = FolderSource(tmp_path, classes=CLASSES)
    assert (source.dims, source.channels) == (3, 1)
    with pytest.raises(DataError, match="lies elsewhere in the scanner"):
        source.load(0)
    for index in range(3):
        mask = blob(rng, 2, (4, 6, 5))
        write_nifti(tmp_path / "masks" / f"{index}.nii.gz", mask, spacing=(2, 1, 1))
    example = FolderSource(tmp_path, classes=CLASSES).load(2)
    assert example.spacing == (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(example.mask[..., 0], mask)


def test_what_is_not_there_is_said(tmp_path, rng):
    """A missing folder and a folder without images are errors at once."""
    with pytest.raises(DataError, match="images: got nothing there, expected a folder"):
        FolderSource(tmp_path, classes=CLASSES)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="there is no image in this folder"):
        FolderSource(tmp_path, classes=CLASSES)
    write_pairs(tmp_path / "p", rng, number=3)
    (tmp_path / "p" / "images" / "00.png").unlink()
    with pytest.raises(DataError, match=r"masks/00.png: has no image"):
        guard_listing(FolderSource(tmp_path / "p", classes=CLASSES))


def test_nnunet(tmp_path, rng):
    """Channels by number, classes by value, `ignore` is void, geometry kept on saving."""
    write_nnunet(tmp_path, rng)
    source = NnunetSource(tmp_path)
    assert source.classes == ("background", "tumour", "oedema")
    assert (source.dims, source.channels, len(source.samples)) == (3, 2, 5)
    assert source.listing_problems == ()
    example = source.load(0)
    assert example.image.shape == (4, 6, 5, 2)
    assert example.mask.min() == -1
    written = source.save_mask(0, example.mask[..., 0], tmp_path / "corrected" / "case0")
    again = NnunetSource(tmp_path).code
    from keras_robustseg.data._files import read

    mask, _ = again.decode(read(written), 3, written)
    np.testing.assert_array_equal(mask, example.mask[..., 0])


def test_nnunet_test_cases_need_labels(tmp_path, rng):
    """imagesTs without labelsTs is no test split; with it, it is the whole test split."""
    write_nnunet(tmp_path, rng)
    for channel in range(2):
        volume = rng.normal(size=(4, 6, 5)).astype(np.float32)
        write_nifti(tmp_path / "imagesTs" / f"new_{channel:04d}.nii.gz", volume)
    source = NnunetSource(tmp_path)
    assert "new" not in {s.id for s in source.samples}
    assert len(source.split("test")) == 1
    write_nifti(tmp_path / "labelsTs" / "new.nii.gz", blob(rng, 3, (4, 6, 5)))
    source = NnunetSource(tmp_path)
    assert [source.samples[i].id for i in source.split("test")] == ["new"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "labels.whole: .*region label"),
        ({"labels": {"0": "background"}}, "labels.0: got 'background'"),
        ({"labels": {"a": 1, "b": 1}}, "different numbers, with background 0"),
        ({"file_ending": ".mha"}, "file_ending: got '.mha', expected one of"),
        ({"channel_names": []}, "channel_names: got"),
    ],
)
def test_wrong_dataset_json(tmp_path, rng, fields, message):
    """Each wrong field is named with what was got and expected."""
    write_nnunet(tmp_path, rng, number=1, **fields)
    with pytest.raises(DataError, match=message):
        NnunetSource(tmp_path)


def test_nnunet_counts_and_missing_channels(tmp_path, rng):
    """numTraining, a lost channel and a lost label are all listed."""
    write_nnunet(tmp_path, rng, numTraining=7)
    (tmp_path / "imagesTr" / "case1_0001.nii.gz").unlink()
    (tmp_path / "labelsTr" / "case2.nii.gz").unlink()
    source = NnunetSource(tmp_path)
    kinds = [(p.kind, p.value, p.expected) for p in source.listing_problems]
    assert kinds == [("missing_partner", None, "case1_0001"), ("layout", "7", "5")]
    with pytest.raises(DataError, match="has no mask"):
        source.load(2)


def _fields(rng: np.random.Generator, readers: int = 0) -> dict[str, np.ndarray]:
    shape = (6, 8, 7)
    masks = np.stack([blob(rng, 3, shape) for _ in range(max(readers, 1))], -1).astype(np.int8)
    return {
        "image": rng.normal(size=(*shape, 2)),
        "mask": masks if readers else masks[..., 0],
        "truth": blob(rng, 3, shape),
        "split": np.array([0, 0, 0, 1, 2, 2]),
        "id": np.array(list("uvwxyz")),
        "spacing": np.array([0.7, 0.7]),
    }


@pytest.mark.parametrize("readers", [0, 4])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_npz(tmp_path, rng, readers, form):
    """One archive or one per sample: the same samples, masks, truth, spacing and splits."""
    fields = _fields(rng, readers)
    fields["mask"].reshape(6, -1)[2, 3] = -1
    path = tmp_path / "set"
    if form == "archive":
        np.savez_compressed(path, **fields)
        path = tmp_path / "set.npz"
    else:
        path.mkdir()
        for index, name in enumerate(fields["id"]):
            each = {key: fields[key][index] for key in ("image", "mask", "truth", "split")}
            np.savez(path / f"{name}.npz", spacing=fields["spacing"], **each)
    source = NpzSource(path, classes=["a", "b", "c"])
    assert [(s.id, s.split) for s in source.samples][2:4] == [("w", "train"), ("x", "val")]
    assert (source.dims, source.channels) == (2, 2)
    example = source.load(2)
    np.testing.assert_array_equal(example.image, fields["image"][2].astype(np.float32))
    expected = fields["mask"][2] if readers else fields["mask"][2][..., np.newaxis]
    np.testing.assert_array_equal(example.mask, expected)
    np.testing.assert_array_equal(example.truth, fields["truth"][2])
    assert example.spacing == (0.7, 0.7)
    written = source.save_mask(2, example.mask[..., 0], tmp_path / "out")
    with np.load(written) as saved:
        np.testing.assert_array_equal(saved["mask"], expected[..., 0])
        assert saved["mask"].dtype == np.int8


def test_npz_volumes_and_wrong_archives(tmp_path, rng):
    """3-D without channels; damaged and ill-fitting archives are refused by name."""
    volume = rng.normal(size=(2, 9, 8, 7))
    np.savez(tmp_path / "v.npz", image=volume, mask=blob(rng, 2, volume.shape))
    source = NpzSource(tmp_path / "v.npz", classes=CLASSES, val=0.0, test=0.0)
    assert (source.dims, source.load(1).image.shape) == (3, (9, 8, 7, 1))
    content = (tmp_path / "v.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    np.savez(tmp_path / "short.npz", image=volume, mask=np.zeros((3, 9, 8, 7), int))
    np.savez(tmp_path / "lone.npz", image=volume)
    np.savez(tmp_path / "o.npz", image=volume, mask=np.array([{}, {}], dtype=object))
    for name, message in (
        ("half", "cannot be read as NPZ"),
        ("short", "image 2, mask 3 samples"),
        ("lone", "expected 'mask' among them"),
        ("o", "never unpickled"),
        ("none", "not found"),
    ):
        with pytest.raises(DataError, match=f"{name}.npz: .*{message}"):
            NpzSource(tmp_path / f"{name}.npz", classes=CLASSES)


def test_registry(tmp_path, rng):
    """Recipe fields build a source; a wrong kind or field names the nearest one."""
    write_pairs(tmp_path, rng, number=3)
    config = json.loads(
        json.dumps({"kind": "folder", "root": str(tmp_path), "classes": CLASSES, "void": None})
    )
    assert len(source_from_config(config).samples) == 3
    for change, message in (
        ({"kind": "foldre"}, "did you mean 'folder'"),
        ({"maks": "m"}, "source.maks: .*did you mean 'masks'"),
    ):
        with pytest.raises(DataError, match=message):
            source_from_config(config | change)
    with pytest.raises(DataError, match=r"source\.classes: is missing"):
        source_from_config({"kind": "folder", "root": str(tmp_path)})
