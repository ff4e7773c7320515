"""Where an adversary enters a training step, and what is kept of the clean image."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_robustseg.labels import base_weights, label_distribution, log_probabilities

CLEAN = "clean_image"


def checked_adversary(adversary: Any) -> Any:
    """Return the adversary of a trainer, or None.

    Raises:
        TypeError: it cannot change images.
        ValueError: the backend is not TensorFlow.
    """
    if adversary is None:
        return None
    if not callable(getattr(adversary, "perturb", None)):
        raise TypeError(
            "`adversary` must have a method `perturb`, as `attacks.AdversarialTraining` has. "
            f"Received: {adversary!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`adversary` needs the TensorFlow backend. Received: backend "
            f"{keras.backend.backend()!r}"
        )
    return adversary


def attacked(model: Any, x: Any, y: Any, sample_weight: Any) -> Any:
    """Return the inputs of a training step as the trainer's adversary leaves them.

    The image before is kept beside them: what labels learn of a step is what the network sees
    there.
    """
    if model.adversary is None:
        return x
    named = x if isinstance(x, dict) else {"image": x}
    image = named["image"]
    target, weight = _believed(model, named, y, sample_weight, len(image.shape))
    step = ops.convert_to_tensor(model.step)
    active = ops.greater_equal(step, ops.convert_to_tensor(model.attack_start))
    changed = model.adversary.perturb(
        model.network, image, target, weight, step=step, active=active
    )
    return {**named, "image": changed, CLEAN: image}


def _believed(model: Any, x: Any, y: Any, sample_weight: Any, rank: int) -> tuple[Any, Any]:
    """The label distribution that the trainer has of a batch now, and the weights of pixels."""
    mask, valid = label_distribution(y, model.num_classes, rank=rank)
    weight = base_weights(valid, sample_weight)
    if model.objective is not None:
        mask = model.objective.believed(x, mask)
    return ops.stop_gradient(mask), weight


def clean_log_p(network: Any, image: Any, weight: Any) -> Any:
    """Return log p (B, *S, C) of the main output in the clean image, without a gradient."""
    outputs = network(image, training=False)
    logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return ops.stop_gradient(log_probabilities(logits, where=ops.not_equal(weight, 0)))
