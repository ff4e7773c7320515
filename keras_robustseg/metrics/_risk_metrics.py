"""What a robust loss does to a batch, as Keras metrics: how to choose its radii and levels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

FIGURES = (
    "effective_sample_size",
    "value_at_risk",
    "saturation",
    "divergence",
    "label_saturation",
    "label_divergence",
)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class RiskFigure(keras.metrics.Mean):
    """Mean over batches of one figure of a `losses.RobustSegmentationLoss`.

    | figure | what it is | read it as |
    |---|---|---|
    | "effective_sample_size" | 1 / sum q^2/p, in (0, 1] | share of the data that teaches |
    | "value_at_risk" | least loss that the risk does not thin out | threshold of a hard pixel |
    | "saturation" | share of images whose risk is their greatest loss | radius too large |
    | "divergence" | D(q, p) of the weights, in the risk's divergence or "kl" | radius in use |
    | "label_saturation" | share of pixels whose label went wholly to the extreme cost | as above |
    | "label_divergence" | mean D(q, y), in the set's divergence or "tv" | how far labels moved |

    q are the weights of all pixels of the batch under both risks, p their base weights; with one
    value an image (label sets with an image's budget, or an image risk alone) an image is the
    unit of value, saturation and weights. Batches count by their base weight. A figure that the
    loss has no part for is that of the mean, or of labels as given.

    Args:
        loss: the loss; it may be the one that trains.
        figure: a name above.
        name: name of the metric; the figure by default.
        dtype: type of the result.

    Raises:
        ValueError: there is no such figure.

    Example:
        `model.compile(loss=loss, weighted_metrics=[metrics.RiskFigure(loss, "saturation")])`
    """

    def __init__(
        self, loss: Any, figure: str, *, name: str | None = None, dtype: Any = None
    ) -> None:
        if figure not in FIGURES:
            raise ValueError(f"`figure` must be one of {FIGURES}. Received: figure={figure!r}")
        super().__init__(name=name or figure, dtype=dtype)
        self.loss, self.figure = loss, figure

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the figure of one batch."""
        value, weight = self.loss.figure(self.figure, y_true, y_pred, sample_weight)
        super().update_state(
            ops.reshape(ops.where(weight > 0, value, 0.0), (1,)), ops.reshape(weight, (1,))
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "loss": keras.saving.serialize_keras_object(self.loss),
            "figure": self.figure,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RiskFigure:
        """Rebuild from `get_config`."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
