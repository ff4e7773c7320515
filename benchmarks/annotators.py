"""What annotators who draw outlines differently cost, and what confusion matrices win back.

    python benchmarks/annotators.py [--seeds 3] [--epochs 50]

120 discs of 20x20 pixels in noise; five annotators: 1 % flips, outline 2 px too wide, 1 px too
tight, disc in the wrong place, blank; 30 % of the masks missing. Prints the Dice of the network on
test images, against the truth, for cross-entropy on the shares of the annotators, cross-entropy on
masks fused by majority and by STAPLE, and matrices per annotator, global and per pixel.
"""

from __future__ import annotations

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--epochs", type=int, default=50)
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from scipy import ndimage  # noqa: E402

from keras_robustseg.labels import ConfusionMatrices, majority_vote, staple  # noqa: E402
from keras_robustseg.losses import CrossEntropy  # noqa: E402
from keras_robustseg.training import RobustSegmenter  # noqa: E402

SIDE, ANNOTATORS = 20, 5


def discs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, truths, and the masks of the five annotators."""
    axes = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2, indexing="ij"), axis=-1)
    truths = np.stack(
        [
            ((axes - rng.uniform(6, 14, 2)) ** 2).sum(-1) < rng.uniform(3, 5) ** 2
            for _ in range(count)
        ]
    )
    masks = np.stack([drawn(rng, truth) for truth in truths]).astype("int32")
    masks = np.where(rng.random((count, 1, 1, ANNOTATORS)) < 0.3, -1, masks)
    images = truths[..., None] + rng.normal(0, 0.4, (*truths.shape, 1))
    return images.astype("float32"), truths, masks.astype("int32")


def drawn(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """What the five draw of one disc."""
    return np.stack(
        [
            truth ^ (rng.random(truth.shape) < 0.01),
            ndimage.binary_dilation(truth, iterations=2),
            ndimage.binary_erosion(truth),
            np.roll(truth, (5, -5), (0, 1)),
            np.zeros_like(truth),
        ],
        axis=-1,
    )


def network() -> keras.Model:
    """Three small convolutions."""
    image = hidden = keras.Input((SIDE, SIDE, 1))
    for _ in range(2):
        hidden = keras.layers.Conv2D(12, 3, padding="same", activation="relu")(hidden)
    return keras.Model(image, keras.layers.Conv2D(2, 3, padding="same")(hidden))


def methods(masks: np.ndarray) -> dict:
    """Label model and training masks of each row."""
    fused = np.stack([staple(mask, 2).labels for mask in masks])
    rows = {
        "shares": (None, masks),
        "majority": (None, majority_vote(masks, 2)),
        "STAPLE per image": (None, fused),
        "STAPLE of all images": (None, staple(masks, 2).labels),
    }
    for kind in ("global", "pixel"):
        for weight in (0.0, 0.01, 0.1):
            model = ConfusionMatrices(ANNOTATORS, 2, kind=kind, trace_weight=weight)
            rows[f"{kind}, trace {weight:g}"] = (model, masks)
    return rows


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice over all test pixels."""
    return 2 * (prediction & truth).sum() / (prediction.sum() + truth.sum())


def main() -> None:
    """Train every row on every seed."""
    table: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        rng = np.random.default_rng(seed)
        images, _, masks = discs(rng, 120)
        test_images, test_truths, _ = discs(rng, 120)
        for name, (label_model, given) in methods(masks).items():
            keras.utils.set_random_seed(seed)
            model = RobustSegmenter(network(), label_model)
            loss = None if label_model else CrossEntropy()
            model.compile(keras.optimizers.Adam(0.01), loss=loss, jit_compile=False)
            model.fit(images, given, batch_size=16, epochs=arguments.epochs, verbose=0)
            found = model.predict(test_images, verbose=0).argmax(-1) == 1
            table.setdefault(name, []).append(dice(found, test_truths))
            print(f"seed {seed}  {name:22} {table[name][-1]:.3f}", flush=True)
    for name, values in table.items():
        print(f"{name:22} {np.mean(values):.3f} +- {np.std(values):.3f}")


if __name__ == "__main__":
    main()
