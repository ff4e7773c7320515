"""Initial weights that are the same on every backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_robustseg")
class SeededHeNormal(keras.initializers.Initializer):
    """Normal weights of variance 2 / fan_in (He et al. 2015, eq. 10), drawn by NumPy.

    The backends of Keras turn one seed into different numbers; NumPy's Philox does not, so a
    recipe starts from the same network on TensorFlow and on JAX.

    Args:
        seed: integers; layers of one network need different ones.

    Example:
        `keras.layers.Conv2D(8, 3, kernel_initializer=SeededHeNormal([0, 1]))`
    """

    def __init__(self, seed: list[int]) -> None:
        self.seed = [int(part) for part in seed]

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        fan_in = math.prod(shape[:-1])
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed)))
        values = generator.normal(0.0, math.sqrt(2.0 / fan_in), shape)
        return ops.cast(values.astype("float32"), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"seed": self.seed}
