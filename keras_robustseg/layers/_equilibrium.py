"""A layer of infinite depth with one fixed point: the monotone equilibrium network."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.optimize import SolveInfo, SolveRecord
from keras_robustseg.optimize._arguments import check_arguments, invalid_argument, is_whole
from keras_robustseg.optimize._monotone import EquilibriumOptions, MonotoneOperator, equilibrium

SOLVERS = ("peaceman_rachford", "forward_backward")
ADJOINTS = ("splitting", "gmres")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class MonotoneEquilibrium(keras.layers.Layer):
    """The equilibrium z = relu(W z + U x + b) with W = (1 - m) I - A'A + B - B'.

    Winston and Kolter, "Monotone operator equilibrium networks" (NeurIPS 2020): I - W is strongly
    monotone with constant m whatever the weights are, so the equilibrium exists and is unique.
    Found by Peaceman-Rachford or forward-backward splitting; the derivative solves its linear
    system by the same splitting, or GMRES, with iterations of its own: few for the equilibrium give
    a state that is NOT_CONVERGED, whose derivative is solved all the same. It is NaN where its own
    residual stays above `tolerance` and 1 %, so that a trainer skips the step. A Neumann series,
    which diverges for such W, is not offered. Memory does not grow with the iterations.

    Dense, x (B, ..., ch) -> z (B, ..., units) on the last axis; with `kernel_size` A, B and U are
    convolutions with zeros at the border over images (B, H, W, ch) or volumes. Computed in
    float32, also under mixed precision. `optimize.SolveMonitor` shows the certificates in `fit`,
    `layer.solve(x)` returns that of one batch.

    Args:
        units: n, the size of z.
        kernel_size: None for a dense layer, or an odd number.
        margin: m above 0. A small one lets W do more, and takes more iterations.
        solver: `"peaceman_rachford"` (dense only) or `"forward_backward"`, its reflected form
            (Malitsky and Tam 2020) with the step .45 / L, L an upper bound of ||I - W||; by
            default the former where it can be.
        adjoint: `"splitting"` or `"gmres"`.
        iterations: at most so many for the equilibrium.
        tolerance: relative residual, of the equilibrium and of the derivative.
        adjoint_iterations: at most so many for the derivative.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a number or a choice out of range, or an input whose axes do not fit.

    Example:
        ```python
        image = keras.Input((64, 64, 1))
        state = layers.MonotoneEquilibrium(16, kernel_size=3, margin=0.5)(image)
        model = keras.Model(image, keras.layers.Conv2D(4, 1)(state))
        ```
    """

    def __init__(
        self,
        units: int,
        kernel_size: int | None = None,
        margin: float = 0.5,
        solver: str | None = None,
        adjoint: str = "splitting",
        *,
        iterations: int = 2000,
        tolerance: float = 1e-5,
        adjoint_iterations: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.units, self.kernel_size, self.margin = units, kernel_size, float(margin)
        default = "forward_backward" if kernel_size else "peaceman_rachford"
        self.options = EquilibriumOptions(
            solver or default, adjoint, iterations, float(tolerance), adjoint_iterations
        )
        _check(self)
        self.solve_record = SolveRecord()

    def build(self, input_shape: Any) -> None:
        """Create A, B, U and b for inputs (B, ..., ch)."""
        axes = len(input_shape) - 2
        if self.kernel_size is not None and axes not in (1, 2, 3):
            raise invalid_argument("inputs", "shape (B, *S, ch) with 1 to 3 axes S", input_shape)
        window = () if self.kernel_size is None else (self.kernel_size,) * axes
        inner = (*window, self.units, self.units)
        # ||A||^2 and 2 ||B|| start below about 1: few iterations, and room to grow.
        scale = 0.25 / math.sqrt(self.units * math.prod(window))
        start = {"initializer": keras.initializers.RandomNormal(stddev=scale)}
        self.symmetric = self.add_weight(name="symmetric", shape=inner, **start)
        self.skew = self.add_weight(name="skew", shape=inner, **start)
        source = (*window, input_shape[-1], self.units)
        self.input_kernel = self.add_weight(
            name="input_kernel", shape=source, initializer="he_normal"
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.built = True

    @property
    def operator(self) -> MonotoneOperator:
        """W."""
        symmetric, skew = map(ops.convert_to_tensor, (self.symmetric, self.skew))
        return MonotoneOperator(symmetric, skew, self.margin)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the equilibrium (B, ..., units).

        Args:
            inputs: (B, ..., ch).
            training: whether the certificate joins `solve_record`.
        """
        state, info = self.solve(inputs)
        if training:
            self.solve_record.update(info)
        return state

    def solve(self, inputs: Any) -> tuple[Any, SolveInfo]:
        """Return the equilibrium and its certificate, with a figure for each item."""
        inputs = ops.cast(inputs, self.compute_dtype)
        if not self.built:
            self.build(inputs.shape)
        kernel = ops.convert_to_tensor(self.input_kernel)
        if self.kernel_size is None:
            source = ops.matmul(inputs, kernel)
        else:
            source = ops.conv(inputs, kernel, padding="same", data_format="channels_last")
        return equilibrium(self.operator, source + self.bias, self.options)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (B, ..., units)."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("units", "kernel_size", "margin")}
        return {**super().get_config(), **own, **self.options._asdict()}


def _check(layer: MonotoneEquilibrium) -> None:
    """Refuse numbers and choices out of their range."""
    size, options = layer.kernel_size, layer.options
    backward = options.adjoint_iterations
    odd = size is None or (isinstance(size, int) and size > 0 and size % 2 == 1)
    dense = size is None or options.solver == "forward_backward"
    check_arguments(
        (
            ("units", is_whole(layer.units), "a whole number >= 1", layer.units),
            ("kernel_size", odd, "None or an odd number", size),
            ("margin", 0 < layer.margin <= 1, "a number in (0, 1]", layer.margin),
            ("solver", options.solver in SOLVERS, f"one of {SOLVERS}", options.solver),
            ("solver", dense, "'forward_backward' with a kernel_size", options.solver),
            ("adjoint", options.adjoint in ADJOINTS, f"one of {ADJOINTS}", options.adjoint),
            ("iterations", is_whole(options.iterations), "a whole number >= 1", options.iterations),
            ("adjoint_iterations", is_whole(backward), "a whole number >= 1", backward),
            ("tolerance", 0 < options.tolerance < 1, "a number in (0, 1)", options.tolerance),
        )
    )
