"""What a label model does in a training: the interface, and the parts that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import (
    DiskLabelStore,
    LabelStore,
    base_weights,
    label_distribution,
    log_probabilities,
)
from keras_robustseg.losses import replica_count
from keras_robustseg.losses._soft_dice import class_ratio_per_image
from keras_robustseg.risk._reduce import AcrossReplicas
from keras_robustseg.training._teacher import Teacher


@dataclass(frozen=True)
class Clock:
    """Counters of the trainer, int32 variables: where in its phases a training is."""

    step: Any
    warmup_end: Any
    finetune_start: Any

    def warming(self) -> Any:
        """Whether the masks are still taken as given."""
        return ops.less(self.step, self.warmup_end)

    def frozen(self) -> Any:
        """Whether the labels are fixed by now."""
        return ops.logical_not(ops.less(self.step, self.finetune_start))


@dataclass(frozen=True)
class Setting:
    """What the trainer tells an objective about the training.

    Attributes:
        network: the network that is trained.
        num_classes: C.
        region_weight: gamma, weight of the Dice term.
        clock: the trainer's counters.
        label_shapes: spatial shape of every training image, None if it was not given.
        label_directory: where rows on a disk are kept, None for a temporary directory.
    """

    network: keras.Model
    num_classes: int
    region_weight: float
    clock: Clock
    label_shapes: Sequence[tuple[int, ...]] | None = None
    label_directory: str | Path | None = None

    def shapes(self, why: str) -> Sequence[tuple[int, ...]]:
        """Return `label_shapes`, which this label model needs.

        Raises:
            ValueError: it was not given; `why` says what it is needed for.
        """
        if self.label_shapes is None:
            raise ValueError(
                f"`label_shapes` is missing: {why}. Expected the spatial shape of every training "
                "image, e.g. [(64, 64)] * 100."
            )
        return self.label_shapes


class Objective(Protocol):
    """The loss of a label model, and the state that the label model keeps in a training.

    A class that derives from this one has the defaults below and must have `loss`. What an
    objective remembers is in weights of `layers`, nowhere else: then it is saved, resumed exactly
    and restored after a step that was not finite, and it trains if it is trainable. Everything
    but `end_epoch` and `corrected` is traced, in keras.ops, with static shapes.

    Attributes:
        layers: Keras layers with the state. The trainer tracks them; they are never exported.
        networks: those of them whose statistics a forward pass moves (batch normalisation).
        store: label rows, for exact resume and reading ahead.
        teacher: a moving average of the network, which the trainer lets follow.
        served: the network that predicts and is exported; None for the trained one.
        has_belief: whether `corrected` answers.
        counts_changes: whether `changed` answers.
        phases: names of the times before `clock.warmup_end`, before `clock.finetune_start`, and
            after it.
    """

    layers: Sequence[keras.layers.Layer] = ()
    networks: Sequence[keras.Model] = ()
    store: LabelStore | None = None
    teacher: Teacher | None = None
    served: keras.Model | None = None
    has_belief: bool = False
    counts_changes: bool = False
    phases: tuple[str, str, str] = ("warm-up", "correction", "fine-tuning")

    def loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, *, training: bool
    ) -> tuple[Any, Any, Any]:
        """Return the loss of a batch, what the methods below want to know of it, and log p.

        Args:
            x: inputs, the image or the dict with "image".
            y: masks, in any form that `label_distribution` reads.
            outputs: logits of the network, the main ones first.
            sample_weight: of the pixels, or None.
            training: whether this is a training step; if not, the loss is that of the masks as
                given, and no state is read or changed.
        """
        ...

    def move_labels(self, batch: Any, log_p: Any, finite: Any) -> None:
        """Change the state by what the step has found; nothing where `finite` is False.

        Args:
            batch: as `loss` returned it.
            log_p: as `loss` returned it.
            finite: bool (), whether loss and gradients are.
        """

    def changed(self, batch: Any) -> tuple[Any, Any]:
        """Return where the class of the label is not the given one (B, *S), and weights (B, *S)."""
        raise NotImplementedError

    def believed(self, x: Any, given: Any) -> Any:
        """Return the label distribution (B, *S, C) of a batch as it stands before its step.

        Args:
            x: inputs.
            given: (B, *S, C) the masks, which is what most label models believe.
        """
        return given

    def read_ahead(self, x: Any) -> None:
        """Start to read the state of a batch, before the network has seen it."""

    def plan(self, total_steps: int) -> None:
        """Hear how many steps the training has; called by `fit`, outside of any graph."""

    def end_epoch(self) -> None:
        """Look back at an epoch of training; called by `fit`, outside of any graph."""

    def corrected(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return the label distribution (*S, C) of a training image in its original frame.

        Args:
            sample: its sample id.
            mask: its given mask.
            image: the image (*S, channels), where the belief depends on it.

        Raises:
            ValueError: this label model has no belief, or needs the image.
        """
        raise ValueError("This model keeps no label rows: it has no belief but the given masks.")


class Given(NamedTuple):
    """A batch as it was read.

    Attributes:
        yhat: (B, *S, C) given mask, 0 at void pixels.
        weight: (B, *S) of the pixels, 0 at void ones.
        log_ps: (B, *S, C) log probabilities of each output, the main one first.
    """

    yhat: Any
    weight: Any
    log_ps: list[Any]


def read_batch(y: Any, outputs: list[Any], sample_weight: Any, num_classes: int) -> Given:
    """Read masks, weights and logits; what lies under void pixels is never looked at."""
    yhat, valid = label_distribution(y, num_classes, rank=len(outputs[0].shape))
    weight = base_weights(valid, sample_weight)
    seen = ops.not_equal(weight, 0)
    log_ps = [log_probabilities(output, where=seen) for output in outputs]
    return Given(ops.where(seen[..., None], yhat, 0.0), weight, log_ps)


def output_shares(count: int) -> list[float]:
    """Return the weights 1, 1/2, 1/4 ... of deeply supervised outputs, summing to 1."""
    raw = [0.5**k for k in range(count)]
    return [value / sum(raw) for value in raw]


def pixel_mean(values: Any, weight: Any) -> Any:
    """Return the weighted mean of pixel values (B, *S), 0 where nothing has weight."""
    values = ops.where(ops.not_equal(weight, 0), values, 0.0)
    return ops.sum(weight * values) / ops.maximum(of_all(ops.sum(weight)), 1e-37)


def region_loss(log_p: Any, label: Any, weight: Any, region_weight: float) -> Any:
    """Return gamma times the Dice loss against a label distribution q, image by image.

        1 - 2 <p, q> / (|p|^2 + |q|^2) = |p - q|^2 / (|p|^2 + |q|^2)

    (Milletari et al., 3DV 2016), which is 0 at p = q alone, for soft q too, and flat there. What
    an image has not, by q, must not be predicted either: without that, images whose object was
    missed by the annotator would not hold anything back. Single labels have no region.
    """
    if not region_weight or len(log_p.shape) == 2:
        return 0.0
    p = ops.exp(log_p)
    values, images = class_ratio_per_image(
        (p - label) ** 2, p**2 + label**2, label, weight, empty="penalise"
    )
    return region_weight * ops.divide_no_nan(ops.sum(values * images), of_all(ops.sum(images)))


def of_all(total: Any) -> Any:
    """Return the mean over replicas of a total weight: what each replica divides its part by.

    With the replica's own total, a replica of little weight would count as much as the others.
    """
    return AcrossReplicas().sum(ops.reshape(total, (1,)))[0] / replica_count()


def row_store(label_model: Any, setting: Setting, num_classes: int) -> LabelStore:
    """Return the store of a label model with the settings `store` and `storage`.

    Args:
        label_model: its configuration.
        setting: of the training.
        num_classes: one more than the numbers that are kept for a pixel.

    Raises:
        ValueError: the shapes of the images are not known, or the rows do not fit.
    """
    name = type(label_model).__name__
    shapes = setting.shapes(f"{name}(store={label_model.store!r}) keeps a row per pixel")
    if label_model.store == "device":
        return LabelStore(shapes, num_classes, storage=label_model.storage)
    directory = setting.label_directory
    return DiskLabelStore(shapes, num_classes, directory=directory, storage=label_model.storage)


def pixel_rows(x: Any, store: LabelStore) -> tuple[Any, Any]:
    """Return the rows of a store (B, *S, K) that a batch was taken from, and their weights.

    Raises:
        ValueError: the inputs do not say which images they are.
    """
    if not isinstance(x, dict) or "sample_id" not in x:
        raise ValueError(
            "This label model keeps a row per pixel and has to know which image it sees. "
            'Expected inputs {"image": ..., "sample_id": ...}. Received: an image alone.'
        )
    if "pixel_index" in x:
        return x["pixel_index"], x.get("pixel_weight")
    return store.index(x["sample_id"]), None
