"""Robustness on a fixed slice of the data, tracked while a network trains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_robustseg.attacks._evaluate import named_attacks
from keras_robustseg.attacks._evaluate_scores import class_dice, confusion, pixel_accuracy


class RobustnessCallback(keras.callbacks.Callback):
    """Add `robust_accuracy` and `robust_dice` to the logs of each epoch.

    Both are of the same images under the same attack: the share of right pixels, and the Dice
    overlap of foreground classes over all of them. Place it before callbacks that read them.

    Args:
        images: (N, *S, F), attacked together; a few suffice.
        labels: (N, *S), negative is void.
        attack: name of an attack of fixed eps, or such a function.
        eps: size of the attack, in units of the network's input.
        steps: of the attack.
        every: epochs from one measurement to the next.
        **common: further options of the attack, such as `bounds`.

    Raises:
        ValueError: an unknown attack or one of minimal norm, or `every` below 1.

    Example:
        ```python
        watch = RobustnessCallback(images[:8], masks[:8], eps=4 / 255)
        model.fit(images, masks, callbacks=[watch])
        ```
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        attack: Any = "segpgd",
        *,
        eps: float,
        steps: int = 20,
        every: int = 1,
        **common: Any,
    ) -> None:
        super().__init__()
        ((name, (function, fixed)),) = named_attacks([attack]).items()
        if not fixed:
            raise ValueError(f"`attack` must be one of fixed eps. Received: {name}")
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: {every}")
        self.images, self.labels = np.asarray(images), np.asarray(labels)
        self.attack, self.every = function, every
        self.settings = {"eps": eps, "steps": steps, **common}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attack the network as it predicts now."""
        if logs is None or (epoch + 1) % self.every:
            return
        network = getattr(self.model, "served", self.model)
        found = self.attack(network, self.images, self.labels, **self.settings)
        ignored = self.settings.get("ignore_label")
        labels = (
            self.labels if ignored is None else np.where(self.labels == ignored, -1, self.labels)
        )
        counts = confusion(found.predictions, labels, self._classes(network))
        logs["robust_accuracy"] = float(pixel_accuracy(counts))
        logs["robust_dice"] = float(np.nanmean(class_dice(counts)[1:]))

    @staticmethod
    def _classes(network: Any) -> int:
        output = network.output[0] if isinstance(network.output, list) else network.output
        return max(2, int(output.shape[-1]))
