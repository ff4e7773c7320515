"""The layer of a fitted quadratic classifier."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_robustseg")
class QuadraticScores(keras.layers.Layer):
    """Class scores that are quadratic in the features of a pixel, (..., F) -> (..., C).

        score_k = -1/2 |R_k (x - m_k)|^2 + b_k

    Args:
        classes: C.

    Example:
        `QuadraticScores(3)(features)`
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not classes >= 2:
            raise ValueError(f"Expected at least 2 classes. Received: classes={classes!r}")
        self.classes = int(classes)

    def build(self, input_shape: Any) -> None:
        """Make means (C, F), roots R (C, F, F) of the precisions, and biases (C,)."""
        features = int(input_shape[-1])
        c = self.classes
        self.means = self.add_weight(shape=(c, features), initializer="zeros", name="means")
        self.roots = self.add_weight(
            shape=(c, features, features), initializer="zeros", name="roots"
        )
        self.bias = self.add_weight(shape=(c,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Return the scores."""
        away = ops.expand_dims(inputs, -2) - ops.cast(self.means, inputs.dtype)
        turned = ops.einsum("...cf,cgf->...cg", away, ops.cast(self.roots, inputs.dtype))
        return -0.5 * ops.sum(ops.square(turned), axis=-1) + ops.cast(self.bias, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Return (..., C)."""
        return (*input_shape[:-1], self.classes)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "classes": self.classes}
