"""U-Net for images and volumes of any size."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_robustseg.models._initial import SeededHeNormal
from keras_robustseg.models._normalize import normalized
from keras_robustseg.models._sizes import CropLike, PadToMultiple

NORMS = ("batch", "group")


class _Rank(NamedTuple):
    """The Keras layers of one number of spatial dimensions."""

    conv: type
    up: type
    pool: type
    repeat: type


_RANKS = {
    2: _Rank(layers.Conv2D, layers.Conv2DTranspose, layers.MaxPooling2D, layers.UpSampling2D),
    3: _Rank(layers.Conv3D, layers.Conv3DTranspose, layers.MaxPooling3D, layers.UpSampling3D),
}


class _Plan(NamedTuple):
    """What every stage of one network shares."""

    rank: _Rank
    norm: str
    width: int
    depth: int
    dropout: float
    seed: int | None

    def initial(self, layer: str) -> Any:
        """Initial kernel of a layer: Keras' own draw, or one that a seed fixes."""
        if self.seed is None:
            return "he_normal"
        return SeededHeNormal([self.seed, zlib.crc32(layer.encode())])


def unet(
    input_shape: Sequence[int | None],
    num_classes: int,
    *,
    width: int = 16,
    depth: int = 4,
    norm: str = "batch",
    dropout: float = 0.0,
    deep_supervision: bool = False,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int | None = None,
    name: str = "unet",
) -> keras.Model:
    """Build a U-Net that returns logits of the input's size, in 2-D or 3-D.

    Each of `depth` resolutions has two blocks convolution 3 - norm - ReLU; channels double as the
    resolution halves; decoder stages go up by a transposed convolution of stride 2. Source:
    Ronneberger et al., U-Net, MICCAI 2015; Cicek et al., 3D U-Net, MICCAI 2016. Images are
    mirrored at their end to a multiple of 2^(depth - 1) and the logits cut back, so any size
    works. Logits are float32 under mixed precision too.

    Shapes: (B, *S, ch) -> (B, *S, num_classes); with `deep_supervision` a list of such tensors,
    the main one first, then one per coarser decoder stage.

    Args:
        input_shape: (H, W, ch) or (D, H, W, ch); sizes may be None, ch may not.
        num_classes: channels of the logits; 1 means a single binary logit.
        width: channels at full resolution.
        depth: number of resolutions, at least 1.
        norm: `"batch"`, or `"group"` (at most 8 groups) for batches of one or two volumes.
        dropout: rate after the blocks of the two coarsest resolutions.
        deep_supervision: also return logits of the coarser decoder stages (depth 3 or more).
        normalization: (mean, variance) per channel of the input, kept as constants.
        seed: of the initial weights, which are then the same on every backend; None leaves them
            to Keras and its global seed.
        name: the model's name.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        ```python
        network = unet((None, None, 1), 2, width=8, depth=3)
        network(keras.ops.zeros((1, 33, 50, 1))).shape  # (1, 33, 50, 2)
        ```
    """
    shape = tuple(input_shape)
    _check(shape, num_classes, width, depth, norm, dropout, deep_supervision)
    plan = _Plan(_RANKS[len(shape) - 1], norm, width, depth, dropout, seed)
    image = keras.Input(shape, name="image")
    x = normalized(image, normalization)
    x = PadToMultiple(2 ** (depth - 1), name="pad")(x)
    decoded = _decode(plan, _encode(plan, x))
    logits = [
        CropLike(dtype="float32", name=_numbered("logits", level))(
            [_head(plan, decoded[level], level, num_classes), image]
        )
        for level in range(max(depth - 1, 1) if deep_supervision else 1)
    ]
    return keras.Model(image, logits if deep_supervision else logits[0], name=name)


def _encode(plan: _Plan, x: Any) -> list[Any]:
    """Return the features of every resolution, finest first."""
    features = []
    for level in range(plan.depth):
        if level:
            x = plan.rank.pool(2, name=f"down{level}")(x)
        x = _blocks(plan, x, level, f"encoder{level}")
        if plan.dropout and level >= plan.depth - 2:
            x = layers.Dropout(plan.dropout, name=f"dropout{level}")(x)
        features.append(x)
    return features


def _decode(plan: _Plan, features: list[Any]) -> list[Any]:
    """Return the decoder's features of every resolution, finest first."""
    decoded = [features[-1]]
    for level in reversed(range(plan.depth - 1)):
        # 2x2 with stride 2 tiles the output without overlap: faster than nearest + convolution.
        name = f"up{level}"
        # No bias: the normalisation of the next block would take it out again, and its gradient
        # is rounding noise, which Adam turns into full steps.
        up = plan.rank.up(
            _channels(plan, level),
            2,
            strides=2,
            use_bias=False,
            kernel_initializer=plan.initial(name),
            name=name,
        )(decoded[0])
        joined = layers.Concatenate(name=f"join{level}")([features[level], up])
        decoded.insert(0, _blocks(plan, joined, level, f"decoder{level}"))
    return decoded


def _blocks(plan: _Plan, x: Any, level: int, name: str) -> Any:
    for step in (1, 2):
        x = plan.rank.conv(
            _channels(plan, level),
            3,
            padding="same",
            use_bias=False,
            kernel_initializer=plan.initial(f"{name}_conv{step}"),
            name=f"{name}_conv{step}",
        )(x)
        x = _norm(plan, level, f"{name}_norm{step}")(x)
        x = layers.ReLU(name=f"{name}_relu{step}")(x)
    return x


def _norm(plan: _Plan, level: int, name: str) -> keras.layers.Layer:
    if plan.norm == "batch":
        # Keras' momentum of .99 needs hundreds of steps before evaluation means anything.
        return layers.BatchNormalization(momentum=0.9, name=name)
    return layers.GroupNormalization(math.gcd(8, _channels(plan, level)), epsilon=1e-5, name=name)


def _head(plan: _Plan, x: Any, level: int, num_classes: int) -> Any:
    """Logits of one decoder stage, repeated to full resolution."""
    name = _numbered("head", level)
    x = plan.rank.conv(
        num_classes, 1, kernel_initializer=plan.initial(name), dtype="float32", name=name
    )(x)
    if level:
        x = plan.rank.repeat(2**level, dtype="float32", name=_numbered("repeat", level))(x)
    return x


def _channels(plan: _Plan, level: int) -> int:
    return plan.width * 2**level


def _numbered(name: str, level: int) -> str:
    return f"{name}_{level}" if level else name


def _check(
    shape: tuple[int | None, ...],
    num_classes: int,
    width: int,
    depth: int,
    norm: str,
    dropout: float,
    deep_supervision: bool,
) -> None:
    ranks = len(shape) - 1 in _RANKS and isinstance(shape[-1], int) and shape[-1] > 0
    sizes = all(size is None or (isinstance(size, int) and size > 0) for size in shape)
    _require(
        ranks and sizes,
        "input_shape",
        "(H, W, channels) or (D, H, W, channels), positive, sizes possibly None",
        shape,
    )
    for argument, value in (("num_classes", num_classes), ("width", width), ("depth", depth)):
        positive = isinstance(value, int) and not isinstance(value, bool) and value > 0
        _require(positive, argument, "a positive integer", value)
    _require(norm in NORMS, "norm", f"one of {NORMS}", norm)
    _require(0 <= dropout < 1, "dropout", "a rate in [0, 1)", dropout)
    _require(
        not deep_supervision or depth >= 3,
        "deep_supervision",
        "depth of 3 or more",
        f"depth {depth}",
    )


def _require(good: bool, argument: str, expected: str, received: object) -> None:
    if not good:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected {expected}. "
            f"Received: {argument}={received!r}"
        )
