"""Approximate hypergradients of a network: parameters of its loss, by a clean set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_robustseg.tuning._hyperparameter import Hyperparameter, Vector, check_records
from keras_robustseg.tuning._outer import AdamSteps

METHODS = ("neumann", "one_step")

Slope = Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]
"""(weights, hyper-parameters) -> gradient of the training loss to the weights, all flat."""


class NetworkStep(NamedTuple):
    """One step of a `NetworkTuner`.

    Args:
        epoch: after which it was made, from 0.
        loss: of the clean set.
        gradient: to the free variables.
        values: name -> value after the step.
    """

    epoch: int
    loss: float
    gradient: np.ndarray
    values: dict[str, Any]


def neumann_hypergradient(
    slope: Slope,
    weights: np.ndarray,
    values: Mapping[str, Any],
    back: np.ndarray,
    *,
    terms: int,
    step: float | None = None,
) -> dict[str, np.ndarray]:
    """Return the truncated Neumann approximation of a hypergradient.

        d val / dh  ~  - back^T  step sum_{j <= terms} (I - step H)^j  d slope / dh

    H is the derivative of `slope` to the weights. With terms = 0 it is the one-step hypergradient;
    with many it tends to the implicit one where all eigenvalues of H are above 0 (Lorraine, Vicol,
    Duvenaud, AISTATS 2020). It holds where the slope is 0, at weights trained to convergence. H and
    d slope / dh are taken by central differences of `slope`, so it need not have a second
    derivative: losses that hold labels fixed by the envelope theorem have none that is right.

    Args:
        slope: gradient of the training loss.
        weights: (n,) of the network.
        values: name -> number.
        back: (n,) gradient of the validation loss to the weights.
        terms: of the series after the first.
        step: below 2 over the greatest eigenvalue of H; None for 1 over an estimate of it.

    Example:
        `neumann_hypergradient(lambda w, v: w - v["h"], w, {"h": 1.0}, back, terms=0, step=1.0)`
    """
    curve = functools.partial(_curved, slope, weights, values)
    step = 1.0 / _greatest(curve, back) if step is None else step
    part, total = back, back.copy()
    for _ in range(terms):
        part = part - step * curve(part)
        total += part
    found = {}
    for name, value in values.items():
        off = 1e-3 * max(abs(value), 1e-2)
        up, down = (slope(weights, {**values, name: value + s * off}) for s in (1, -1))
        found[name] = np.asarray(-step * np.vdot(total, up - down) / (2 * off))
    return found


def _curved(
    slope: Slope, weights: np.ndarray, values: Mapping[str, Any], along: np.ndarray
) -> np.ndarray:
    """Derivative of the slope along a direction."""
    size = np.linalg.norm(along)
    if size == 0:
        return np.zeros_like(along)
    off = 1e-3 * max(float(np.linalg.norm(weights)), 1.0) / size
    return (slope(weights + off * along, values) - slope(weights - off * along, values)) / (2 * off)


def _greatest(curve: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> float:
    """A little more than the greatest eigenvalue, by ten steps of the power method."""
    along, value = start + 1e-3 * np.random.default_rng(0).normal(size=start.shape), 0.0
    for _ in range(10):
        along = along / max(float(np.linalg.norm(along)), 1e-37)
        along = curve(along)
        value = float(np.linalg.norm(along))
    return max(1.2 * value, 1e-12)


class NetworkTuner(keras.callbacks.Callback):
    """Tunes parameters of a network's loss while it is trained, by a clean set. An approximation.

        loss parameters h  <-  h - learning rate x Adam's direction of d clean loss / dh

    after each `every` epochs, d clean loss / dh by `neumann_hypergradient` at the weights as they
    are: that is a hypergradient only in so far as these have converged, the network is evaluated
    as in inference, and the series is cut off. `docs/tuning.md` has a measured error. TensorFlow
    only; the training step is compiled again after each change.

    Args:
        hyperparameters: their names are numbers of the compiled loss, an attribute or a path of
            them: "trust" and "entropy" of `losses.GeneralizedJensenShannon`,
            "label_model.radius" of `losses.RobustSegmentationLoss`. Each starts from its value in
            the loss.
        clean: images and masks that are right.
        training: images and masks as they are trained on, a batch or more of them, from which the
            derivatives of the training loss are computed.
        method: "neumann", or "one_step", which takes the first term alone.
        terms: of the series.
        every: epochs between steps.
        learning_rate: length of a step in free variables.
        clean_loss: of the clean set; None for `losses.CrossEntropy()`.

    Attributes:
        steps_: what was done, a `NetworkStep` each.

    Raises:
        ValueError: in `fit`, the loss has no such number.

    Example:
        ```python
        tuner = NetworkTuner([Hyperparameter("trust", "sigmoid")], (x, y), (noisy_x, noisy_y))
        model.compile("adam", losses.GeneralizedJensenShannon(trust=0.3))
        model.fit(noisy_x, noisy_y, epochs=20, callbacks=[tuner])
        ```
    """

    def __init__(
        self,
        hyperparameters: Sequence[Hyperparameter],
        clean: tuple[Any, Any],
        training: tuple[Any, Any],
        *,
        method: str = "neumann",
        terms: int = 20,
        every: int = 1,
        learning_rate: float = 0.1,
        clean_loss: Any = None,
    ) -> None:
        super().__init__()
        check_records(hyperparameters)
        if method not in METHODS:
            raise ValueError(f"Expected method to be one of {METHODS}. Received: method={method!r}")
        if not (terms >= 0 and every >= 1 and learning_rate > 0):
            raise ValueError(
                "Expected terms >= 0, every >= 1 and learning_rate > 0. "
                f"Received: terms={terms}, every={every}, learning_rate={learning_rate}"
            )
        self.hyperparameters, self.clean, self.training = tuple(hyperparameters), clean, training
        self.terms = 0 if method == "one_step" else terms
        self.every, self.learning_rate, self.clean_loss = every, learning_rate, clean_loss
        self.steps_: list[NetworkStep] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Read where the loss stands."""
        self._vector = Vector(self.hyperparameters, {})
        self._free = self._vector.free({p.name: self._number(p.name) for p in self.hyperparameters})
        self._follow = AdamSteps(self._vector.limits(), self.learning_rate)
        self.steps_ = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take a step, and let the training step be compiled again."""
        if (epoch + 1) % self.every:
            return
        loss, gradient = self.hypergradient()
        slope = self._vector.pull_back(self._free, gradient)
        self._free = self._follow.moved(self._free, slope)
        values = {name: float(v) for name, v in self._vector.values(self._free).items()}
        self._set(values)
        self.model.make_train_function(force=True)
        self.steps_.append(NetworkStep(epoch, loss, slope, values))

    def hypergradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss of the clean set and its approximate gradient to the parameters."""
        names = [part.name for part in self.hyperparameters]
        values = {name: self._number(name) for name in names}
        weights = _flat(self.model.trainable_variables)
        try:
            loss, back = self._loss_and_slope(weights, self._clean_loss(), self.clean)

            def slope(weights: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
                self._set(values)
                return self._loss_and_slope(weights, self.model.loss, self.training, True)[1]

            found = neumann_hypergradient(slope, weights, values, back, terms=self.terms)
        finally:
            self._set(values)
            _assign(self.model.trainable_variables, weights)
        return loss, found

    def _clean_loss(self) -> Any:
        from keras_robustseg.losses import CrossEntropy

        return CrossEntropy() if self.clean_loss is None else self.clean_loss

    def _loss_and_slope(
        self, weights: np.ndarray, loss: Any, data: tuple[Any, Any], penalties: bool = False
    ) -> tuple[float, np.ndarray]:
        import tensorflow as tf

        variables = self.model.trainable_variables
        _assign(variables, weights)
        with tf.GradientTape() as tape:
            value = loss(data[1], self.model(data[0], training=False))
            if penalties and self.model.losses:
                value += keras.ops.sum(keras.ops.stack(self.model.losses))
        slopes = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
        return float(value), _flat(slopes)

    def _owner(self, name: str) -> tuple[Any, str]:
        *path, last = name.split(".")
        owner = functools.reduce(getattr, path, self.model.loss)
        return owner, last

    def _number(self, name: str) -> float:
        try:
            return float(getattr(*self._owner(name)))
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"Expected {name!r} to be a number of the compiled loss. "
                f"Received: loss={self.model.loss!r}"
            ) from error

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(*self._owner(name), float(value))


def _flat(arrays: Sequence[Any]) -> np.ndarray:
    parts = [np.ravel(keras.ops.convert_to_numpy(array)) for array in arrays]
    return np.concatenate(parts).astype(np.float64)


def _assign(variables: Sequence[Any], weights: np.ndarray) -> None:
    ends = np.cumsum([int(np.prod(v.shape)) for v in variables])
    for variable, part in zip(variables, np.split(weights, ends[:-1]), strict=True):
        variable.assign(part.reshape(variable.shape))
