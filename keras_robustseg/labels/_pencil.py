"""PENCIL (Yi & Wu, "Probabilistic End-to-end Noise Correction", CVPR 2019), per pixel."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_robustseg.labels._closed_forms import (
    geometric_labels,
    lambert_labels,
    optimal_labels,
)
from keras_robustseg.labels._pencil_steps import (
    geometric_row_step,
    label_first_row_step,
    official_row_step,
    row_step,
)
from keras_robustseg.labels._store_codec import STORAGES

DEFAULT_MARGIN = 0.2
# When `warmup="auto"` ends at the earliest, as a share of the training.
EARLIEST_CORRECTION = 0.1
_CHOICES = {
    "store": ("device", "disk", "teacher", "none"),
    "storage": STORAGES,
    "variant": ("paper", "official_code"),
    "direction": ("prediction_first", "label_first"),
    "compatibility": ("cross_entropy", "kl"),
}


class PencilTerms(NamedTuple):
    """The three terms of PENCIL's loss per pixel (B, *S), without their weights."""

    classification: Any
    compatibility: Any
    entropy: Any


def initial_logits(yhat: Any, initial_logit: float = 10.0) -> Any:
    """Return r0 = max(log yhat, -K): logits whose softmax is the given mask, soft or hard.

    For a hard mask this is K * yhat up to a constant, the start of the paper (K = 10).

    Args:
        yhat: (..., C) label distribution of the given mask.
        initial_logit: K.
    """
    return ops.log(ops.maximum(yhat, ops.exp(-float(initial_logit))))


def full_logits(offsets: Any) -> Any:
    """Return (..., C) logits from C-1 offsets relative to class 0."""
    return ops.concatenate([ops.zeros_like(offsets[..., :1]), offsets], axis=-1)


def pencil_terms(log_p: Any, log_q: Any, yhat: Any) -> PencilTerms:
    """Return KL(p || q), -sum yhat log q and H(p) per pixel (paper, eq. 5 to 8).

    Args:
        log_p: (B, *S, C) log probabilities of the network.
        log_q: (B, *S, C) log label distribution.
        yhat: (B, *S, C) given mask.
    """
    p = ops.exp(log_p)
    negative_entropy = ops.sum(p * log_p, axis=-1)
    return PencilTerms(
        negative_entropy - ops.sum(p * log_q, axis=-1),
        -ops.sum(yhat * log_q, axis=-1),
        -negative_entropy,
    )


@keras.saving.register_keras_serializable(package="keras_robustseg")
class Pencil:
    """PENCIL's label model: a label distribution q per pixel, learned with the network.

        L = KL(p || q)/C + alpha CE(yhat, q) + (entropy/C) H(p)

    minimised over the network (through p) and over q (by gradient steps on its logits), in three
    phases: cross-entropy on the given masks (`warmup`), both (`correction`), and the network
    alone against the labels that were reached (`finetune`).

    `alpha` means another method for another number of classes: a label can move from class j to
    class k only if p_k - p_j > alpha C. So what is set is the margin m = alpha C itself, or the
    trust w = m/(1+m) in the given mask, or alpha; exactly one. With m >= 1 no label could ever
    change, which is refused; this holds for the problem above and not for its variants.

    Args:
        flip_margin: m in (0, 1); default 0.2.
        trust: w in (0, 1/2), m = w/(1-w).
        alpha: the paper's alpha > 0; alpha C must stay below 1, or no label can ever change.
        entropy: the paper's beta in [0, 1).
        label_rate: step of the label logits per visit of a pixel. The paper's rate lambda for
            batches of B images is lambda/(B C) here, which depends neither on the batch nor on
            the image size (lambda = 600, B = 128, C = 2: 2.3). Small steps average the
            predictions of many epochs; from label_rate (1 + m) = 4 on, labels swing.
        warmup: share of all training steps in the first phase; "auto" ends it at the bend of the
            training curves of the classes, after a tenth of the training at the earliest; a class
            that is not learned is not corrected.
        finetune: share of all training steps in the last phase.
        store: where q lives. "device" keeps a row per pixel in a variable (`LabelStore`), "disk"
            in a memory-mapped file (`DiskLabelStore`; TensorFlow without XLA). "teacher" keeps
            the moving average of the network's weights and puts the optimum for the teacher's
            prediction in the place of q; "none" keeps nothing and puts the optimum for the
            network's own prediction there (the generalised Jensen-Shannon loss).
        storage: how "device" and "disk" keep a number: "float32", "float16", or "uint8" (steps
            of 1/8 up to +-15.875, rounded without bias).
        variant: "paper" is L. "official_code" is what the released program minimises, with a
            second softmax in the second term, CE(yhat, softmax(q)): once a label has moved,
            hardly anything pulls it back. It has no closed form, so it needs rows.
        direction: "prediction_first" is KL(p || q); "label_first" is KL(q || p), whose labels
            hardly move while they are sure.
        compatibility: "cross_entropy", or, with direction="label_first", "kl":
            alpha KL(q || softmax(r0)), r0 being the logits that rows start from.
        teacher_decay: of the moving average, reached by the ramp (1 + t)/(10 + t) over steps t.
        initial_logit: K, how far the rows start from indecision.
        presence: a class keeps its labels in images in which the network predicts less than this
            share of the class's given mass: a label moves to what the network sees, never to
            nothing. 0 lets all labels move, as in the paper.
        image_weights: power of the agreement of prediction and given mask by which an image
            counts in the correction phase, relative to the best fifth of the images; 0 counts
            all alike. Needs rows.
        mass_floor: share of its given mass that a class must keep in the corrected labels of
            recent batches, or its labels return to the given ones for good; 0 is no floor.

    Raises:
        ValueError: more than one of flip_margin, trust, alpha, a value out of its range, or a
            combination that has no meaning.

    Example:
        ```python
        model = RobustSegmenter(network, Pencil(flip_margin=0.2), label_shapes=pipeline.shapes)
        model.compile(keras.optimizers.Adam(2e-3), metrics=[Dice(2)])
        model.fit(pipeline.dataset(), epochs=40)
        ```
    """

    default_region_weight = 1.0

    def __init__(
        self,
        *,
        flip_margin: float | None = None,
        trust: float | None = None,
        alpha: float | None = None,
        entropy: float = 0.1,
        label_rate: float = 1.0,
        warmup: float | str = "auto",
        finetune: float = 0.0,
        store: str = "device",
        storage: str = "float32",
        variant: str = "paper",
        direction: str = "prediction_first",
        compatibility: str = "cross_entropy",
        teacher_decay: float = 0.99,
        initial_logit: float = 10.0,
        presence: float = 0.3,
        image_weights: float = 1.0,
        mass_floor: float = 0.3,
    ) -> None:
        given = {"flip_margin": flip_margin, "trust": trust, "alpha": alpha}
        set_ones = {name: float(value) for name, value in given.items() if value is not None}
        if len(set_ones) > 1:
            raise ValueError(
                f"Set exactly one of flip_margin, trust and alpha. Received: {set_ones}"
            )
        self.strength = set_ones or {"flip_margin": DEFAULT_MARGIN}
        self.entropy, self.label_rate = float(entropy), float(label_rate)
        self.warmup = warmup if warmup == "auto" else float(warmup)
        self.finetune = float(finetune)
        self.store, self.storage, self.variant = store, storage, variant
        self.direction, self.compatibility = direction, compatibility
        self.teacher_decay, self.initial_logit = float(teacher_decay), float(initial_logit)
        self.presence, self.image_weights = float(presence), float(image_weights)
        self.mass_floor = float(mass_floor)
        self._check_choices()
        self._check_numbers()

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(f'"{choice}"' for choice in choices)
                raise ValueError(
                    f"`{name}` must be one of {listed}. Received: {getattr(self, name)!r}"
                )
        released = self.variant == "official_code"
        if released and (self.direction, self.compatibility) != (
            "prediction_first",
            "cross_entropy",
        ):
            raise ValueError(
                'variant="official_code" is the released program, which has '
                'direction="prediction_first" and compatibility="cross_entropy". Received: '
                f"direction={self.direction!r}, compatibility={self.compatibility!r}"
            )
        if released and not self.keeps_rows:
            raise ValueError(
                'variant="official_code" has no closed form, so it needs rows. Expected '
                f'store="device" or store="disk". Received: store={self.store!r}'
            )
        if self.compatibility == "kl" and self.direction != "label_first":
            raise ValueError(
                'compatibility="kl" belongs to direction="label_first". Received: '
                f"direction={self.direction!r}"
            )

    def _check_numbers(self) -> None:
        bounded = self._has_flip_rule
        upper = (1.0, 0.5, 0.5) if bounded else (float("inf"), 1.0, float("inf"))
        for name, high in zip(("flip_margin", "trust", "alpha"), upper, strict=True):
            if name in self.strength:
                _inside(name, self.strength[name], 0.0, high)
        if not 0.0 <= self.entropy < 1.0:
            raise ValueError(f"`entropy` must be in [0, 1). Received: {self.entropy}")
        _inside("label_rate", self.label_rate, 0.0, float("inf"))
        _inside("teacher_decay", self.teacher_decay, 0.0, 1.0)
        # An offset must be able to take the start back and to go on to the other side of it.
        _inside("initial_logit", self.initial_logit, 0.0, 12.0 if self.storage == "uint8" else 80.0)
        self._check_correction()

    def _check_correction(self) -> None:
        warmup = EARLIEST_CORRECTION if self.warmup == "auto" else float(self.warmup)
        if min(warmup, self.finetune) < 0.0 or warmup + self.finetune > 1.0:
            raise ValueError(
                "`warmup` and `finetune` are shares of the training and sum to at most 1; "
                f'warmup="auto" takes at least {EARLIEST_CORRECTION:g}. '
                f"Received: warmup={self.warmup}, finetune={self.finetune}"
            )
        for name in ("presence", "mass_floor"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {getattr(self, name)}")
        if not 0.0 <= self.image_weights < float("inf"):
            raise ValueError(f"`image_weights` must be >= 0. Received: {self.image_weights}")

    @property
    def keeps_rows(self) -> bool:
        """Whether there is a row of logits for every training pixel."""
        return self.store in ("device", "disk")

    @property
    def _has_flip_rule(self) -> bool:
        return (self.variant, self.direction) == ("paper", "prediction_first")

    def margin(self, num_classes: int) -> float:
        """Return the flip margin m = alpha C for this number of classes.

        Raises:
            ValueError: alpha C >= 1: by the flip rule no label could ever change.
        """
        ((name, value),) = self.strength.items()
        if name == "trust":
            return value / (1.0 - value)
        if name == "alpha" and self._has_flip_rule and value * num_classes >= 1.0:
            raise ValueError(
                f"alpha={value} with {num_classes} classes gives a flip margin of "
                f"{value * num_classes:g}: no label could ever change. Expected alpha < "
                f"{1 / num_classes:g}; or set flip_margin, which means the same for any C."
            )
        return value * num_classes if name == "alpha" else value

    def start(self, yhat: Any) -> Any:
        """Return the logits (..., C) of the given mask that rows start from."""
        return initial_logits(yhat, self.initial_logit)

    def row_step(self, log_p: Any, log_q: Any, yhat: Any, *, flip_margin: Any) -> Any:
        """Return the step (B, *S, C-1) of the label logits, per unit of `label_rate`."""
        if self.compatibility == "kl":
            start = ops.log_softmax(self.start(yhat), axis=-1)
            return geometric_row_step(log_p, log_q, start, flip_margin=flip_margin)
        if self.direction == "label_first":
            return label_first_row_step(log_p, log_q, yhat, flip_margin=flip_margin)
        step = row_step if self.variant == "paper" else official_row_step
        return step(ops.exp(log_p), ops.exp(log_q), yhat, flip_margin=flip_margin)

    def optimum(self, log_p: Any, yhat: Any, *, flip_margin: Any) -> Any:
        """Return log q* (B, *S, C), the labels that the rows converge to at a fixed network."""
        if self.compatibility == "kl":
            start = ops.log_softmax(self.start(yhat), axis=-1)
            return geometric_labels(log_p, start, flip_margin=flip_margin)
        if self.direction == "label_first":
            return lambert_labels(log_p, yhat, flip_margin=flip_margin)
        return optimal_labels(log_p, yhat, flip_margin=flip_margin)

    def compatibility_terms(self, log_q: Any, yhat: Any) -> Any:
        """Return what each class adds to the compatibility of labels and given mask (B, *S, C)."""
        if self.compatibility == "kl":
            return ops.exp(log_q) * (log_q - ops.log_softmax(self.start(yhat), axis=-1))
        if self.variant == "official_code":
            return -yhat * ops.log_softmax(ops.exp(log_q), axis=-1)
        return -yhat * log_q

    def divergence_terms(self, log_p: Any, log_q: Any) -> Any:
        """Return what each class adds to the divergence of network and labels (B, *S, C)."""
        if self.direction == "label_first":
            return ops.exp(log_q) * (log_q - log_p)
        return ops.exp(log_p) * (log_p - log_q)

    def pixel_loss(self, log_p: Any, log_q: Any, yhat: Any) -> Any:
        """Return L (B, *S); its gradient with respect to the network is the paper's."""
        classes = log_p.shape[-1]
        alpha = self.margin(classes) / classes
        terms = self.divergence_terms(log_p, log_q) / classes
        terms = terms + alpha * self.compatibility_terms(log_q, yhat)
        return ops.sum(terms - self.entropy / classes * ops.exp(log_p) * log_p, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("entropy", "label_rate", "warmup", "finetune", *_CHOICES)
        names = (
            *names,
            "teacher_decay",
            "initial_logit",
            "presence",
            "image_weights",
            "mass_floor",
        )
        return {**self.strength, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pencil:
        """Rebuild from `get_config`."""
        return cls(**config)


def _inside(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"`{name}` must be in ({low:g}, {high:g}). Received: {value}")
