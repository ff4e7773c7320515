"""Phases of a label model, laid over the steps of a training."""

from __future__ import annotations

import keras


class PhasePlanner(keras.callbacks.Callback):
    """Tell the model how many steps its training has, before the first one.

    `RobustSegmenter.fit` adds it by itself. Phases are shares of the training; steps, not epochs,
    decide when a network has learned enough for its labels to be corrected.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Lay out the phases; a resumed run has its own step count and keeps it."""
        total = self.model.training_steps
        if total is None and self.model.label_model is not None:
            steps, epochs = self.params.get("steps"), self.params.get("epochs")
            if steps is None:
                raise ValueError(
                    "The phases of the label model need the length of the training. Pass "
                    "training_steps=... to RobustSegmenter, or data of known length to fit."
                )
            total = steps * epochs
        if total is not None:
            self.model.plan_phases(total)
