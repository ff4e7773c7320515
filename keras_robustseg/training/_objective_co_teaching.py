"""Co-teaching in training: two networks, their selections, and what is served of them."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.labels import CoTeaching
from keras_robustseg.labels._co_teaching import forget_rate_at
from keras_robustseg.models import mean_of_networks
from keras_robustseg.training._objective import (
    Given,
    Objective,
    Setting,
    output_shares,
    pixel_mean,
    read_batch,
    region_loss,
)
from keras_robustseg.training._twin import twin


class CoTeachingObjective(Objective):
    """The sum of the losses of two networks, each on the other's selection.

    Args:
        label_model: the configuration.
        setting: of the training; its network is the first of the two.

    Raises:
        ValueError: the second network cannot be built from the first.
    """

    phases = ("ramp", "co-teaching", "co-teaching")

    def __init__(self, label_model: CoTeaching, setting: Setting) -> None:
        self.label_model, self.setting = label_model, setting
        self.partner = twin(setting.network)
        self.layers = self.networks = [self.partner]
        if label_model.served == "mean":
            self.served = mean_of_networks([setting.network, self.partner])

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Any, Any]:
        """Return the loss of both networks, the batch, and log p of the first one's main output."""
        first = read_batch(y, outputs, sample_weight, self.setting.num_classes)
        if not training:
            return self._value(first, first.weight), first, first.log_ps[0]
        image = x["image"] if isinstance(x, dict) else x
        outputs = self.partner(image, training=True)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        second = read_batch(y, outputs, sample_weight, self.setting.num_classes)
        loss = self._value(first, self._easy(second)) + self._value(second, self._easy(first))
        return loss, first, first.log_ps[0]

    def _easy(self, given: Given) -> Any:
        """Weights (B, *S) of the pixels of small loss in the eyes of one network, 0 elsewhere."""
        clock = self.setting.clock
        rate = forget_rate_at(clock.step, clock.warmup_end, self.label_model.forget_rate)
        losses = -ops.sum(given.yhat * ops.stop_gradient(given.log_ps[0]), axis=-1)
        selected = self.label_model.select(losses, given.yhat, given.weight, rate)
        # A loss that is not finite is never small: left out, it would hide from the finite guard.
        finite = ops.isfinite(pixel_mean(losses, given.weight))
        return ops.where(finite, selected, float("nan")) * given.weight

    def _value(self, given: Given, weight: Any) -> Any:
        loss = 0.0
        for share, log_p in zip(output_shares(len(given.log_ps)), given.log_ps, strict=True):
            pixel = -ops.sum(given.yhat * log_p, axis=-1)
            region = region_loss(log_p, given.yhat, weight, self.setting.region_weight)
            loss = loss + share * (pixel_mean(pixel, weight) + region)
        return loss
