"""Adversarial training: the images of a step are replaced by what an attack makes of them."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_robustseg.attacks._losses import SOFT_LOSSES
from keras_robustseg.labels import log_probabilities


@keras.saving.register_keras_serializable(package="keras_robustseg")
class AdversarialTraining:
    """What `RobustSegmenter(adversary=)` does to the images of a training step.

        min over theta  max over |d|_inf <= eps, x + d in bounds   L(f_theta(x + d), q)

    (Madry et al., ICLR 2018.) The inner maximum is approached by `steps` steps of PGD, SegPGD or
    CosPGD from a random start, against the network as it predicts (moving statistics, no
    dropout). q is what the label model believes at that moment, so with `Pencil` the attack is on
    the corrected labels, not on the mistakes of the masks; the label rows follow what the network
    sees in the clean image.

    Draws depend on `seed` and the step alone, so that a resumed run goes on with the same ones.
    Needs the TensorFlow backend.

    Args:
        attack: "segpgd", "cospgd" or "pgd".
        eps: largest change of a value, in units of the network's input.
        steps: of the attack; a step of the training costs about 1 + steps times as much.
        step_size: of a step, in the same units; by default 2.5 eps / steps.
        mix: share of the images of a batch that are attacked, the first ones (batches are
            shuffled), above 0, at most 1.
        warmup: share of the training, from its start, without attack.
        bounds: least and greatest value of an image; None for images without bounds, such as
            standardised scans.
        seed: of the random starts.

    Raises:
        ValueError: an unknown attack, or a number out of range.

    Example:
        ```python
        adversary = AdversarialTraining("segpgd", eps=4 / 255, steps=3, mix=0.5, warmup=0.2)
        model = RobustSegmenter(network, adversary=adversary)
        ```
    """

    def __init__(
        self,
        attack: str = "segpgd",
        *,
        eps: float = 4 / 255,
        steps: int = 3,
        step_size: float | None = None,
        mix: float = 0.5,
        warmup: float = 0.2,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int = 0,
    ) -> None:
        if attack not in SOFT_LOSSES:
            raise ValueError(f"`attack` must be one of {sorted(SOFT_LOSSES)}. Received: {attack}")
        _require("eps", eps > 0, "> 0", eps)
        _require("steps", steps >= 1 and int(steps) == steps, "a whole number >= 1", steps)
        _require("step_size", step_size is None or step_size > 0, "> 0 or None", step_size)
        _require("mix", 0 < mix <= 1, "in (0, 1]", mix)
        _require("warmup", 0 <= warmup <= 1, "in [0, 1]", warmup)
        ordered = bounds is None or (len(bounds) == 2 and bounds[0] < bounds[1])
        _require("bounds", ordered, "two numbers, the lower first, or None", bounds)
        self.attack, self.eps, self.steps = attack, float(eps), int(steps)
        self.step_size = None if step_size is None else float(step_size)
        self.mix, self.warmup, self.seed = float(mix), float(warmup), int(seed)
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def perturb(
        self, network: Any, image: Any, target: Any, weight: Any, *, step: Any, active: Any = True
    ) -> Any:
        """Return the images of a step, the attacked ones changed.

        Args:
            network: gives logits (B, *S, C), or a list of them of which the first counts.
            image: (B, *S, channels).
            target: (B, *S, C) label distribution.
            weight: (B, *S) of the pixels, 0 at void ones; they attract no attack.
            step: number of the step, int.
            active: bool, whether the warm-up is over.
        """
        return tf.cond(
            tf.convert_to_tensor(active),
            lambda: self._mixed(network, image, target, weight, step),
            lambda: tf.identity(image),
        )

    def _mixed(self, network: Any, image: Any, target: Any, weight: Any, step: Any) -> Any:
        """Attack the first images of the batch, at least one."""
        size = tf.cast(tf.shape(image)[0], "float32")
        count = tf.cast(tf.math.ceil(self.mix * size - 1e-4), "int32")
        if image.shape[0] is not None:
            count = math.ceil(self.mix * image.shape[0] - 1e-4)
        attacked = self.attacked(network, image[:count], target[:count], weight[:count], step)
        return tf.ensure_shape(tf.concat([attacked, image[count:]], axis=0), image.shape)

    def attacked(self, network: Any, image: Any, target: Any, weight: Any, step: Any = 0) -> Any:
        """Return what the attack makes of all of these images; arguments as for `perturb`."""
        clean = tf.cast(image, "float32")
        seed = tf.stack([tf.constant(self.seed, "int32"), tf.cast(step, "int32")])
        change = tf.random.stateless_uniform(
            tf.shape(clean), seed, -self.eps, self.eps, alg="philox"
        )
        seen = tf.not_equal(weight, 0)
        size = self.step_size or 2.5 * self.eps / self.steps
        current = self._within(clean + change, clean)
        for number in range(self.steps):
            gradient = self._gradient(network, current, target, seen, number / self.steps)
            current = self._within(current + size * tf.sign(gradient), clean)
        return tf.cast(tf.stop_gradient(current), image.dtype)

    def _within(self, image: Any, clean: Any) -> Any:
        image = ops.clip(image, clean - self.eps, clean + self.eps)
        return image if self.bounds is None else ops.clip(image, *self.bounds)

    def _gradient(self, network: Any, image: Any, target: Any, seen: Any, progress: float) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            outputs = network(image, training=False)
            logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
            log_p = log_probabilities(logits, where=seen)
            pixels = SOFT_LOSSES[self.attack](log_p, target, progress)
            total = tf.reduce_sum(tf.where(seen, pixels, 0.0))
        return tape.gradient(total, image)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("attack", "eps", "steps", "step_size", "mix", "warmup", "bounds", "seed")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdversarialTraining:
        """Return the object that `get_config` describes."""
        bounds = config.get("bounds")
        return cls(**{**config, "bounds": None if bounds is None else tuple(bounds)})


def _require(name: str, holds: bool, expected: str, received: Any) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={received}")
