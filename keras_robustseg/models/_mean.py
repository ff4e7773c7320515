"""Several networks in one: the mean of their predictions, as a network that can be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_robustseg")
class MeanPrediction(keras.layers.Layer):
    """Logits whose probabilities are the mean of those of several logits.

        z = log( 1/n sum_j softmax(z_j) )

    and, for a single binary logit, the logit of the mean of the sigmoids.

    Shapes: a list of (B, *S, C) -> (B, *S, C), float32.

    Example:
        `MeanPrediction()([first(image), second(image)])`
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return the logits of the mean."""
        logits = ops.stack([ops.cast(z, "float32") for z in inputs])
        if logits.shape[-1] > 1:
            return _log_mean(ops.log_softmax(logits, axis=-1))
        inside, outside = (-ops.softplus(sign * logits) for sign in (-1.0, 1.0))
        return _log_mean(inside) - _log_mean(outside)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        """Return the shape of one of the inputs."""
        return input_shape[0]


def _log_mean(log_p: Any) -> Any:
    return ops.logsumexp(log_p, axis=0) - ops.log(float(log_p.shape[0]))


def mean_of_networks(networks: Sequence[keras.Model], name: str = "mean") -> keras.Model:
    """Return a network whose probabilities are the mean of those of several networks.

    It shares their weights. Of networks with several outputs the first counts.

    Args:
        networks: networks with the same input and the same classes.
        name: name of the new network.

    Example:
        `mean_of_networks([first, second]).export("served")`
    """
    shape = networks[0].inputs[0].shape[1:]
    image = keras.Input(shape, dtype=networks[0].inputs[0].dtype, name="image")
    outputs = [network(image) for network in networks]
    main = [out[0] if isinstance(out, (list, tuple)) else out for out in outputs]
    return keras.Model(image, MeanPrediction(name="mean_prediction")(main), name=name)
