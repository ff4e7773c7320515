"""PENCIL (Yi & Wu, "Probabilistic End-to-end Noise Correction", CVPR 2019), per pixel."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

DEFAULT_MARGIN = 0.2


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


def row_step(p: Any, q: Any, yhat: Any, *, flip_margin: float) -> Any:
    """Return the step direction (B, *S, C-1) of a label row, per unit of `label_rate`.

        -C dL/dlogits = (p - q) + alpha C (yhat - q),      alpha C = flip_margin

    relative to class 0. It is closed form: no tape, no loss scale, no batch size in it.
    """
    step = (p - q) + flip_margin * (yhat - q)
    return step[..., 1:] - step[..., :1]


def optimal_labels(log_p: Any, yhat: Any, *, flip_margin: float) -> Any:
    """Return log q*, the label distribution that PENCIL's rows converge to at a fixed network.

        q* = argmin_q KL(p || q)/C + alpha CE(yhat, q) = (1-w) p + w yhat,  w = m/(1+m), m = alpha C

    The most probable class moves from j to k exactly when p_k - p_j > m (the flip rule).
    """
    trust = flip_margin / (1.0 + flip_margin)
    return ops.log((1.0 - trust) * ops.exp(log_p) + trust * yhat + 1e-37)


@keras.saving.register_keras_serializable(package="keras_robustseg")
class Pencil:
    """PENCIL's label model: a label distribution q per pixel, learned with the network.

        L = KL(p || q)/C + alpha CE(yhat, q) + (entropy/C) H(p)

    minimised over the network (through p) and over q (by gradient steps on its logits), in three
    phases: cross-entropy on the given masks (`warmup`), both (`correction`), and the network
    alone against the labels that were reached (`finetune`).

    `alpha` means another method for another number of classes: a label can move from class j to
    class k only if p_k - p_j > alpha C. So what is set is the margin m = alpha C itself, or the
    trust w = m/(1+m) in the given mask, or alpha; exactly one.

    Args:
        flip_margin: m in (0, 1); default 0.2.
        trust: w in (0, 1/2), m = w/(1-w).
        alpha: the paper's alpha > 0; alpha C must stay below 1, or no label can ever change.
        entropy: the paper's beta in [0, 1).
        label_rate: step of the label logits per visit of a pixel. The paper's rate lambda for
            batches of B images is lambda/(B C) here, which depends neither on the batch nor on
            the image size (lambda = 600, B = 128, C = 2: 2.3). Small steps average the
            predictions of many epochs; from label_rate (1 + m) = 4 on, labels swing.
        warmup: share of all training steps in the first phase.
        finetune: share of all training steps in the last phase.
        store: "device" keeps a row per pixel (`LabelStore`); "none" keeps nothing and puts the
            optimum q* in its place at every step (the generalised Jensen-Shannon loss).
        initial_logit: K, how far the rows start from indecision.

    Raises:
        ValueError: more than one of flip_margin, trust, alpha, or a value out of its range.

    Example:
        ```python
        model = RobustSegmenter(network, Pencil(flip_margin=0.2), label_shapes=pipeline.shapes)
        model.compile(keras.optimizers.Adam(2e-3), metrics=[Dice(2)])
        model.fit(pipeline.dataset(), epochs=40)
        ```
    """

    def __init__(
        self,
        *,
        flip_margin: float | None = None,
        trust: float | None = None,
        alpha: float | None = None,
        entropy: float = 0.1,
        label_rate: float = 1.0,
        warmup: float = 0.5,
        finetune: float = 0.0,
        store: str = "device",
        initial_logit: float = 10.0,
    ) -> None:
        given = {"flip_margin": flip_margin, "trust": trust, "alpha": alpha}
        set_ones = {name: float(value) for name, value in given.items() if value is not None}
        if len(set_ones) > 1:
            raise ValueError(
                f"Set exactly one of flip_margin, trust and alpha. Received: {set_ones}"
            )
        self.strength = set_ones or {"flip_margin": DEFAULT_MARGIN}
        self.entropy, self.label_rate = float(entropy), float(label_rate)
        self.warmup, self.finetune = float(warmup), float(finetune)
        self.store, self.initial_logit = store, float(initial_logit)
        self._check()

    def _check(self) -> None:
        upper = {"flip_margin": 1.0, "trust": 0.5, "alpha": 0.5}
        for name, value in self.strength.items():
            _inside(name, value, 0.0, upper[name])
        if not 0.0 <= self.entropy < 1.0:
            raise ValueError(f"`entropy` must be in [0, 1). Received: {self.entropy}")
        _inside("label_rate", self.label_rate, 0.0, float("inf"))
        _inside("initial_logit", self.initial_logit, 0.0, 80.0)
        if min(self.warmup, self.finetune) < 0.0 or self.warmup + self.finetune > 1.0:
            raise ValueError(
                "`warmup` and `finetune` are shares of the training and sum to at most 1. "
                f"Received: warmup={self.warmup}, finetune={self.finetune}"
            )
        if self.store not in ("device", "none"):
            raise ValueError(f'`store` must be "device" or "none". Received: {self.store!r}')

    def margin(self, num_classes: int) -> float:
        """Return the flip margin m = alpha C for this number of classes.

        Raises:
            ValueError: alpha C >= 1: by the flip rule no label could ever change.
        """
        ((name, value),) = self.strength.items()
        if name == "trust":
            return value / (1.0 - value)
        if name == "alpha" and value * num_classes >= 1.0:
            raise ValueError(
                f"alpha={value} with {num_classes} classes gives a flip margin of "
                f"{value * num_classes:g}: no label could ever change. Expected alpha < "
                f"{1 / num_classes:g}; or set flip_margin, which means the same for any C."
            )
        return value * num_classes if name == "alpha" else value

    def pixel_loss(self, log_p: Any, log_q: Any, yhat: Any) -> Any:
        """Return L (B, *S); its gradient with respect to the network is the paper's."""
        classes = log_p.shape[-1]
        terms = pencil_terms(log_p, log_q, yhat)
        alpha = self.margin(classes) / classes
        pull = terms.classification / classes + alpha * terms.compatibility
        return pull + self.entropy / classes * terms.entropy

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **self.strength,
            "entropy": self.entropy,
            "label_rate": self.label_rate,
            "warmup": self.warmup,
            "finetune": self.finetune,
            "store": self.store,
            "initial_logit": self.initial_logit,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pencil:
        """Rebuild from `get_config`."""
        return cls(**config)


def _inside(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"`{name}` must be in ({low:g}, {high:g}). Received: {value}")
