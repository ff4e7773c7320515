"""Stochastic segmentation networks: a distribution over whole masks in place of one mask."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._low_rank_normal import (
    pack_normal,
    packed_channels,
    sample_logits,
    seed_channel,
    unpack_normal,
)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class LowRankNormalHead(keras.layers.Layer):
    """The last layer of a stochastic segmentation network: a normal over the logits of an image.

        eta  ~  N(mean, P P^T + diag d),      P of `rank` columns, d > 0

    for all pixels and classes of the image together, so that samples differ in whole regions, as
    readers do, and not in single pixels. Monteiro et al., "Stochastic segmentation networks:
    modelling spatially correlated aleatoric uncertainty" (NeurIPS 2020), equations 3 to 5. mean,
    log d and P are 1x1 convolutions of the features.

    The output packs them along the last axis, (B, *S, (rank + 2) C + 1). Train it with
    `losses.StochasticSegmentationLoss`; `MeanLogits` takes the mean, which is what predicts and
    is exported; `sample_masks` draws masks. The last channel holds the seed of the loss's samples,
    another one at each training step and 0 otherwise: so the random state is a weight of the
    model, saved and resumed with it on every backend.

    Computed in float32, also under mixed precision.

    Args:
        num_classes: C, at least 2.
        rank: columns of P.
        epsilon: least variance d.
        seed: of the samples in training.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: a number that is out of its range.

    Example:
        ```python
        image = keras.Input((64, 64, 1))
        features = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
        normal = layers.LowRankNormalHead(2, rank=10)(features)
        model = keras.Model(image, normal)
        model.compile("adam", losses.StochasticSegmentationLoss(2, num_samples=20))
        predictor = keras.Model(image, layers.MeanLogits(2)(normal))
        ```
    """

    def __init__(
        self,
        num_classes: int,
        rank: int = 10,
        *,
        epsilon: float = 1e-5,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if num_classes < 2 or rank < 0 or not epsilon > 0:
            raise ValueError(
                "Expected num_classes >= 2, rank >= 0 and epsilon > 0. Received: "
                f"num_classes={num_classes}, rank={rank}, epsilon={epsilon}"
            )
        self.num_classes, self.rank, self.epsilon, self.seed = num_classes, rank, epsilon, seed
        self.parameters = keras.layers.Dense((rank + 2) * num_classes, dtype=self.dtype_policy)

    def build(self, features_shape: Any, region_shape: Any = None) -> None:
        """Create the weights for features (B, *S, channels)."""
        self.parameters.build(features_shape)
        self.steps = self.add_weight(
            name="steps",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True

    def call(self, features: Any, region: Any = None, training: bool | None = None) -> Any:
        """Return the packed normal (B, *S, (rank + 2) C + 1).

        Args:
            features: (B, *S, channels).
            region: (B, *S) or (B, *S, 1), 0 outside the region of interest. There P is 0 and d is
                `epsilon`: what lies far from every object tells nothing about the covariance,
                which would otherwise grow without bound.
            training: whether the loss is to have new samples.
        """
        values, classes = self.parameters(features), self.num_classes
        mean, log_diagonal = values[..., :classes], values[..., classes : 2 * classes]
        factor, least = values[..., 2 * classes :], math.log(self.epsilon)
        log_diagonal = ops.logaddexp(log_diagonal, ops.full_like(log_diagonal, least))
        if region is not None:
            inside = _with_channel(region, len(values.shape)) > 0
            log_diagonal = ops.where(inside, log_diagonal, least)
            factor = ops.where(inside, factor, 0.0)
        draw = ops.zeros_like(mean[..., :1])
        if training:
            self.steps.assign_add(1)
            draw = draw + seed_channel(self.steps, self.seed)
        return pack_normal(mean, log_diagonal, factor, draw)

    def compute_output_shape(self, features_shape: Any, region_shape: Any = None) -> Any:
        """Return (B, *S, (rank + 2) C + 1)."""
        return (*features_shape[:-1], packed_channels(self.num_classes, self.rank))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = ("num_classes", "rank", "epsilon", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _with_channel(region: Any, rank: int) -> Any:
    region = ops.convert_to_tensor(region)
    region = region if len(region.shape) == rank else ops.expand_dims(region, -1)
    return ops.cast(region, "float32")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class MeanLogits(keras.layers.Layer):
    """The mean (B, *S, C) of what `LowRankNormalHead` gives: logits like those of any network.

    Args:
        num_classes: C.
        **kwargs: arguments of `keras.layers.Layer`.

    Example:
        `predictor = keras.Model(model.input, layers.MeanLogits(2)(model.output))`
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes = num_classes

    def call(self, packed: Any) -> Any:
        """Return the mean of a packed normal."""
        return unpack_normal(packed, self.num_classes).mean

    def compute_output_shape(self, packed_shape: Any) -> Any:
        """Return (B, *S, C)."""
        return (*packed_shape[:-1], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "num_classes": self.num_classes}


def sample_masks(packed: Any, num_classes: int, count: int = 16, *, seed: int = 0) -> Any:
    """Return masks drawn from what `LowRankNormalHead` gives: the most probable class of a sample.

    Each of them is a whole mask that the network holds possible; their spread is the disagreement
    to be expected between readers.

    Args:
        packed: (B, *S, (rank + 2) C + 1).
        num_classes: C.
        count: how many masks of each image.
        seed: the same one gives the same masks.

    Returns:
        int32 (count, B, *S).

    Raises:
        ValueError: `packed` is no packed normal over so many classes.

    Example:
        `masks = sample_masks(model.predict(images), 2, count=16)`
    """
    normal = unpack_normal(ops.convert_to_tensor(packed), num_classes)
    return ops.cast(ops.argmax(sample_logits(normal, count, seed), axis=-1), "int32")
