"""The two reference networks with their images, and fresh random networks of any shape."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import keras
import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "attacks"
VOID = 255


@cache
def golden(name):
    """The arrays of a file as a dictionary."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@cache
def reference_network(name, dtype="float32"):
    """Network A (3 classes, ReLU) or B (5 classes, SiLU) with the weights of the golden set."""
    weights = golden(f"weights_{name}")
    options = {"padding": "same", "dtype": dtype}
    act = {"A": "relu", "B": "silu"}[name]
    x = image = keras.Input((None, None, 3), dtype=dtype)
    x = keras.layers.Rescaling(8.0, -4.0, dtype=dtype)(x)
    for i, dilation in enumerate(weights["dilations"].tolist()):
        filters = weights[f"conv{i}_bias"].size
        x = keras.layers.Conv2D(
            filters, 3, dilation_rate=dilation, activation=act, name=f"conv{i}", **options
        )(x)
    x = keras.layers.Conv2D(weights["head_bias"].size, 1, name="head", **options)(x)
    model = keras.Model(image, x)
    for layer in model.layers[2:]:
        layer.set_weights([weights[f"{layer.name}_kernel"], weights[f"{layer.name}_bias"]])
    return model


def random_network(classes, spatial=2, activation=None, width=8, channels=2, seed=0, dtype=None):
    """A small fresh network with logits, or with a softmax or sigmoid at its end."""
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[spatial]
    start = [keras.initializers.RandomNormal(stddev=0.3, seed=seed + i) for i in range(3)]
    options = {"padding": "same", "dtype": dtype}
    x = image = keras.Input((*[None] * spatial, channels))
    x = keras.layers.Rescaling(4.0, -2.0, dtype=dtype)(x)
    x = conv(width, 3, activation="silu", kernel_initializer=start[0], **options)(x)
    x = conv(width, 3, activation="silu", kernel_initializer=start[1], **options)(x)
    x = conv(classes, 1, activation=activation, kernel_initializer=start[2], **options)(x)
    return keras.Model(image, x)


def random_problem(model, shape, rng, void=0.1):
    """Random images, the model's own classes as labels, and some void pixels (-1)."""
    images = rng.uniform(size=shape).astype("float32")
    output = np.asarray(model(images))
    labels = output.argmax(-1) if output.shape[-1] > 1 else (output[..., 0] > 0).astype("int64")
    labels[rng.random(labels.shape) < void] = -1
    return images, labels
