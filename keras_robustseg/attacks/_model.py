"""Any Keras segmentation model as a function from images to logits (B, pixels, classes)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SMALLEST = 1e-37
_SOFTMAX, _SIGMOID = "softmax", "sigmoid"
_WRAP = (
    "An attack moves one image and reads one map of classes. Wrap the model: "
    "keras.Model(image, main_output), with other inputs held constant inside."
)
_networks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Network:
    """Logits of a model in inference mode, and the functions compiled for it.

    The logits are the output itself, [0, s] of a single channel s, or log p of probabilities. A
    softmax or sigmoid that ends a functional model is taken off, because it rounds: a sigmoid in
    float32 is 1 above 17, and then its gradient is 0.

    Args:
        model: a built Keras model of one input and one output, channels last.
        probabilities: whether the output is p; None takes it from the last layer, and from the
            values where that layer cannot be seen.
        example: one image (1, *S, F), to look at the output.
    """

    def __init__(self, model: keras.Model, probabilities: bool | None, example: Any) -> None:
        self.functions: dict[Any, Callable] = {}
        reference: Any = weakref.ref(model)
        head = None if probabilities is False else _head(model)
        self._features = head or (lambda x: reference()(x, training=False))
        # The policy of a functional model says nothing of its layers; their output does.
        dtype = getattr(_first_call(self._features, example), "dtype", None)
        self.dtype = "float64" if dtype == "float64" else "float32"
        output = self._output(example)
        if probabilities is None:
            probabilities = _looks_like_probabilities(output)
        self.probabilities = bool(probabilities) and head is None
        self.classes = max(2, int(output.shape[-1]))

    def _output(self, images: Any) -> Any:
        images = tf.cast(images, self.dtype)
        output = self._features(images)
        _check_output(output, images)
        return tf.cast(output, self.dtype)

    def __call__(self, images: Any) -> Any:
        """Return logits (B, *S, C), C >= 2, in float32, or float64 for a float64 model."""
        output = self._output(images)
        single = output.shape[-1] == 1
        if self.probabilities:
            output = tf.concat([1 - output, output], -1) if single else output
            return tf.math.log(tf.maximum(output, SMALLEST))
        return tf.concat([tf.zeros_like(output), output], -1) if single else output

    def pixels(self, images: Any) -> Any:
        """Return logits (B, pixels, C)."""
        return tf.reshape(self(images), (images.shape[0], -1, self.classes))

    def run(
        self,
        function: Callable,
        tensors: Sequence[Any],
        static: Mapping[str, Any],
        *,
        jit_compile: bool,
    ) -> Any:
        """Return `function(network, *tensors, **static)` of a graph, made once per shapes."""
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        key = (function, jit_compile, tuple(sorted(static.items())), shapes)
        if key not in self.functions:
            me = weakref.proxy(self)
            # Python control flow is not turned into a graph's: errors stay as they are raised.
            graph = tf.function(
                lambda *inputs: function(me, *inputs, **static),
                jit_compile=jit_compile,
                autograph=False,
            )
            # Called by itself it would warn of too many graphs, though each has its use.
            specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
            self.functions[key] = graph.get_concrete_function(*specs)
        return self.functions[key](*tensors)


def network_of(model: Any, from_logits: bool | None, example: Any) -> Network:
    """Return the network of a model; the same one, with its graphs, in later calls."""
    if isinstance(model, Network):
        return model
    _check_model(model, example)
    known = _networks.setdefault(model, {})
    if from_logits not in known:
        known[from_logits] = Network(
            model, None if from_logits is None else not from_logits, example
        )
    return known[from_logits]


def _check_model(model: Any, example: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    for what in ("input", "output"):
        count = len(getattr(model, f"{what}s", None) or [None])
        if count != 1:
            raise ValueError(f"Expected a model of one {what}, received {count}. {_WRAP}")
    takes = tuple(model.inputs[0].shape) if getattr(model, "inputs", None) else None
    if takes is not None and not _fits(takes, example.shape):
        raise ValueError(
            f"`images` must be what the model takes, {takes}. Received: (B, "
            f"{', '.join(map(str, example.shape[1:]))})"
        )


def _fits(pattern: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    """Whether a shape is of a pattern in which None is any size; the batch does not count."""
    pairs = zip(pattern[1:], shape[1:], strict=False)
    return len(pattern) == len(shape) and all(a in (None, b) for a, b in pairs)


def _first_call(features: Callable, example: Any) -> Any:
    """Call a model for the first time; one that takes something else fails here."""
    try:
        return features(example)
    except (TypeError, ValueError, KeyError, tf.errors.InvalidArgumentError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The model cannot be called with one image {tuple(example.shape)}: {reason} {_WRAP}"
        ) from error


def _check_output(output: Any, images: Any) -> None:
    found = getattr(output, "shape", None)
    if found is None or not _fits((None, *found[1:-1], None), images.shape):
        raise ValueError(
            "Expected a model that maps images (B, *S, F) to a map of classes (B, *S, C) with the "
            f"same *S, channels last. Received: images {tuple(images.shape)}, output "
            f"{type(output).__name__ if found is None else tuple(found)}"
        )


def _activation(layer: Any) -> str | None:
    """Name of the activation that a layer ends with, where it is one that gives probabilities."""
    if isinstance(layer, keras.layers.Softmax):
        return _SOFTMAX if layer.axis in (-1, [-1], (-1,)) else None
    known = {keras.activations.softmax: _SOFTMAX, keras.activations.sigmoid: _SIGMOID}
    return known.get(getattr(layer, "activation", None))


def _head(model: keras.Model) -> Callable | None:
    """The model without the softmax or sigmoid that ends it, sharing its weights; or None."""
    outputs = getattr(model, "outputs", None)
    layer: Any = getattr(outputs[0], "_keras_history", [None])[0] if outputs else None
    if _activation(layer) is None or len(layer._inbound_nodes) != 1:
        return None
    features = keras.Model(model.inputs[0], layer.input)
    if isinstance(layer, (keras.layers.Softmax, keras.layers.Activation)):
        return lambda x: features(x, training=False)
    # A stateless call does not cast by the layer's policy.
    dtype = layer.compute_dtype
    bare = type(layer).from_config({**layer.get_config(), "activation": None, "dtype": dtype})
    bare.build(layer.input.shape)

    def head(images: Any) -> Any:
        weights = (layer.trainable_variables, layer.non_trainable_variables)
        cast = [[tf.cast(weight, dtype) for weight in group] for group in weights]
        return bare.stateless_call(*cast, tf.cast(features(images, training=False), dtype))[0]

    return head


def _looks_like_probabilities(output: Any) -> bool:
    values = np.asarray(output, "float64")
    inside = bool(np.all((values >= 0) & (values <= 1)))
    return inside and (
        values.shape[-1] == 1 or bool(np.allclose(values.sum(-1), 1, rtol=0, atol=5e-3))
    )
