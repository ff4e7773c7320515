"""The graph that is served: a network, its probabilities, and the decoding of pictures.

A SavedModel is a TensorFlow graph, so this is written for the TensorFlow backend.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_robustseg.errors import ExportError

PICTURE_CHANNELS = (1, 3)


class SegmentationOutputs(keras.layers.Layer):
    """Turn logits z into what a server returns, in float32.

        p = softmax(z),   mask = argmax_k p_k,   entropy = -sum_k p_k log p_k   (nats)

    Shapes: (B, *S, C) -> probabilities (B, *S, C), mask (B, *S) int32, entropy (B, *S); a single
    binary logit z counts as the two logits (0, z).
    """

    def call(self, logits: Any) -> dict[str, Any]:
        """Return the three outputs by name."""
        if logits.shape[-1] == 1:
            logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
        log_probabilities = tf.nn.log_softmax(logits)
        probabilities = tf.exp(log_probabilities)
        return {
            "probabilities": probabilities,
            # keras.ops.argmax looks at the sign bit of zeros, which LiteRT has no operation for.
            "mask": tf.argmax(logits, axis=-1, output_type=tf.int32),
            "entropy": -tf.reduce_sum(probabilities * log_probabilities, axis=-1),
        }


def serving_model(network: keras.Model) -> keras.Model:
    """Build the model images -> probabilities, mask, entropy.

    Only the first output of `network` is kept, with the layers that it needs. A network trained in
    mixed precision is rebuilt in float32, which every machine can serve.

    Raises:
        ExportError: `network` is not a functional or sequential Keras model of one image.
    """
    inputs = getattr(network, "inputs", None)
    if not inputs or len(inputs) != 1:
        raise ExportError(
            f"{type(network).__name__} {getattr(network, 'name', '')!r} cannot be exported. "
            "Expected a functional or sequential keras.Model with one image as its input. "
            f"Received one with {len(inputs or ())} known inputs. Wrap it: "
            "image = keras.Input((None, None, channels)); keras.Model(image, network(image))."
        )
    main = keras.Model(inputs[0], network.outputs[0], name=network.name)
    if not _computes_in_float32(main):
        main = _in_float32(main)
    image = keras.Input(main.input_shape[1:], name="images")
    outputs = SegmentationOutputs(dtype="float32", name="outputs")(main(image, training=False))
    return keras.Model(image, outputs, name=f"{network.name}_serving")


def write_saved_model(
    served: keras.Model, directory: Path, fixed: tuple[int, ...] | None = None
) -> None:
    """Write a SavedModel with the signature `serving_default`, and the pictures' where they fit.

    Args:
        served: what `serving_model` built.
        directory: where to; other files in it are left alone.
        fixed: write for one image of this spatial size, without pictures.

    Raises:
        ExportError: a layer needs sizes that the network's input leaves open.
    """
    shape = (1, *fixed, served.input_shape[-1]) if fixed else served.input_shape
    spec = tf.TensorSpec(shape, tf.float32, name="images")
    # One trace for all signatures: tracing the network is most of the time of an export.
    run = _traced(served, spec)
    signatures = {"serving_default": run}
    if serves_pictures(served) and not fixed:
        signatures["serve_png"] = _picture_endpoint(served, run, "mask_png")
        # TensorFlow Serving's JSON sends a string as base64 only under a name that ends so.
        signatures["serve_png_json"] = _picture_endpoint(served, run, "mask_png_bytes")
    # Keras' own export archive would write every weight twice.
    module = tf.Module()
    module.weights = [variable.value for variable in served.variables]
    tf.saved_model.save(module, str(directory), signatures=signatures)


def _traced(served: keras.Model, spec: Any) -> Any:
    run = tf.function(
        lambda images: served(images, training=False), input_signature=[spec], autograph=False
    )
    try:
        run.get_concrete_function()
    except (TypeError, ValueError) as error:  # TensorFlow's own error here is a TypeError
        raise ExportError(
            f"{served.name}: cannot be traced for images of shape {tuple(spec.shape)}: "
            f"{str(error).strip().splitlines()[0]} Some layers (bilinear UpSampling2D is one) "
            "need sizes that are known beforehand: build the network with a fixed input_shape."
        ) from error
    return run


def serves_pictures(served: keras.Model) -> bool:
    """Whether encoded pictures can be its input: 2-D, with one channel or three."""
    return len(served.input_shape) == 4 and served.input_shape[-1] in PICTURE_CHANNELS


def _picture_endpoint(
    served: keras.Model, run: Callable[[Any], dict[str, Any]], encoded_name: str
) -> Any:
    classes = served.output["probabilities"].shape[-1]
    pixel = tf.uint8 if classes <= 256 else tf.uint16

    spec = tf.TensorSpec((None,), tf.string, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def serve(images: Any) -> dict[str, Any]:
        pictures = _decode_batch(images, served.input_shape[-1])
        outputs = run(tf.ensure_shape(pictures, served.input_shape))
        mask = outputs["mask"]
        return {
            "mask": mask,
            encoded_name: tf.io.encode_png(tf.cast(mask[..., None], pixel)),
            "entropy": outputs["entropy"],
        }

    return serve


def _decode_batch(images: Any, channels: int) -> Any:
    """Decode pictures of one size: (B,) strings -> float32 (B, H, W, channels)."""
    with tf.control_dependencies(
        [tf.debugging.assert_positive(tf.size(images), "serve_png: the batch holds no image.")]
    ):
        size = tf.shape(_decode(images[0], channels))

    def decode(encoded: Any) -> Any:
        picture = _decode(encoded, channels)
        same = tf.debugging.assert_equal(
            tf.shape(picture),
            size,
            "serve_png: the images of one request must be equal in height and width. Send images "
            "of different sizes in separate requests.",
        )
        with tf.control_dependencies([same]):
            return tf.identity(picture)

    return tf.map_fn(
        decode, images, fn_output_signature=tf.TensorSpec((None, None, channels), tf.float32)
    )


def _decode(encoded: Any, channels: int) -> Any:
    """Decode one picture, its values as stored: 0 to 255, or 0 to 65535 in a PNG of 16 bits."""
    # TensorFlow would scale the values when asked for another depth than the file's own.
    header = tf.strings.join([encoded, b"\0" * 25])
    is_png = tf.strings.substr(header, 0, 4) == b"\x89PNG"
    deep = tf.strings.substr(header, 24, 1) == b"\x10"
    picture = tf.cond(
        is_png & deep,
        lambda: tf.cast(tf.io.decode_png(encoded, channels, dtype=tf.uint16), tf.float32),
        lambda: tf.cast(tf.io.decode_image(encoded, channels, expand_animations=False), tf.float32),
    )
    return tf.ensure_shape(picture, (None, None, channels))


def _computes_in_float32(model: keras.Model) -> bool:
    return all(
        _computes_in_float32(layer)
        if isinstance(layer, keras.Model)
        else layer.compute_dtype == "float32"
        for layer in model.layers
    )


def _in_float32(model: keras.Model) -> keras.Model:
    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=rebuild, recursive=True)
    copy.set_weights(model.get_weights())
    return copy
