"""What every layer that solves a problem is held to, as a part of a network and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np


def is_the_same_saved_and_exported(
    model: keras.Model, image: np.ndarray, layer: str, directory: Path, close: float
) -> None:
    """A saved network predicts the same, an exported one serves the same."""
    import tensorflow as tf

    expected = model.predict(image, verbose=0)
    model.save(directory / "m.keras")
    again = keras.models.load_model(directory / "m.keras")
    np.testing.assert_allclose(again.predict(image, verbose=0), expected, atol=close)
    assert again.get_layer(layer).get_config() == model.get_layer(layer).get_config()
    model.export(directory / "saved", verbose=False)
    loaded = tf.saved_model.load(str(directory / "saved"))
    np.testing.assert_allclose(loaded.serve(image), expected, atol=1e-5)


def are_the_same_compiled(slopes: Callable[[], list[Any]], close: float) -> None:
    """Gradients are those of a function that XLA compiles."""
    import tensorflow as tf

    for found, expected in zip(tf.function(slopes, jit_compile=True)(), slopes(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=close)
