"""A layer that gives the labelling of least cost and perimeter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.optimize import PottsOptions, SolveInfo, SolveRecord
from keras_robustseg.optimize._arguments import check_arguments, invalid_argument
from keras_robustseg.optimize._potts import (
    ADJOINTS,
    check_options,
    potts_solution,
    potts_tensors,
    warn_of_one_step,
)

OUTPUTS = ("probabilities", "logits")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class TVSegmentation(keras.layers.Layer):
    """Relaxed Potts segmentation of logits, with learned perimeter weights and an exact derivative.

        u*  =  argmin over u_i in the simplex   - <logits, u> + epsilon/2 ||u||^2
                                                + sum_k lambda_k sum_e w_e |(D u_k)_e|

    Chambolle, Cremers and Pock, "A convex approach to minimal partitions" (SIAM J. Imaging Sci.
    2012), with epsilon as in sparsemax. `optimize.relaxed_potts` has the solver, the certificate
    and the derivative; memory does not grow with the iterations. (B, *S, C) -> (B, *S, C) with S
    of 1 to 3 axes of any size. Computed in float32, also under mixed precision.

    The figures of the solves in training are kept: `optimize.SolveMonitor` shows them in `fit`,
    and `layer.solve(logits)` returns the certificate of one batch.

    Args:
        weight: lambda: `"learned"` (a number per class, kept positive by softplus), or given: a
            number or C numbers, each 0 or more.
        edge_weights: None for w = 1, or `"input"`: the layer takes a second input (B, *S, axes)
            of weights, each 0 or more; at pixel i that of the edge to the next pixel along each
            axis. Negative ones raise, or in a compiled function give NaN.
        epsilon: above 0.
        smoothing: Huber's function instead of |.|, with this dual weight; 0 for none.
        isotropic: penalise the length of the gradient of a pixel instead of each of its edges.
        adjoint: `"implicit"`; `"unrolled"` differentiates all the iterations, `"neumann"` so many
            terms, and `"one_step"` only one, with a warning; or the objects of `optimize` of
            those names, as far as they hold here: the linear solver is conjugate gradients, and
            unrolled steps have no checkpoints.
        initial_weight: what learned weights start from.
        iterations: at most so many; exactly so many where they are unrolled.
        tolerance: duality gap per pixel, relative to 1 + the spread of its logits.
        adjoint_iterations: at most so many in the derivative.
        adjoint_tolerance: relative residual of the derivative's linear system.
        output: `"probabilities"` gives u; `"logits"` log(.99 u + .01 / C), for losses and trainers
            that take logits, to which a probability of 0 would be an infinite loss.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a number or a choice out of range, or inputs that do not fit.

    Example:
        ```python
        network = models.unet((64, 64, 1), 4)
        smooth = layers.TVSegmentation(output="logits")
        model = keras.Model(network.input, smooth(network.output))
        model.compile("adam", losses.CrossEntropy())
        ```
    """

    def __init__(
        self,
        weight: Any = "learned",
        edge_weights: str | None = None,
        epsilon: float = 0.5,
        smoothing: float = 0.0,
        isotropic: bool = False,
        adjoint: Any = "implicit",
        *,
        initial_weight: float = 0.3,
        iterations: int = 500,
        tolerance: float = 1e-6,
        adjoint_iterations: int = 300,
        adjoint_tolerance: float = 1e-6,
        output: str = "probabilities",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.weight = weight if isinstance(weight, str) else np.asarray(weight, "float64").tolist()
        self.edge_weights, self.epsilon = edge_weights, float(epsilon)
        self.initial_weight, self.output_kind = float(initial_weight), output
        options = PottsOptions(
            float(smoothing),
            bool(isotropic),
            iterations,
            float(tolerance),
            "implicit",
            adjoint_iterations,
            float(adjoint_tolerance),
        )
        self.options = _with_adjoint(options, adjoint)
        _check(self)
        self.solve_record = SolveRecord()

    def build(self, logits_shape: Any, edge_weights_shape: Any = None) -> None:
        """Create the learned weights, for logits (B, *S, C)."""
        if isinstance(logits_shape[0], (list, tuple)):
            logits_shape = logits_shape[0]
        classes = logits_shape[-1]
        if self.weight == "learned":
            start = keras.initializers.Constant(math.log(math.expm1(self.initial_weight)))
            self.raw_weight = self.add_weight(
                name="raw_weight", shape=(classes,), initializer=start
            )
        elif np.ndim(self.weight) and np.shape(self.weight) != (classes,):
            raise invalid_argument("weight", f"a number or {classes} numbers", self.weight)
        self.built = True

    @property
    def class_weights(self) -> Any:
        """Lambda: a number per class, or the given one."""
        if self.weight == "learned":
            return ops.softplus(ops.convert_to_tensor(self.raw_weight))
        return ops.convert_to_tensor(self.weight, dtype=self.compute_dtype)

    def call(self, logits: Any, edge_weights: Any = None, training: bool | None = None) -> Any:
        """Return the segmentation (B, *S, C).

        Args:
            logits: (B, *S, C), or the pair [logits, edge_weights].
            edge_weights: (B, *S, axes), with `edge_weights="input"`.
            training: whether the certificate joins `solve_record`.
        """
        labels, info = self.solve(logits, edge_weights)
        if training:
            self.solve_record.update(info)
        if self.output_kind == "probabilities":
            return labels
        return ops.log(0.99 * labels + 0.01 / labels.shape[-1])

    def solve(self, logits: Any, edge_weights: Any = None) -> tuple[Any, SolveInfo]:
        """Return u and its certificate, a `SolveInfo` with a figure for each image."""
        if isinstance(logits, (list, tuple)):
            logits, edge_weights = logits
        if (edge_weights is None) != (self.edge_weights is None):
            raise invalid_argument(
                "edge_weights", f"edge_weights={self.edge_weights!r}", edge_weights
            )
        if not self.built:
            self.build(logits.shape)
        cost = -ops.cast(logits, self.compute_dtype)
        tensors = potts_tensors(cost, self.class_weights, edge_weights, self.epsilon)
        return potts_solution(self.options, *tensors)

    def compute_output_shape(self, logits_shape: Any, edge_weights_shape: Any = None) -> Any:
        """Return (B, *S, C)."""
        pair = isinstance(logits_shape[0], (list, tuple))
        return tuple(logits_shape[0] if pair else logits_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = ("weight", "edge_weights", "epsilon", "initial_weight")
        config = {**super().get_config(), **{name: getattr(self, name) for name in own}}
        return {**config, **self.options._asdict(), "output": self.output_kind}


def _with_adjoint(options: PottsOptions, adjoint: Any) -> PottsOptions:
    """Options with the adjoint of that name, or that an object of `optimize` describes."""
    if isinstance(adjoint, str):
        return options._replace(adjoint=adjoint)
    # These need TensorFlow, and so does whoever has made one of them.
    from keras_robustseg.optimize import Implicit, Neumann, OneStep, Unrolled

    if isinstance(adjoint, Implicit):
        default = Implicit(tol=adjoint.tol, max_iterations=adjoint.max_iterations)
        if adjoint not in (default, dataclasses.replace(default, solver="cg")):
            raise invalid_argument("adjoint", "Implicit with `tol` and `max_iterations`", adjoint)
        tolerance = options.adjoint_tolerance if adjoint.tol is None else adjoint.tol
        limits = {"adjoint_tolerance": tolerance, "adjoint_iterations": adjoint.max_iterations}
        return options._replace(adjoint="implicit", **limits)
    if isinstance(adjoint, Unrolled):
        if adjoint.checkpoint is not None:
            raise invalid_argument("adjoint", "Unrolled without `checkpoint`", adjoint)
        return options._replace(adjoint="unrolled", iterations=adjoint.steps)
    if isinstance(adjoint, OneStep):
        return options._replace(adjoint="one_step")
    if isinstance(adjoint, Neumann):
        return options._replace(adjoint="neumann", adjoint_iterations=adjoint.terms)
    raise invalid_argument("adjoint", f"one of {ADJOINTS}, or one of `optimize`", adjoint)


def _check(layer: TVSegmentation) -> None:
    """Refuse numbers and choices out of their range."""
    weight = layer.weight
    if isinstance(weight, str):
        good = weight == "learned"
    else:
        numbers = np.asarray(weight)
        good = numbers.ndim < 2 and bool(np.all(np.isfinite(numbers) & (numbers >= 0)))
    check_arguments(
        (
            ("weight", good, '"learned", or finite numbers >= 0', weight),
            (
                "edge_weights",
                layer.edge_weights in (None, "input"),
                "None or 'input'",
                layer.edge_weights,
            ),
            ("epsilon", 0 < layer.epsilon < math.inf, "a finite number > 0", layer.epsilon),
            ("initial_weight", 0 < layer.initial_weight < math.inf, "> 0", layer.initial_weight),
            ("output", layer.output_kind in OUTPUTS, f"one of {OUTPUTS}", layer.output_kind),
        )
    )
    check_options(layer.options)
    warn_of_one_step(layer.options, stacklevel=4)
