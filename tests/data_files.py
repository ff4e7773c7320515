"""Writes the small data sets that the tests of `data` read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 9)


def blob(rng: np.random.Generator, classes: int = 2, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """A uint8 mask in which every class occurs."""
    mask = rng.integers(0, classes, size, dtype=np.uint8)
    mask.reshape(-1)[:classes] = np.arange(classes)
    return mask


def write_pairs(root: Path, rng: np.random.Generator, *, number: int = 10) -> None:
    """`root/images/NN.png` and `root/masks/NN.png`, two classes."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index in range(number):
        pixels = rng.integers(0, 255, SIZE, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index:02d}.png")
        Image.fromarray(blob(rng)).save(root / "masks" / f"{index:02d}.png")


def write_nifti(
    path: Path, pixels: np.ndarray, *, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> None:
    """A NIfTI file of `pixels` `(D, H, W)`, with `spacing` along D, H, W."""
    import nibabel

    affine = np.diag([*spacing[::-1], 1.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(pixels.transpose(), affine), path)


def write_nnunet(
    root: Path, rng: np.random.Generator, *, number: int = 5, **fields: object
) -> None:
    """A two-channel 3-D data set in the raw layout of nnU-Net, with an ignore label."""
    for index in range(number):
        for channel in range(2):
            pixels = rng.normal(size=(4, 6, 5)).astype(np.float32)
            write_nifti(root / "imagesTr" / f"case{index}_{channel:04d}.nii.gz", pixels)
        mask = blob(rng, 4, (4, 6, 5))
        write_nifti(root / "labelsTr" / f"case{index}.nii.gz", mask)
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "tumour": 1, "oedema": 2, "ignore": 3},
        "numTraining": number,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content | fields))
