"""A network whose layers are the steps of a proximal method, with learned steps and penalties."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.optimize._arguments import check_arguments, invalid_argument, is_whole
from keras_robustseg.optimize._monotone import norm_bound
from keras_robustseg.optimize._potts_operators import (
    classes_first,
    classes_last,
    project_simplex_classes,
)

PENALTIES = ("l1", "nonnegative_l1", "simplex")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class UnrolledProximalNetwork(keras.layers.Layer):
    """So many steps of forward-backward splitting on a problem that is learned.

        min over x   1/2 ||A x - y||^2 + g(x),      x_{t+1} = prox_{s_t g}(x_t - s_t A'(A x_t - y))

    for inputs y (B, *S, ch), with A a convolution (with zeros at the border) from `channels` codes
    to ch channels, and x_0 = 0. g is `"l1"`, sum_k lambda_k |x_k| (convolutional sparse coding;
    Gregor and LeCun, "Learning fast approximations of sparse coding", ICML 2010), the same with
    x >= 0, or that x is on the simplex at each pixel with costs lambda_k x_k: a labelling in
    `channels` classes. Learned are A, lambda >= 0 and a step s_t for each t, kept in
    (0, 2 / L) with L >= ||A||^2, so each step is averaged and the problem is the same for all.

    Differentiated by unrolling: plain steps, no momentum, whose unrolled derivatives converge
    (Bolte, Pauwels and Vaiter, NeurIPS 2022). (B, *S, ch) -> (B, *S, channels), S of 1 to 3 axes.
    Computed in float32, also under mixed precision.

    Args:
        channels: of the codes x, 2 or more on the simplex.
        kernel_size: of A, an odd number.
        steps: how many.
        penalty: `"l1"`, `"nonnegative_l1"` or `"simplex"`.
        initial_penalty: what lambda starts from, above 0.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a number or a choice out of range, or an input whose axes do not fit.

    Example:
        ```python
        image = keras.Input((64, 64, 1))
        codes = layers.UnrolledProximalNetwork(32, kernel_size=7, steps=8)(image)
        model = keras.Model(image, keras.layers.Conv2D(4, 3, padding="same")(codes))
        ```
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 5,
        steps: int = 8,
        penalty: str = "nonnegative_l1",
        *,
        initial_penalty: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.channels, self.kernel_size, self.steps = channels, kernel_size, steps
        self.penalty, self.initial_penalty = penalty, float(initial_penalty)
        _check(self)

    def build(self, input_shape: Any) -> None:
        """Create A, the penalties and the steps for inputs (B, *S, ch)."""
        axes = len(input_shape) - 2
        if axes not in (1, 2, 3):
            raise invalid_argument("inputs", "shape (B, *S, ch) with 1 to 3 axes S", input_shape)
        shape = (*(self.kernel_size,) * axes, self.channels, input_shape[-1])
        scale = 1.0 / math.sqrt(self.channels * self.kernel_size**axes)
        normal = keras.initializers.RandomNormal(stddev=scale)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=normal)
        start = keras.initializers.Constant(math.log(math.expm1(self.initial_penalty)))
        self.raw_penalty = self.add_weight(
            name="raw_penalty", shape=(self.channels,), initializer=start
        )
        self.raw_steps = self.add_weight(name="raw_steps", shape=(self.steps,), initializer="zeros")
        self.built = True

    @property
    def penalties(self) -> Any:
        """Lambda (channels,)."""
        return ops.softplus(ops.convert_to_tensor(self.raw_penalty))

    @property
    def step_sizes(self) -> Any:
        """The step s_t of each t, between 0 and 2 / L."""
        kernel = ops.convert_to_tensor(self.kernel)
        largest = ops.maximum(ops.square(norm_bound(kernel)), 1e-12)
        return 2.0 * ops.sigmoid(ops.convert_to_tensor(self.raw_steps)) / largest

    def synthesis(self, codes: Any) -> Any:
        """A x (B, *S, ch)."""
        kernel = ops.convert_to_tensor(self.kernel)
        return ops.conv(codes, kernel, padding="same", data_format="channels_last")

    def analysis(self, field: Any) -> Any:
        """A' y (B, *S, channels)."""
        kernel = ops.convert_to_tensor(self.kernel)
        kernel = ops.swapaxes(ops.flip(kernel, tuple(range(len(kernel.shape) - 2))), -1, -2)
        return ops.conv(field, kernel, padding="same", data_format="channels_last")

    def call(self, inputs: Any) -> Any:
        """Return the codes x (B, *S, channels) after the last step."""
        inputs, sizes = ops.cast(inputs, self.compute_dtype), self.step_sizes
        start = sizes[0] * self.analysis(inputs)
        codes = self.proximal(start, sizes[0])
        for t in range(1, self.steps):
            slope = self.analysis(self.synthesis(codes) - inputs)
            codes = self.proximal(codes - sizes[t] * slope, sizes[t])
        return codes

    def proximal(self, codes: Any, step: Any) -> Any:
        """The proximal map of `step` times g."""
        least = step * self.penalties
        if self.penalty == "l1":
            return ops.sign(codes) * ops.relu(ops.abs(codes) - least)
        if self.penalty == "nonnegative_l1":
            return ops.relu(codes - least)
        return classes_last(project_simplex_classes(classes_first(codes - least)))

    def objective(self, codes: Any, inputs: Any) -> Any:
        """The value of the learned problem at codes that satisfy its constraints, (B,)."""
        axes = tuple(range(1, len(inputs.shape)))
        squares = ops.sum(ops.square(self.synthesis(codes) - inputs), axis=axes)
        return 0.5 * squares + ops.sum(self.penalties * ops.abs(codes), axis=axes)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (B, *S, channels)."""
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = ("channels", "kernel_size", "steps", "penalty", "initial_penalty")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _check(layer: UnrolledProximalNetwork) -> None:
    """Refuse numbers and choices out of their range."""
    least = 2 if layer.penalty == "simplex" else 1
    size = layer.kernel_size
    check_arguments(
        (
            ("penalty", layer.penalty in PENALTIES, f"one of {PENALTIES}", layer.penalty),
            (
                "channels",
                is_whole(layer.channels) and layer.channels >= least,
                f">= {least}",
                layer.channels,
            ),
            ("kernel_size", is_whole(size) and size % 2 == 1, "an odd number", size),
            ("steps", is_whole(layer.steps), "a whole number >= 1", layer.steps),
            ("initial_penalty", 0 < layer.initial_penalty < math.inf, "> 0", layer.initial_penalty),
        )
    )
