"""RobustSegmenter: a Keras model that trains a segmentation network on masks that are wrong."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import LabelStore, num_classes_of
from keras_robustseg.losses import replica_count
from keras_robustseg.optimize._monitor import solve_records
from keras_robustseg.training._adversary import CLEAN, checked_adversary, clean_log_p
from keras_robustseg.training._guard import train_step_jax, train_step_tensorflow
from keras_robustseg.training._objective import Clock, Objective, Setting, output_shares
from keras_robustseg.training._objective_registry import make_objective
from keras_robustseg.training._phases import PhasePlanner
from keras_robustseg.training._teacher import Teacher

COUNTER: dict[str, Any] = {
    "shape": (),
    "dtype": "int32",
    "trainable": False,
    "aggregation": "only_first_replica",
}


@keras.saving.register_keras_serializable(package="keras_robustseg")
class RobustSegmenter(keras.Model):
    """Train a segmentation network f against a label model.

        min over theta, q   mean_pixels L(softmax f_theta(x), q, y) + gamma region(softmax f, q)

    With `label_model=None` this is plain supervised training with the loss given to `compile`.
    With a label model the loss is its own, and `compile` takes none: with `Pencil`, for example,
    q is a row per training pixel. `compile`, `fit`, `evaluate` and `predict` are those of
    `keras.Model`.

    Batches are `(inputs, mask, weight)`. `inputs` is the image (B, *S, channels) or a dict with
    "image", "sample_id" (B,) and, where images are cropped or moved, "pixel_index" (B, *S, K)
    and "pixel_weight": the rows of the label store that a pixel was taken from
    (`keras_robustseg.data.Pipeline` makes them). `mask`: every form that
    `keras_robustseg.labels.label_distribution` reads. `weight` (B, *S), 0 at void pixels.

    The gradient step on the rows is closed form; a step that is not finite is skipped and counted
    in `skipped_steps`, and leaves weights, statistics and rows as they were.

    Args:
        network: any `keras.Model` that gives logits (B, *S, C), C = 1 meaning two classes, or a
            list of such, the first being the main one (deep supervision).
        label_model: `None`, or a label model of `keras_robustseg.labels`: `Pencil`,
            `EarlyLearning`, `CoTeaching`, `Adele`, `ConfusionMatrices`.
        label_shapes: spatial shape of every training image, in the order of the sample ids;
            needed by label models that keep rows. For classification, [()] * number of samples.
        label_directory: where `store="disk"` keeps its rows; the same for a resumed run. By
            default a temporary directory.
        region_weight: gamma, weight of the soft Dice loss against q. It keeps small objects
            alive, which the plain method loses. By default what the label model is published
            with: 1 for `Pencil`, 0 for the others. Not used without a label model.
        training_steps: length of the training in steps, for the phases; by default `fit` finds
            it from its epochs and the length of the data.
        adversary: changes the images of each step to the network's disadvantage, such as
            `attacks.AdversarialTraining`; None trains on the images as they are.
        name: model name.

    Raises:
        TypeError: something else as label model.
        ValueError: label rows without `label_shapes`, a negative `region_weight`, a label model
            that does not fit the network, or an adversary on another backend than TensorFlow.

    Example:
        ```python
        network = keras_robustseg.models.unet((64, 64, 1), 2, width=8, depth=3)
        model = RobustSegmenter(network, Pencil(), label_shapes=[(64, 64)] * len(images))
        model.compile(keras.optimizers.Adam(2e-3))
        ids = np.arange(len(images))
        model.fit({"image": images, "sample_id": ids}, masks, batch_size=16, epochs=20)
        corrected = model.corrected_labels(0, masks[0]).argmax(-1)
        ```
    """

    def __init__(
        self,
        network: keras.Model,
        label_model: Any = None,
        *,
        label_shapes: Sequence[Sequence[int]] | None = None,
        label_directory: str | Path | None = None,
        region_weight: float | None = None,
        training_steps: int | None = None,
        adversary: Any = None,
        name: str = "robust_segmenter",
    ) -> None:
        # The trainer shares the network's precision: Keras scales losses by the trainer's.
        super().__init__(name=name, dtype=network.dtype_policy)
        if region_weight is None:
            region_weight = getattr(label_model, "default_region_weight", 0.0)
        if region_weight < 0:
            raise ValueError(f"`region_weight` must be >= 0. Received: {region_weight}")
        self.network, self.label_model = network, label_model
        self.adversary = checked_adversary(adversary)
        self.region_weight, self.training_steps = float(region_weight), training_steps
        self.label_shapes = None if label_shapes is None else [tuple(s) for s in label_shapes]
        self.num_classes = num_classes_of(self._outputs(network.output)[0])
        self._add_counters()
        self.objective = self._make_objective(label_directory)
        if self.adversary is not None:
            self.attack_start = self.add_weight(name="attack_start", initializer="zeros", **COUNTER)
        self.label_layers = list(self.objective.layers) if self.objective else []
        changes = self.objective is not None and self.objective.counts_changes
        self.label_change: Any = keras.metrics.Mean(name="label_change") if changes else None
        # Replicas trace their steps side by side, each in a thread of its own.
        self.pending = threading.local()
        self.built = True

    def _add_counters(self) -> None:
        self.step = self.add_weight(name="step", initializer="zeros", **COUNTER)
        self.skipped_steps = self.add_weight(name="skipped_steps", initializer="zeros", **COUNTER)
        self.warmup_end = self.add_weight(name="warmup_end", initializer="zeros", **COUNTER)
        self.finetune_start = self.add_weight(
            name="finetune_start", initializer=keras.initializers.Constant(2**31 - 1), **COUNTER
        )

    def _make_objective(self, directory: str | Path | None) -> Objective | None:
        if self.label_model is None:
            return None
        clock = Clock(self.step, self.warmup_end, self.finetune_start)
        setting = Setting(
            self.network, self.num_classes, self.region_weight, clock, self.label_shapes, directory
        )
        return make_objective(self.label_model, setting)

    @property
    def label_store(self) -> LabelStore | None:
        """The label rows, None where the label model keeps none."""
        return self.objective.store if self.objective else None

    @property
    def teacher(self) -> Teacher | None:
        """The moving average of the network, None where the label model has none."""
        return self.objective.teacher if self.objective else None

    @property
    def has_belief(self) -> bool:
        """Whether `corrected_labels` answers."""
        return self.objective is not None and self.objective.has_belief

    @property
    def served(self) -> keras.Model:
        """The network that predicts and is exported: the trained one, or several in one."""
        return (self.objective and self.objective.served) or self.network

    @property
    def statistics(self) -> list[Any]:
        """Variables that a forward pass moves, such as those of batch normalisation."""
        networks = [self.network, *(self.objective.networks if self.objective else ())]
        reports = {id(v) for v in self.certificates}
        moved = [v for network in networks for v in network.non_trainable_weights]
        return [v for v in moved if id(v) not in reports]

    @property
    def certificates(self) -> list[Any]:
        """Weights in which layers that solve something keep how it went, in skipped steps too."""
        return [v for _, record in solve_records(self) for v in record.weights]

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles the steps; Keras' own, which would only warn where it cannot."""
        return keras.Model.jit_compile.fget(self)

    @jit_compile.setter
    def jit_compile(self, value: bool) -> None:
        if value and not all(layer.supports_jit for layer in self.label_layers):
            raise ValueError(
                'store="disk" cannot be compiled by XLA: its rows are read by the host. Expected '
                'compile(jit_compile=False), or store="device". Received: jit_compile=True'
            )
        keras.Model.jit_compile.fset(self, value)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the network's logits; every output of a deep-supervised network in training."""
        image = inputs["image"] if isinstance(inputs, dict) else inputs
        network = self.network if training else self.served
        outputs = self._outputs(network(image, training=training))
        return outputs if training and len(outputs) > 1 else outputs[0]

    @staticmethod
    def _outputs(outputs: Any) -> list[Any]:
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    def train_step(self, *args: Any) -> Any:
        """Keras' training step with the finite guard."""
        if keras.backend.backend() == "tensorflow":
            return train_step_tensorflow(self, *args)
        if keras.backend.backend() == "jax":
            return train_step_jax(self, *args)
        return super().train_step(*args)

    def test_step(self, *args: Any) -> Any:
        """Keras' evaluation step; `label_change` is a figure of training alone."""
        result = super().test_step(*args)
        logs = result[0] if isinstance(result, tuple) else result
        logs.pop("label_change", None)
        return result

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """`keras.Model.fit`; the phases of the label model are laid out over its steps."""
        planner = PhasePlanner()
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(planner)
        else:
            listed = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
            callbacks = [planner, *(c for c in listed if c is not None)]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def plan_phases(self, total_steps: int) -> None:
        """Lay the phases of the label model, and of the adversary, over this many steps."""
        if self.adversary is not None:
            self.attack_start.assign(round(self.adversary.warmup * total_steps))
        if self.objective is None:
            return
        warmup, finetune = (getattr(self.label_model, s, 0.0) for s in ("warmup", "finetune"))
        # An automatic warm-up lasts until the objective ends it.
        longest = 1.0 if warmup == "auto" else warmup
        if int(ops.convert_to_numpy(self.step)) == 0 or warmup != "auto":
            self.warmup_end.assign(round(longest * total_steps))
        self.objective.plan(total_steps)
        self.finetune_start.assign(round((1.0 - finetune) * total_steps))

    @property
    def phase(self) -> str:
        """What the last step was: "supervised", or a phase of the label model."""
        if self.objective is None:
            return "supervised"
        last, warm, fine = (
            int(ops.convert_to_numpy(v)) for v in (self.step, self.warmup_end, self.finetune_start)
        )
        return self.objective.phases[0 if last <= warm else 1 if last <= fine else 2]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the objective of a batch; in training, move the label rows as well."""
        outputs = self._outputs(y_pred)
        if self.objective is None:
            loss = self._supervised_loss(x, y, outputs, sample_weight, training)
        else:
            loss = self._label_loss(self.objective, x, y, outputs, sample_weight, training)
        if training and keras.backend.backend() != "tensorflow":
            self.step.assign_add(1)  # with TensorFlow `train_step` does, once labels have moved
        return loss

    def _supervised_loss(
        self, x: Any, y: Any, outputs: list[Any], sample_weight: Any, training: bool
    ) -> Any:
        shares = output_shares(len(outputs))
        loss = super().compute_loss(x, y, outputs[0], sample_weight, training) * shares[0]
        for share, output in zip(shares[1:], outputs[1:], strict=True):
            loss = loss + share * keras.losses.get(self.loss)(y, output, sample_weight)
        return loss

    def _label_loss(
        self,
        objective: Objective,
        x: Any,
        y: Any,
        outputs: list[Any],
        sample_weight: Any,
        training: bool,
    ) -> Any:
        loss, batch, log_p = objective.loss(x, y, outputs, sample_weight, training=training)
        if training:
            if isinstance(x, dict) and CLEAN in x:
                log_p = clean_log_p(self.network, x[CLEAN], batch.weight)
            self._move_labels(objective, batch, log_p, loss)
        if training and objective.counts_changes:
            changed, seen = objective.changed(batch)
            self.label_change.update_state(changed, sample_weight=seen)
        loss = loss / replica_count()
        for extra in self.losses:
            loss = loss + self._aggregate_additional_loss(extra)
        return loss

    def _move_labels(self, objective: Objective, batch: Any, log_p: Any, loss: Any) -> None:
        """Move the labels: with TensorFlow once `train_step` knows whether gradients are finite.

        Elsewhere a step is a function from state to state, and the guard takes the old state.
        """
        if keras.backend.backend() == "tensorflow":
            self.pending.labels = functools.partial(objective.move_labels, batch, log_p)
        else:
            objective.move_labels(batch, log_p, ops.isfinite(loss))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Metrics look at the main output only."""
        return super().compute_metrics(x, y, self._outputs(y_pred)[0], sample_weight)

    def corrected_labels(self, sample: int, mask: Any, image: Any = None) -> np.ndarray:
        """Return the label distribution q (*S, C) that a training image has now.

        Args:
            sample: its sample id.
            mask: its given mask (*S), (*S, R) or (*S, C), in the original frame.
            image: the image (*S, channels), for label models whose belief depends on it.

        Raises:
            ValueError: this model believes the masks as they are given (`has_belief`).
        """
        if self.objective is None:
            raise ValueError("This model keeps no label rows: it has no label model.")
        return self.objective.corrected(sample, mask, image)

    def export(self, filepath: str, *args: Any, **kwargs: Any) -> None:
        """Export the network alone: the trainer's label rows are no part of a served model."""
        self.served.export(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, network and label model serialised."""
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "label_model": keras.saving.serialize_keras_object(self.label_model),
            "label_shapes": self.label_shapes,
            "region_weight": self.region_weight,
            "training_steps": self.training_steps,
            "adversary": keras.saving.serialize_keras_object(self.adversary),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RobustSegmenter:
        """Rebuild from `get_config`."""
        parts = {
            key: keras.saving.deserialize_keras_object(
                config.get(key), custom_objects=custom_objects
            )
            for key in ("network", "label_model", "adversary")
        }
        return cls(**{**config, **parts})
