"""What every attack is given: a network, images, labels and which of its pixels count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import tensorflow as tf

from keras_robustseg.attacks._model import Network, network_of
from keras_robustseg.attacks._scene import Scene


class Common(TypedDict, total=False):
    """Options that all attacks share.

    targeted: `labels` are the classes to reach, instead of those to leave.
    ignore_label: id of void pixels; negative ids are void too. Void pixels neither count nor
        enter a loss.
    success_rate: share of the valid pixels that must be flipped (targeted: reached), (0, 1].
    bounds: lowest and highest value of the model's input, `(0.0, 1.0)`. What the images are scaled
        to before the model is outside of the attack; `Rescaling` in the model is inside.
    from_logits: True, False for probabilities, None to find out from the model.
    quantize: return images on the 8-bit levels of the bounds, and judge those.
    seed: of the random draws.
    jit_compile: compile by XLA; useful on a GPU, slower on a CPU.
    """

    targeted: bool
    ignore_label: int | None
    success_rate: float
    bounds: tuple[float, float]
    from_logits: bool | None
    quantize: bool
    seed: int
    jit_compile: bool


@dataclass(frozen=True)
class Problem:
    """Checked input of an attack: images (B, *S, F), labels and valid (B, pixels)."""

    network: Network
    images: tf.Tensor
    labels: tf.Tensor
    valid: tf.Tensor
    targeted: bool
    success_rate: float
    bounds: tuple[float, float]
    quantize: bool
    seed: int
    jit_compile: bool

    @property
    def width(self) -> float:
        """Width of the bounds."""
        return self.bounds[1] - self.bounds[0]

    def run(self, function: Callable, *tensors: Any, **static: Any) -> Any:
        """Run `function(scene, *tensors, **static)` as a graph; `scene` is this problem."""
        static |= {"attack": function, "aim": (self.targeted, self.bounds, self.success_rate)}
        cast = [tf.convert_to_tensor(np.asarray(t, self.network.dtype)) for t in tensors]
        fixed = (self.images, self.labels, self.valid)
        return self.network.run(_on_scene, (*fixed, *cast), static, jit_compile=self.jit_compile)

    def per_image(self, name: str, value: Any) -> np.ndarray:
        """Return a positive number, or one per image, as (B, 1, .., 1)."""
        numbers = np.asarray(value, "float64")
        if numbers.shape not in ((), (len(self.images),)) or not np.all(
            np.isfinite(numbers) & (numbers >= 0)
        ):
            raise ValueError(
                f"`{name}` must be a finite number >= 0, or one per image. Received: {value}"
            )
        full = np.broadcast_to(numbers, (len(self.images),))
        return full.reshape(-1, *[1] * (len(self.images.shape) - 1))


def _on_scene(
    network: Network,
    images: Any,
    labels: Any,
    valid: Any,
    *tensors: Any,
    attack: Callable,
    aim: tuple,
    **static: Any,
) -> Any:
    """Run an attack where its problem has become tensors of a graph."""
    return attack(Scene(network, images, labels, valid, *aim), *tensors, **static)


def prepare(
    model: Any,
    images: Any,
    labels: Any,
    *,
    targeted: bool = False,
    ignore_label: int | None = None,
    success_rate: float = 0.99,
    bounds: tuple[float, float] = (0.0, 1.0),
    from_logits: bool | None = None,
    quantize: bool = False,
    seed: int = 0,
    jit_compile: bool = False,
) -> Problem:
    """Check the input of an attack; the options are those of `Common`.

    Raises:
        ValueError: images outside the bounds or not finite, labels of another shape or out of
            range, a model with several inputs or outputs, or one that gives NaN.
        TypeError: `model` is not a Keras model.
    """
    low, high = _checked_bounds(bounds)
    if not 0 < success_rate <= 1:
        raise ValueError(f"`success_rate` must be in (0, 1]. Received: {success_rate}")
    pixels = _checked_images(images, low, high)
    network = network_of(model, from_logits, pixels[:1])
    pixels = pixels.astype(network.dtype)
    ids, valid = _checked_labels(labels, pixels.shape[:-1], ignore_label, network.classes)
    return Problem(
        network,
        tf.constant(pixels),
        tf.constant(ids),
        tf.constant(valid),
        bool(targeted),
        float(success_rate),
        (low, high),
        bool(quantize),
        int(seed),
        bool(jit_compile),
    )


def _checked_bounds(bounds: Any) -> tuple[float, float]:
    try:
        low, high = (float(b) for b in bounds)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`bounds` must be two numbers, low < high. Received: {bounds}")
    return low, high


def _checked_images(images: Any, low: float, high: float) -> np.ndarray:
    pixels = np.asarray(images)
    if pixels.ndim < 3 or 0 in pixels.shape or pixels.dtype.kind not in "fiu":
        raise ValueError(
            "`images` must be numbers of shape (B, *S, F), channels last. "
            f"Received: shape {pixels.shape}, dtype {pixels.dtype}"
        )
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= low and most <= high):
        raise ValueError(
            f"`images` must be finite and within `bounds`, [{low:g}, {high:g}]. Received: values "
            f"from {least:g} to {most:g}. Scale the images or give the bounds of the model's input."
        )
    return pixels


def _checked_labels(
    labels: Any, shape: tuple[int, ...], ignore_label: int | None, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids, 0 at void pixels, and which pixels count; both (B, pixels)."""
    ids = np.asarray(labels)
    if ids.shape == (*shape, 1):
        ids = ids[..., 0]
    if ids.shape != shape or ids.dtype.kind not in "biuf" or not np.all(ids == np.rint(ids)):
        raise ValueError(
            f"`labels` must be whole numbers of shape {shape}, one per pixel of `images`. "
            f"Received: shape {ids.shape}, dtype {ids.dtype}"
        )
    ids = ids.astype("int64").reshape(len(ids), -1)
    valid = (ids >= 0) & (True if ignore_label is None else ids != ignore_label)
    wrong = np.unique(ids[valid & (ids >= classes)])
    if wrong.size:
        raise ValueError(
            f"`labels` must be below {classes}, the number of classes of the model. Received: "
            f"{wrong[:5].tolist()}. Name the id of void pixels with `ignore_label`."
        )
    return np.where(valid, ids, 0).astype("int32"), valid
