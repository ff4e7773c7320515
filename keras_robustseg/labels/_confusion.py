"""Confusion matrices of several annotators, learned together with the network."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.labels._confusion_head import GlobalMatrices, PixelMatrices
from keras_robustseg.labels._confusion_terms import (
    annotator_loss,
    identity_loss,
    log_posterior,
    reader_votes,
)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class ConfusionMatrices(keras.layers.Layer):
    """The label model of several annotators: each has a confusion matrix of his own.

        L_i = 1/|R_i| sum_r ( -log sum_k T_r[k, y_ir] p_ik  +  trace_weight tr(T_r) / C )

    with T_r[k, y] = P(annotator r gives y | truth is k), every row a distribution over y, R_i the
    annotators who labelled pixel i, and p the network's probability of the true class. Tanno et
    al., "Learning from noisy labels by regularized estimation of annotator confusion" (CVPR
    2019), for kind="global"; Zhang et al., "Disentangling human error from ground truth in
    segmentation of medical images" (NeurIPS 2020), for kind="pixel".

    With the least trace, and matrices that are diagonally dominant on average over the
    annotators, p is the distribution of the truth (Tanno et al., theorem 1). An error that all
    annotators share is not identifiable, and neither is a matrix of an annotator without labels:
    it stays at its start.

    The layer holds the matrices alone. `RobustSegmenter(network, ConfusionMatrices(...))` trains
    them with the network, saves and resumes them; the exported network is without them.

    Args:
        num_annotators: R, length of the last axis of the masks.
        num_classes: C.
        kind: "global", one matrix per annotator, for labels that are wrong wherever they are;
            "pixel", one per annotator and pixel, for errors of the outline:
            T[k, y] = (1 - g_k) [k = y] + g_k sum_l a[k, l] b[l, y], with error rates g and label
            profiles b from three small dilated convolutions on image and prediction.
        rank: L, label profiles of kind="pixel".
        trace_weight: weight of the trace, from 0.
        warmup: share of all training steps with identity matrices (plain cross-entropy, a mean
            over the annotators), so that p means the truth before the matrices move.
        trust: in (1/C, 1), diagonal that the matrices start with.
        width: channels of the hidden convolutions of kind="pixel".
        name: layer name.

    Raises:
        ValueError: a number that is out of its range, or an unknown kind.

    Example:
        ```python
        matrices = ConfusionMatrices(num_annotators=4, num_classes=2, kind="global")
        model = RobustSegmenter(network, matrices)
        model.compile(keras.optimizers.Adam(2e-3))
        model.fit(images, masks, epochs=20)       # masks int (N, H, W, 4), -1 for no label
        matrices.matrices()                       # (4, 2, 2)
        ```
    """

    def __init__(
        self,
        num_annotators: int,
        num_classes: int,
        *,
        kind: str = "pixel",
        rank: int = 1,
        trace_weight: float = 0.01,
        warmup: float = 0.3,
        trust: float = 0.9,
        width: int = 16,
        name: str = "confusion_matrices",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self.num_annotators, self.num_classes = int(num_annotators), int(num_classes)
        self.kind, self.rank, self.width = kind, int(rank), int(width)
        self.trace_weight, self.warmup = float(trace_weight), float(warmup)
        self.trust = float(trust)
        self._check()
        shape = (self.num_annotators, self.num_classes, self.trust)
        self.table = (
            GlobalMatrices(*shape)
            if kind == "global"
            else PixelMatrices(*shape, self.rank, self.width)
        )
        self.built = kind == "global"

    def _check(self) -> None:
        if self.kind not in ("global", "pixel"):
            raise ValueError(f'`kind` must be "global" or "pixel". Received: {self.kind!r}')
        least = {"num_annotators": 1, "num_classes": 2, "rank": 1, "width": 1, "trace_weight": 0}
        for argument, low in least.items():
            if not low <= getattr(self, argument) < float("inf"):
                raise ValueError(
                    f"`{argument}` must be at least {low}. Received: {getattr(self, argument)}"
                )
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"`warmup` must be in [0, 1]. Received: {self.warmup}")
        if not 1.0 / self.num_classes < self.trust < 1.0:
            raise ValueError(
                f"`trust` must be in (1/{self.num_classes}, 1): a matrix that starts without a "
                f"dominant diagonal does not say which class is which. Received: {self.trust}"
            )

    def build(self, image_shape: Any) -> None:
        """Create the weights for images (B, *S, channels).

        Raises:
            ValueError: kind="pixel" and images without a static number of channels, or not
                of one to three spatial axes.
        """
        if self.kind == "pixel" and not self.table.built:
            image_shape = tuple(image_shape)
            if len(image_shape) not in (3, 4, 5) or image_shape[-1] is None:
                raise ValueError(
                    'ConfusionMatrices(kind="pixel") looks at the image. Expected the shape '
                    f"(batch, *space, channels) with known channels. Received: {image_shape}"
                )
            self.table.build(image_shape)
        self.built = True

    def call(self, log_p: Any, image: Any = None) -> Any:
        """Return P(annotator r gives y | image) = sum_k p_k T_r[k, y], (B, *S, R, C).

        Args:
            log_p: (B, *S, C) log-probabilities of the true class.
            image: (B, *S, channels), for kind="pixel".
        """
        matrices = self.matrices(image, log_p)
        subscripts = "...k,rky->...ry" if self.kind == "global" else "...k,...rky->...ry"
        return ops.einsum(subscripts, ops.exp(log_p), matrices)

    def matrices(self, image: Any = None, log_p: Any = None) -> Any:
        """Return T: (R, C, C), or (B, *S, R, C, C) for kind="pixel".

        Args:
            image: (B, *S, channels), for kind="pixel".
            log_p: (B, *S, C) log-probabilities, for kind="pixel".

        Raises:
            ValueError: kind="pixel" without image or log-probabilities.
        """
        self._need(image, log_p)
        return self.table.matrices(image, log_p)

    def pixel_loss(
        self, log_p: Any, masks: Any, image: Any = None, *, warming: Any = False
    ) -> tuple[Any, Any]:
        """Return the loss L_i of each pixel and the log-posterior of its true class.

        Args:
            log_p: (B, *S, C) log-probabilities.
            masks: int (B, *S, R), -1 where an annotator gave no label.
            image: (B, *S, channels), for kind="pixel".
            warming: bool, whether the matrices still count as the identity; a tensor will do.

        Returns:
            (B, *S), 0 where there is no label, and (B, *S, C).
        """
        shape = (self.num_annotators, self.num_classes)
        votes = reader_votes(masks, *shape, rank=len(log_p.shape))
        self._need(image, log_p)
        likelihood, trace = self.table.likelihood(votes, image, log_p)
        learned = annotator_loss(log_p, votes, likelihood, trace, trace_weight=self.trace_weight)
        loss = ops.where(warming, identity_loss(log_p, votes), learned)
        return loss, log_posterior(log_p, likelihood)

    def posterior(self, log_p: Any, masks: Any, image: Any = None) -> Any:
        """Return P(true class | image, labels of all annotators), (B, *S, C).

            q_k  proportional to  p_k prod_{r present} T_r[k, y_r]

        Args:
            log_p: (B, *S, C) log-probabilities.
            masks: int (B, *S, R), -1 where an annotator gave no label.
            image: (B, *S, channels), for kind="pixel".
        """
        return ops.exp(self.pixel_loss(log_p, masks, image)[1])

    def _need(self, image: Any, log_p: Any) -> None:
        if self.kind == "pixel":
            if image is None or log_p is None:
                raise ValueError(
                    'ConfusionMatrices(kind="pixel") has matrices that depend on the pixel. '
                    "Expected `image` and `log_p`. Received: None"
                )
            self.build(image.shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "num_annotators": self.num_annotators,
            "num_classes": self.num_classes,
            "kind": self.kind,
            "rank": self.rank,
            "trace_weight": self.trace_weight,
            "warmup": self.warmup,
            "trust": self.trust,
            "width": self.width,
            "name": self.name,
        }
