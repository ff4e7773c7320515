"""The audit: average precision against planted errors, time and memory, beside cleanlab.

    python benchmarks/audit.py             # drawn cells with synthetic beliefs
    python benchmarks/audit.py --cost      # time and memory
    python benchmarks/audit.py --trained   # 2-fold out-of-fold predictions of a small U-Net,
                                           # minutes: LIDC (rendered images) and ICBM152 (MRI)

A mask counts as wrong where its Dice with the truth, a mean over classes, is below .8; a pixel
where its class is not the true one. cleanlab: `get_label_quality_scores` (softmin) for masks, p[y]
for pixels. Needs cleanlab and scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import ndimage
from scipy.special import softmax
from sklearn.metrics import average_precision_score

from keras_robustseg.data import Icbm152TissueSource, LidcSource, noise
from keras_robustseg.metrics import dice
from keras_robustseg.report import (
    audit,
    image_severity,
    open_predictions,
    pixel_severity,
    self_confidence,
)
from keras_robustseg.report._audit_passes import ClassLevels

PLANTED = {
    "dilate": noise.dilate((2, 5)),
    "erode": noise.erode((2, 4)),
    "shift": noise.shift((3, 7)),
    "missing": noise.missing(0.5),
    "extra": noise.extra((1, 3), radius=(3, 7)),
    "class_flip": noise.class_flip(0.6, num_classes=4),
}
WRONG = 0.8
SPEED = (60, 256, 256, 4)


def cells(rng: np.random.Generator, size: int = 96, count: int = 6, classes: int = 4) -> np.ndarray:
    """Discs of several classes on background."""
    rows, columns = np.indices((size, size))
    truth = np.zeros((size, size), np.int16)
    for number in range(count):
        y, x, radius = *rng.uniform(10, size - 10, 2), rng.uniform(5, 12)
        truth[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1 + number % (classes - 1)
    return truth


def belief(truth: np.ndarray, rng: np.random.Generator, classes: int = 4) -> np.ndarray:
    """Blurred truth, with smooth noise on the logits."""
    hot = np.eye(classes)[truth]
    rough = ndimage.gaussian_filter(rng.normal(size=hot.shape), (2, 2, 0))
    logits = np.log(ndimage.gaussian_filter(hot, (1.5, 1.5, 0)) + 0.005) + rough / rough.std()
    return softmax(logits, axis=-1).astype(np.float32)


def precision(p: np.ndarray, masks: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Average precision of both methods, for masks and for pixels."""
    from cleanlab.segmentation.rank import get_label_quality_scores

    classes = p.shape[-1]
    good = [np.nanmean(dice(m, t, classes)[1:]) for m, t in zip(masks, truths, strict=True)]
    bad, wrong = np.array(good) < WRONG, (masks != truths).ravel()
    theirs, _ = get_label_quality_scores(masks, np.moveaxis(p, -1, 1).copy(), verbose=False)
    levels = ClassLevels(classes)
    for pair in zip(p, masks, strict=True):
        levels.add(*pair)
    pairs = list(zip(p, masks, strict=True))
    ours = [image_severity(*pair, levels.haze) for pair in pairs]
    pixels = [pixel_severity(*pair, image_severity=s) for pair, s in zip(pairs, ours, strict=True)]
    confidence = [1 - self_confidence(*pair) for pair in pairs]
    found = bad.any()  # extra objects alone may leave every Dice above .8
    return {
        "label Dice": float(np.mean(good)),
        "wrong masks": float(bad.mean()),
        "masks, cleanlab": average_precision_score(bad, 1 - theirs) if found else np.nan,
        "masks, ours": average_precision_score(bad, ours) if found else np.nan,
        "pixels, cleanlab": average_precision_score(wrong, np.concatenate(confidence).ravel()),
        "pixels, ours": average_precision_score(wrong, np.concatenate(pixels).ravel()),
    }


def show(name: str, row: dict[str, float]) -> None:
    """Prints a row; the header before the first."""
    if not getattr(show, "begun", False):
        print(f"{'':18}" + "".join(f"{key:>18}" for key in row))
        show.begun = True
    print(f"{name:18}" + "".join(f"{value:18.3f}" for value in row.values()), flush=True)


def planted(number: int) -> None:
    """Each kind of noise on half of the masks, and all kinds together."""
    for kind in (*PLANTED, "mixed"):
        rng = np.random.default_rng(0)
        truths = np.stack([cells(rng) for _ in range(number)])
        kinds = list(PLANTED.values())
        masks = truths.copy()
        for index in range(0, number, 2):
            make = kinds[index // 2 % len(kinds)] if kind == "mixed" else PLANTED[kind]
            masks[index] = make(truths[index], seed=index)
        p = np.stack([belief(truth, rng) for truth in truths])
        show(kind, precision(p, masks, truths))


# Out-of-fold predictions ----------------------------------------------------------

NODULES = [
    (noise.dilate((2, 5)), 0.15),
    (noise.erode((2, 4)), 0.12),
    (noise.shift((3, 7)), 0.12),
    (noise.missing(1.0), 0.09),
    (noise.extra(1, radius=(4, 8)), 0.06),
]
TISSUE = [
    (noise.dilate((1, 3), classes=[2]), 0.12),
    (noise.erode((1, 3), classes=[3]), 0.12),
    (noise.dilate((1, 3), classes=[1]), 0.12),
    (noise.shift((2, 5)), 0.12),
    (noise.class_flip(0.5, num_classes=4), 0.08),
    (noise.elastic(), 0.12),
]


def trained(steps: int) -> None:
    """Predicts each half of the samples by a network that learned from the other, noisy half."""
    jobs = {
        "LIDC": (LidcSource(), NODULES, 0),
        "ICBM152 tissue": (Icbm152TissueSource(downsample=2), TISSUE, 0),
    }
    for name, (source, parts, seed) in jobs.items():
        examples = [source.load(index) for index in range(len(source.samples))]
        truths = [e.mask[..., 0] if e.truth is None else e.truth for e in examples]
        kept = [i for i, truth in enumerate(truths) if (truth > 0).sum() >= 20]
        make = noise.mixture(parts)
        masks = np.stack([make(truths[i], seed=(seed, i)) for i in kept])
        images = np.stack([examples[i].image for i in kept])
        classes = len(source.classes)
        p = out_of_fold(images, masks.astype(np.int32), classes, seed, steps)
        show(name, precision(p, masks, np.stack([truths[i] for i in kept])))


def out_of_fold(
    images: np.ndarray, masks: np.ndarray, classes: int, seed: int, steps: int
) -> np.ndarray:
    """Class probabilities (N, H, W, C)."""
    import keras

    from keras_robustseg.losses import CrossEntropyDice
    from keras_robustseg.models import unet

    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(images)) % 2
    p = np.zeros((*masks.shape, classes), np.float32)
    images = (images - images.mean()) / images.std()
    for held in (0, 1):
        keras.utils.set_random_seed(10 * seed + held)
        network = unet((None, None, 1), classes, width=8, depth=4, seed=10 * seed + held)
        network.compile(keras.optimizers.Adam(5e-3), CrossEntropyDice())
        learned = np.flatnonzero(fold != held)
        epochs = -(-steps // (len(learned) // 16))
        for epoch in range(epochs):
            if epoch == int(0.6 * epochs):
                network.optimizer.learning_rate = 1e-3
            batch = rng.permutation(learned)[: len(learned) // 16 * 16]
            flips = [tuple(np.flatnonzero(rng.random(2) < 0.5)) for _ in batch]
            x, y = (
                np.stack([np.flip(part[i], f) for i, f in zip(batch, flips, strict=True)])
                for part in (images, masks)
            )
            network.fit(x, y, batch_size=16, verbose=0)
        logits = network.predict(images[fold == held], batch_size=16, verbose=0)
        p[fold == held] = softmax(logits, axis=-1)
    return p


# Time and memory --------------------------------------------------------------------


def make_file(path: Path, number: int) -> None:
    """A stored archive of random probabilities and masks."""
    rng = np.random.default_rng(0)
    truths = np.stack([cells(rng, SPEED[1], 40) for _ in range(number)])
    p = np.stack([belief(truth, rng) for truth in truths])
    make = noise.mixture([(kind, 1 / len(PLANTED)) for kind in PLANTED.values()])
    masks = np.stack([make(truth, seed=i) for i, truth in enumerate(truths)])
    np.savez(path, probabilities=p, mask=masks.astype(np.int64))


def child(what: str, path: str) -> None:
    """Prints seconds and peak memory of one process."""
    start = time.perf_counter()
    if what == "cleanlab":
        from cleanlab.segmentation.filter import find_label_issues
        from cleanlab.segmentation.rank import get_label_quality_scores

        with np.load(path) as file:
            masks, p = file["mask"], np.moveaxis(file["probabilities"], -1, 1).copy()
        find_label_issues(masks, p, verbose=False, n_jobs=1)
        get_label_quality_scores(masks, p, verbose=False)
    elif what != "nothing":
        audit(open_predictions(path), method=what)
    seconds = time.perf_counter() - start
    # Not ru_maxrss: it counts what the parent held when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(f"{seconds:.1f} {peak / 1024:.0f}")


def cost(rounds: int) -> None:
    """Times and peak memory of our two methods and of cleanlab, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        for number in (SPEED[0] // 4, SPEED[0]):
            path = Path(folder) / f"{number}.npz"
            make_file(path, number)
            print(f"{number}x256x256x4")
            found: dict[str, list[list[float]]] = {}
            for _ in range(rounds):
                for what in ("nothing", "regret", "cleanlab"):
                    command = [sys.executable, __file__, "--child", what, str(path)]
                    text = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.setdefault(what, []).append([float(v) for v in text.stdout.split()])
            for what, rows in found.items():
                seconds, memory = np.median(rows, axis=0)
                low, high = np.min(rows, axis=0)[0], np.max(rows, axis=0)[0]
                name = {"nothing": "imports alone", "regret": "audit"}.get(what, what)
                print(f"  {name:14} {seconds:6.1f} s ({low:.1f} to {high:.1f}), {memory:6.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--steps", type=int, default=300, help="training steps a fold")
    parser.add_argument("--number", type=int, default=60, help="drawn masks of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
    elif options.trained:
        trained(options.steps)
    elif options.cost:
        cost(options.rounds)
    else:
        planted(options.number)
