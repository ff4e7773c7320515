"""Dice of the mean test image and of the worst tenth, for finished runs.

python benchmarks/worst_images.py RUN [RUN ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_robustseg._run_build import build_source, split_indices
from keras_robustseg.metrics import dice
from keras_robustseg.models import predict_probabilities
from keras_robustseg.run import recipe_of


def test_dice(run: Path) -> np.ndarray:
    """Mean over foreground classes of the Dice of each test image that has one."""
    recipe = recipe_of(run)
    source = build_source(recipe)
    network = keras.saving.load_model(run / "network.keras", compile=False)
    found = []
    for index in split_indices(recipe, source, "test"):
        example = source.load(index)
        truth = example.mask if example.truth is None else example.truth
        mask = predict_probabilities(network, example.image).argmax(axis=-1)
        scores = np.asarray(dice(mask, truth, len(source.classes)))[1:]
        if np.isfinite(scores).any():
            found.append(np.nanmean(scores))
    return np.sort(found)


def main() -> None:
    """Print one line a run."""
    for name in sys.argv[1:]:
        scores = test_dice(Path(name))
        worst = scores[: max(1, len(scores) // 10)]
        print(f"{name}: mean {scores.mean():.3f}, worst tenth {worst.mean():.3f}")


if __name__ == "__main__":
    main()
