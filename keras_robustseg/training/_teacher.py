"""The moving average of a network's weights, and what it predicts."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Teacher(keras.layers.Layer):
    """Weights that follow a network's, w' <- d w' + (1 - d) w, and their prediction.

    Statistics of normalisation layers are averaged like every other weight (averaged weights with
    the last batch's statistics fit neither network); what is not a float is copied. The decay
    rises as d = min(decay, (1 + t)/(10 + t)) over steps t, so that the first weights are soon
    forgotten. The weights belong to the trainer, and no exported network has them.

    Args:
        network: any built `keras.Model`.
        decay: d after the ramp, in (0, 1).
        name: layer name.
    """

    def __init__(self, network: keras.Model, decay: float, *, name: str = "teacher") -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.decay = decay
        # In a function, where Keras does not see it: the network is no part of its teacher.
        self._followed = lambda: network
        for number, variable in enumerate(network.weights):
            self._copy(variable, number)
        self.built = True

    def _copy(self, variable: Any, number: int) -> None:
        own = self.add_weight(
            name=f"average_{number}",
            shape=variable.shape,
            dtype=variable.dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        own.assign(variable)

    def _pairs(self) -> Any:
        """The network's variables, each with its average."""
        return zip(self._followed().weights, self.weights, strict=True)

    def predict(self, x: Any) -> Any:
        """Return the averaged network's main output for the inputs of a batch."""
        image = x["image"] if isinstance(x, dict) else x
        network = self._followed()
        own = {id(variable): average for variable, average in self._pairs()}
        trainable, rest = (
            [own.get(id(v), v).value for v in variables]
            for variables in (network.trainable_variables, network.non_trainable_variables)
        )
        outputs, _ = network.stateless_call(trainable, rest, image, training=False)
        return outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    def averages(self, step: Any, values: Any) -> list[tuple[Any, Any]]:
        """Return each weight of the teacher and what it becomes after a step.

        Args:
            step: steps done so far, t.
            values: a function from a variable to the value that it has after the step.
        """
        ramp = (1.0 + ops.cast(step, "float32")) / (10.0 + ops.cast(step, "float32"))
        decay = ops.minimum(ramp, self.decay)
        return [
            (own, _mean(values(own), values(followed), decay)) for followed, own in self._pairs()
        ]

    def follow(self, step: Any, finite: Any) -> None:
        """Take one step of the average; nothing where the training step was not finite."""
        for own, value in self.averages(step, lambda v: v.value):
            own.assign(ops.where(finite, value, own.value))


def _mean(average: Any, value: Any, decay: Any) -> Any:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)):
        return value
    decay = ops.cast(decay, average.dtype)
    return decay * average + (1.0 - decay) * value
