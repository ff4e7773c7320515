"""A second network with the architecture of a first one and initial weights of its own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

_OTHER = 1_000_003


def twin(network: keras.Model) -> keras.Model:
    """Return a network of the same configuration with other initial weights.

    Seeds in the configuration are changed, or the weights would be the same; what is not trained
    (statistics, normalisation constants) is copied.

    Args:
        network: any network that Keras can serialise.

    Raises:
        ValueError: it cannot be serialised, or its weights do not depend on a seed.
    """
    parts = (network, *network._flatten_layers(include_self=False))
    known = {type(layer).__name__: type(layer) for layer in parts}
    try:
        config = _reseeded(keras.saving.serialize_keras_object(network))
        config["config"]["name"] = f"{network.name}_twin"
        other = keras.saving.deserialize_keras_object(config, custom_objects=known)
    except (TypeError, ValueError, NotImplementedError, KeyError) as error:
        raise ValueError(
            "Co-teaching builds a second network from the configuration of the first, which Keras "
            f"cannot read back for {network.name!r}: {error}"
        ) from error
    for own, theirs in zip(other.non_trainable_weights, network.non_trainable_weights, strict=True):
        own.assign(theirs)
    _refuse_equal(network, other)
    return other


def _reseeded(config: Any) -> Any:
    """The configuration with every seed in it replaced by another one."""
    if isinstance(config, dict):
        return {k: _other_seed(v) if k == "seed" else _reseeded(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_reseeded(v) for v in config)
    return config


def _other_seed(seed: Any) -> Any:
    if isinstance(seed, int):
        return (seed + _OTHER) % 2**31
    if isinstance(seed, (list, tuple)):  # words of a seed, of any number
        return [*seed, _OTHER]
    return _reseeded(seed)


def _refuse_equal(network: keras.Model, other: keras.Model) -> None:
    pairs = [
        (ops.convert_to_numpy(a), ops.convert_to_numpy(b))
        for a, b in zip(network.trainable_weights, other.trainable_weights, strict=True)
        if len(a.shape) > 1
    ]
    if pairs and all(np.array_equal(a, b) for a, b in pairs):
        raise ValueError(
            f"The second network of co-teaching starts with the very weights of {network.name!r}: "
            "its initial values do not depend on a seed."
        )
