"""Early-learning regularisation (ELR; Liu et al., NeurIPS 2020), per pixel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._store_codec import STORAGES

FLOOR = 1e-4
"""1 - <t, p> is not taken below this; there the term is flat and has no gradient."""


def agreement_gap(log_p: Any, target: Any) -> Any:
    """Return 1 - <t, p> (B, *S), without cancellation where target and prediction agree.

        1 - <t, p> = (1 - sum_c t_c) + sum_c t_c (1 - p_c)

    Args:
        log_p: (B, *S, C) log probabilities.
        target: t (B, *S, C), not negative, of sum at most 1.
    """
    rest = ops.maximum(1.0 - ops.sum(target, axis=-1), 0.0)
    return rest - ops.sum(target * ops.expm1(log_p), axis=-1)


def early_learning_term(log_p: Any, target: Any, *, floor: float = FLOOR) -> Any:
    """Return log max(1 - <t, p>, floor) per pixel (B, *S), the regulariser of the paper.

    Its gradient with respect to the logits is p_k (<t, p> - t_k) / (1 - <t, p>): it pulls the
    prediction towards the target, the more the better they agree, and so outweighs the pull of a
    wrong label that the network did not follow at first.

    Args:
        log_p: (B, *S, C) log probabilities.
        target: t (B, *S, C); no gradient flows through it.
        floor: least value of 1 - <t, p>, above 0.
    """
    return ops.log(ops.maximum(agreement_gap(log_p, ops.stop_gradient(target)), floor))


def next_target(target: Any, p: Any, momentum: Any) -> Any:
    """Return t' = beta t + (1 - beta) p, the moving average of predictions.

    From t = 0, n visits with predictions p_1 ... p_n give (1 - beta) sum_j beta^(n-j) p_j, whose
    sum over classes is 1 - beta^n.

    Args:
        target: t (..., C).
        p: (..., C) probabilities.
        momentum: beta.
    """
    return momentum * target + (1.0 - momentum) * p


@keras.saving.register_keras_serializable(package="keras_robustseg")
class EarlyLearning:
    """Early-learning regularisation: what a pixel was predicted as over the epochs holds it back.

        L_i = -sum_c y_ic log p_ic + weight log(1 - <t_i, p_i>),   t_i <- beta t_i + (1 - beta) p_i

    Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-learning regularization prevents
    memorization of noisy labels" (NeurIPS 2020). Networks fit the right labels first. t_i is the
    average of the predictions for pixel i so far, and the second term, smallest where p_i = t_i
    is sure, keeps the network there when cross-entropy begins to pull towards the wrong labels.
    As in the authors' program, t_i is moved before the loss is taken, and starts at 0, so that
    the term is weak in the first epochs.

    t_i is kept in the frame of the original image: C numbers per pixel, moved with the image in
    augmentation and back by the transpose. Void pixels and unvisited ones keep theirs.

    Args:
        momentum: beta in [0, 1).
        weight: the paper's lambda, at least 0; 0 is cross-entropy.
        store: "device" keeps t in a variable, "disk" in a memory-mapped file (TensorFlow without
            XLA).
        storage: "float32" or "float16".

    Raises:
        ValueError: a value out of its range.

    Example:
        ```python
        model = RobustSegmenter(network, EarlyLearning(), label_shapes=pipeline.shapes)
        model.compile(keras.optimizers.Adam(2e-3), metrics=[Dice(2)])
        model.fit(pipeline.dataset(), epochs=40)
        ```
    """

    default_region_weight = 0.0
    keeps_rows = True

    def __init__(
        self,
        *,
        momentum: float = 0.7,
        weight: float = 3.0,
        store: str = "device",
        storage: str = "float32",
    ) -> None:
        self.momentum, self.weight = float(momentum), float(weight)
        self.store, self.storage = store, storage
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {momentum}")
        if not 0.0 <= self.weight < float("inf"):
            raise ValueError(f"`weight` must be at least 0. Received: {weight}")
        if store not in ("device", "disk"):
            raise ValueError(f'`store` must be "device" or "disk". Received: {store!r}')
        # Eight bits hold logits in steps of 1/8: no probabilities.
        if storage not in STORAGES or storage == "uint8":
            raise ValueError(f'`storage` must be "float32" or "float16". Received: {storage!r}')

    def pixel_loss(self, log_p: Any, target: Any, yhat: Any) -> Any:
        """Return L (B, *S) for log probabilities, targets and given mask, each (B, *S, C)."""
        cross_entropy = -ops.sum(yhat * log_p, axis=-1)
        return cross_entropy + self.weight * early_learning_term(log_p, target)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("momentum", "weight", "store", "storage")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EarlyLearning:
        """Rebuild from `get_config`."""
        return cls(**config)
