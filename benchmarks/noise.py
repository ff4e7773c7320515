"""Annotation noise: speed of the Markov walk, and agreement of the reader noise with LIDC.

    python benchmarks/noise.py                        # both, readers from tests/golden
    python benchmarks/noise.py --readers READERS.npz  # all held-out slices of a larger file

The walk is timed against a plain loop over pixels of the same process, on the same mask, in pairs
run one after the other; the ratio of each pair is taken, then the median and the quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from keras_robustseg.data import noise
from keras_robustseg.data.noise._markov import walk

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "lidc_readers.npz"


def plain_walk(
    region: np.ndarray, steps: int, theta1: float, theta2: float, rng: np.random.Generator
) -> np.ndarray:
    """The walk as one would first write it, with lists, which Python indexes faster than arrays."""
    height, width = region.shape
    state = [[False] * (width + 2) for _ in range(height + 2)]
    for i, row in enumerate(region.tolist(), start=1):
        state[i][1:-1] = row
    for _ in range(steps):
        expands = bool(rng.random() < theta1)
        flips = []
        for i in range(1, height + 1):
            above, row, below = state[i - 1], state[i], state[i + 1]
            for j in range(1, width + 1):
                if row[j] != expands and (
                    row[j - 1] == expands
                    or row[j + 1] == expands
                    or above[j] == expands
                    or below[j] == expands
                ):
                    flips.append((i, j))
        for (i, j), share in zip(flips, rng.random(len(flips)), strict=True):
            if share < theta2:
                state[i][j] = expands
    return np.array(state)[1:-1, 1:-1]


def seconds(function, *arguments) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def time_walk(pairs: int, size: int = 256, steps: int = 180) -> None:
    """Prints the paired ratio of the plain loop's time to the package's."""
    grid = np.indices((size, size)) - size / 2
    region = (grid**2).sum(axis=0) < (size / 5) ** 2
    plain, fast = [], []
    walk(region, 2, 0.8, 0.05, np.random.default_rng(0))
    for k in range(pairs):
        for function, times in ((plain_walk, plain), (walk, fast)):
            times.append(seconds(function, region, steps, 0.8, 0.05, np.random.default_rng(k)))
    ratio = np.array(plain) / np.array(fast)
    low, median, high = np.quantile(ratio, (0.25, 0.5, 0.75))
    print(f"markov walk, {size} x {size}, T = {steps}, {pairs} pairs")
    print(f"  plain loop {np.median(plain):.3f} s, package {np.median(fast):.4f} s")
    print(
        f"  ratio: median {median:.0f}, quartiles {low:.0f} to {high:.0f}, least {ratio.min():.0f}"
    )


def held_out(path: Path) -> list[np.ndarray]:
    """The masks of those who drew, for each held-out slice that at least two readers drew."""
    with np.load(path) as file:
        keep = file["split"] == 2 if "split" in file else slice(None)
        packed = file["masks" if "masks" in file else "masks_packed"][keep]
        drew = file["drew"][keep]
    masks = np.unpackbits(packed, axis=2).reshape(-1, 4, 64, 64).astype(bool)
    drew &= masks.any(axis=(2, 3))
    return [m[d] for m, d in zip(masks, drew, strict=True) if d.sum() >= 2]


def pair_dice(masks: list[np.ndarray]) -> list[float]:
    """Dice of every pair of masks."""
    return [2.0 * (a & b).sum() / (a.sum() + b.sum()) for a, b in itertools.combinations(masks, 2)]


def compare_readers(path: Path) -> None:
    """Prints quantiles of the pairwise Dice of real and simulated readers."""
    slices, simulate = held_out(path), noise.reader()
    real = [value for masks in slices for value in pair_dice(list(masks))]
    print(f"pairwise Dice, {len(slices)} slices, {len(real)} pairs, quantiles {QUANTILES}")
    print(f"  real readers                     {np.quantile(real, QUANTILES).round(3)}")
    for truth in ("at least half of the readers", "one reader at random"):
        simulated = []
        for number, masks in enumerate(slices):
            chosen = np.random.default_rng(number).integers(len(masks))
            clean = masks.mean(0) >= 0.5 if truth.startswith("at") else masks[chosen]
            noisy = [simulate(clean, seed=(number, k)) > 0 for k in range(len(masks))]
            simulated += pair_dice(noisy)
        print(f"  from {truth:<28}{np.quantile(simulated, QUANTILES).round(3)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--readers", type=Path, default=GOLDEN)
    options = parser.parse_args()
    time_walk(options.pairs)
    compare_readers(options.readers)
