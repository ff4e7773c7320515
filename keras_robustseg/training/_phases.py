"""What a label model hears of a training besides its steps: how long it is, and its epochs."""

from __future__ import annotations

import keras


class PhasePlanner(keras.callbacks.Callback):
    """Tell the model how many steps its training has, and the label model when an epoch is over.

    `RobustSegmenter.fit` adds it by itself. Phases are shares of the training; steps, not epochs,
    decide when a network has learned enough for its labels to be corrected.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Lay out the phases; a resumed run has its own step count and keeps it."""
        total = self.model.training_steps
        phased = self.model.label_model is not None or self.model.adversary is not None
        if total is None and phased:
            steps, epochs = self.params.get("steps"), self.params.get("epochs")
            if steps is None:
                raise ValueError(
                    "Label models and adversaries need the length of the training. Pass "
                    "training_steps=... to RobustSegmenter, or data of known length to fit."
                )
            total = steps * epochs
        if total is not None:
            self.model.plan_phases(total)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Let the label model look back at the epoch; before its state is saved."""
        if self.model.objective is not None:
            self.model.objective.end_epoch()
