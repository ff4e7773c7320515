"""Training with the confusion matrices of several annotators."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import ConfusionMatrices, log_probabilities
from keras_robustseg.training._objective import (
    Given,
    Objective,
    Setting,
    output_shares,
    pixel_mean,
    read_batch,
    region_loss,
)


class Seen(NamedTuple):
    """A batch: shares of the annotators yhat, belief q (log), weights of the pixels."""

    yhat: Any
    log_q: Any
    weight: Any


class ConfusionObjective(Objective):
    """Mean of the annotators' loss over the pixels, + gamma soft Dice(p, belief).

    The belief is P(true class | image, labels of all annotators); in the warm-up, the share of
    the annotators. An evaluation takes the cross-entropy against the masks as they are, whoever
    drew them.

    Args:
        matrices: the label model, which is itself the layer that learns.
        setting: of the training.

    Raises:
        ValueError: another number of classes than the network's.
    """

    has_belief = True
    counts_changes = True
    phases = ("warm-up", "annotators", "annotators")

    def __init__(self, matrices: ConfusionMatrices, setting: Setting) -> None:
        if matrices.num_classes != setting.num_classes:
            raise ValueError(
                f"ConfusionMatrices(num_classes={matrices.num_classes}) does not fit a network "
                f"with {setting.num_classes} classes."
            )
        shape = setting.network.input_shape
        matrices.build(next(iter(shape.values())) if isinstance(shape, dict) else shape)
        self.matrices, self.setting, self.layers = matrices, setting, [matrices]

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Seen, Any]:
        """Return the loss of a batch, the batch as it was read, and log p of the main output."""
        given = read_batch(y, outputs, sample_weight, self.setting.num_classes)
        if not training:
            cost = -ops.sum(given.yhat * given.log_ps[0], axis=-1)
            log_q = ops.log(ops.maximum(given.yhat, 1e-37))
            return pixel_mean(cost, given.weight), Seen(given.yhat, log_q, given.weight), None
        image = x["image"] if isinstance(x, dict) else x
        masks = _where_seen(y, given.weight)
        loss, log_q = 0.0, None
        for share, log_p in zip(output_shares(len(outputs)), given.log_ps, strict=True):
            value, own_log_q = self._value(log_p, masks, image, given)
            loss = loss + share * value
            log_q = own_log_q if log_q is None else log_q
        return loss, Seen(given.yhat, log_q, given.weight), given.log_ps[0]

    def _value(self, log_p: Any, masks: Any, image: Any, given: Given) -> tuple[Any, Any]:
        warming = self.setting.clock.warming()
        pixel, log_q = self.matrices.pixel_loss(log_p, masks, image, warming=warming)
        drawn = ops.log(ops.maximum(given.yhat, 1e-37))
        log_q = ops.stop_gradient(ops.where(warming, drawn, log_q))
        region = region_loss(log_p, ops.exp(log_q), given.weight, self.setting.region_weight)
        return pixel_mean(pixel, given.weight) + region, log_q

    def changed(self, batch: Seen) -> tuple[Any, Any]:
        """Return where the belief is another class than most annotators gave (B, *S), and 0/1."""
        believed, drawn = (ops.argmax(v, axis=-1) for v in (batch.log_q, batch.yhat))
        seen = ops.cast(ops.not_equal(batch.weight, 0), "float32")
        return ops.cast(ops.not_equal(believed, drawn), "float32"), seen

    def corrected(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return P(true class | image, labels of all annotators) (*S, C) of one image.

        Raises:
            ValueError: no image: the belief depends on what the network sees.
        """
        if image is None:
            raise ValueError(
                "The belief about a mask of several annotators depends on the image. Expected "
                "`image` (*space, channels). Received: None"
            )
        image, mask = (ops.convert_to_tensor(v)[None] for v in (image, mask))
        outputs = self.setting.network(image, training=False)
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        posterior = self.matrices.posterior(log_probabilities(logits), mask, image)
        return ops.convert_to_numpy(posterior[0])


def _where_seen(masks: Any, weight: Any) -> Any:
    """The masks with -1 where a pixel has no weight: nothing that lies there is looked at."""
    masks, seen = ops.convert_to_tensor(masks), ops.not_equal(weight, 0)
    if "int" in keras.backend.standardize_dtype(masks.dtype):
        masks = ops.cast(masks, "int32")  # unsigned types have no -1
    if len(masks.shape) > len(weight.shape):
        seen = ops.expand_dims(seen, -1)
    return ops.where(seen, masks, ops.cast(-1, masks.dtype))
