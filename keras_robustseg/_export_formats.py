"""Writing a network in each served form, and comparing each with Keras on one image."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_robustseg._export_graph import serving_model, write_saved_model
from keras_robustseg.errors import ExportError

ONNX_FILE = "model.onnx"
LITERT_FILE = "model.tflite"
# Far above float32 rounding, far below any difference that changes a mask for a visible reason.
TOLERANCE = 1e-3
_PROBE_SIZES = {2: (37, 45), 3: (9, 12, 10)}


def write_formats(
    network: keras.Model,
    directory: Path,
    *,
    formats: Sequence[str],
    size: tuple[int, ...] | None = None,
) -> dict[str, float | None]:
    """Write `network` into `directory` in every one of `formats`.

    Args:
        network: the network that was trained.
        directory: exists already.
        formats: some of `"saved_model"`, `"onnx"`, `"litert"`.
        size: the spatial size of the LiteRT file, where the network leaves it open.

    Returns:
        per format, the largest difference of a probability from Keras' on one image; None where
        the form cannot be run here.

    Raises:
        ExportError: a form cannot be written, or differs by more than `TOLERANCE`.
    """
    served = serving_model(network)
    parity = {}
    for form in formats:
        fixed = _fixed_size(served, size) if form == "litert" else None
        found = _WRITERS[form](served, directory, fixed)
        parity[form] = found
        if found is not None and not found <= TOLERANCE:
            raise ExportError(
                f"{form}: its probabilities differ from Keras' by {found:.2g} on a test image. "
                f"Expected at most {TOLERANCE:g}. Nothing was exported."
            )
    return parity


def _saved_model(served: keras.Model, directory: Path, fixed: None) -> float:
    write_saved_model(served, directory)
    run = tf.saved_model.load(str(directory)).signatures["serving_default"]
    return _difference(served, lambda image: run(images=tf.constant(image))["probabilities"])


def _onnx(served: keras.Model, directory: Path, fixed: None) -> float | None:
    path = directory / ONNX_FILE
    served(_probe_image(served))  # Keras exports only what was called before
    try:
        for package in ("onnx", "tf2onnx"):
            importlib.import_module(package)
        served.export(str(path), format="onnx", verbose=False)
    except ImportError as error:
        raise ExportError(
            f"onnx: the extra `onnx` is needed, and it cannot be imported ({error}). "
            'Install it with `pip install "keras-robustseg[onnx]"`.'
        ) from error
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    place = next(i for i, output in enumerate(outputs) if "probabilities" in output)
    return _difference(served, lambda image: session.run(None, {name: image})[place])


def _litert(served: keras.Model, directory: Path, fixed: tuple[int, ...]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(served, Path(folder), fixed)
        try:
            # The converter's default: operations of the stock interpreter only.
            content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # the converter raises many types
            raise ExportError(
                f"litert: {served.name} cannot be converted. LiteRT's own operations are needed "
                "everywhere, and it has few for volumes. The converter says: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    (directory / LITERT_FILE).write_bytes(content)
    run = tf.lite.Interpreter(model_content=content).get_signature_runner()
    return _difference(served, lambda image: run(images=image)["probabilities"], fixed)


_WRITERS: dict[str, Callable[[keras.Model, Path, Any], float | None]] = {
    "saved_model": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
}


def _difference(
    served: keras.Model,
    run: Callable[[np.ndarray], Any],
    fixed: tuple[int, ...] | None = None,
) -> float:
    """Largest difference of a probability on one image of noise."""
    image = _probe_image(served, fixed)
    expected = keras.ops.convert_to_numpy(served(image, training=False)["probabilities"])
    return float(np.max(np.abs(np.asarray(run(image)) - expected)))


def _probe_image(served: keras.Model, fixed: tuple[int, ...] | None = None) -> np.ndarray:
    *sizes, channels = served.input_shape[1:]
    usual = _PROBE_SIZES[len(sizes)]
    probe = fixed or tuple(size or other for size, other in zip(sizes, usual, strict=True))
    return np.random.default_rng(0).normal(size=(1, *probe, channels)).astype("float32")


def _fixed_size(served: keras.Model, size: tuple[int, ...] | None) -> tuple[int, ...]:
    sizes = served.input_shape[1:-1]
    asked = sizes if size is None else size
    fits = len(asked) == len(sizes) and None not in asked
    if fits and all(own in (None, given) for own, given in zip(sizes, asked, strict=True)):
        return asked
    raise ExportError(
        f"litert: the size must be fixed. Expected size= with {len(sizes)} numbers that fit the "
        f"network's input {served.input_shape[1:]}. Received: size={size}. Export with "
        "size=(height, width), or leave litert out."
    )
