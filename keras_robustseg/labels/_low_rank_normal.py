"""A low-rank normal distribution over the logits of a whole image, packed into one tensor.

For an image with n pixels and C classes, flattened to nC numbers,

    eta = mean + P z + sqrt(d) e,   z ~ N(0, I_R), e ~ N(0, I_nC):   N(mean, P P^T + diag d)

so R shared numbers z make neighbouring, and far, pixels err together. The parameters lie along
the last axis: mean (C), log d (C), factor P (C R, class by class), and the seed of the samples
that the loss draws, which comes with the prediction since a loss keeps no state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
from keras import ops

# exp of it is far beyond any logit that matters, and far below what overflows.
_LARGEST_LOG = 15.0
# A seed is a whole number of 24 bits, so that float32 holds it, as a fraction of 1.
_SEEDS = 1 << 24
_STRIDE = 0x9E3779B1 - (1 << 32)  # odd: all seeds come up before one comes back


class LowRankNormal(NamedTuple):
    """Parameters, float32: mean (B, *S, C), variance d (B, *S, C), factor P (B, *S, C, R)."""

    mean: Any
    diagonal: Any
    factor: Any


def packed_channels(num_classes: int, rank: int) -> int:
    """Return the length of the last axis: (R + 2) C + 1."""
    return (rank + 2) * num_classes + 1


def rank_of(channels: int | None, num_classes: int) -> int | None:
    """Return R from the length of the last axis; None where it holds no packed normal."""
    rank, rest = divmod((channels or 0) - 1, num_classes)
    return rank - 2 if rest == 0 and rank >= 2 else None


def seed_channel(step: Any, seed: int) -> Any:
    """Return the fraction of 1 that stands for the seed of a training step, an int32 scalar."""
    number = ops.convert_to_tensor(step) * _STRIDE + (seed * 0x85EBCA6B) % _SEEDS
    return ops.cast(ops.bitwise_and(number, _SEEDS - 1), "float32") / _SEEDS


def channel_seed(packed: Any) -> Any:
    """Return the seed, an int32 scalar, that a packed normal (B, *S, ...) came with."""
    # The largest: where pixels were blanked out it is 0.
    return ops.cast(ops.max(ops.stop_gradient(packed[..., -1])) * _SEEDS, "int32")


def pack_normal(mean: Any, log_diagonal: Any, factor: Any, seed: Any) -> Any:
    """Return the parameters side by side, (B, *S, (R + 2) C + 1).

    Args:
        mean: (B, *S, C).
        log_diagonal: log d (B, *S, C).
        factor: P (B, *S, C R), class by class.
        seed: (B, *S, 1), `seed_channel` of the step.
    """
    return ops.concatenate([mean, log_diagonal, factor, seed], axis=-1)


def unpack_normal(packed: Any, num_classes: int) -> LowRankNormal:
    """Return the parameters of a packed normal.

    Raises:
        ValueError: the last axis is not (R + 2) C + 1 long for any R >= 0.
    """
    rank = rank_of(packed.shape[-1], num_classes)
    if rank is None:
        raise ValueError(
            f"No packed normal over {num_classes} classes. Expected a last axis of "
            f"(rank + 2) * {num_classes} + 1. Received: shape={tuple(packed.shape)}"
        )
    packed, classes = ops.cast(packed, "float32"), num_classes
    log_diagonal = ops.minimum(packed[..., classes : 2 * classes], _LARGEST_LOG)
    space = tuple(ops.shape(packed)[:-1])
    factor = ops.reshape(packed[..., 2 * classes : -1], (*space, classes, rank))
    return LowRankNormal(packed[..., :classes], ops.exp(log_diagonal), factor)


def sample_logits(normal: LowRankNormal, count: int, seed: Any, *, paired: bool = False) -> Any:
    """Return samples eta (count, B, *S, C) of the logits of whole images.

    Args:
        normal: the parameters.
        count: how many.
        seed: int, or an integer tensor (): the same one gives the same samples.
        paired: the second half mirrors the first about the mean (count must be even), which takes
            odd errors out of a Monte Carlo mean.
    """
    shape, rank = tuple(ops.shape(normal.mean)), normal.factor.shape[-1]
    half, pixels = count // 2 if paired else count, math.prod(shape[1:-1])
    # One draw for both parts: they may not be the same numbers.
    draws = _normal_draws((half, shape[0], rank + pixels * shape[-1]), seed)
    axes = [1] * (len(shape) - 1)
    shared = ops.reshape(draws[..., :rank], (half, shape[0], *axes, rank))
    own = ops.reshape(draws[..., rank:], (half, *shape))
    offset = ops.sum(normal.factor * shared, axis=-1) + ops.sqrt(normal.diagonal) * own
    if paired:
        offset = ops.concatenate([offset, -offset], axis=0)
    return normal.mean + offset


def _normal_draws(shape: tuple[int, ...], seed: Any) -> Any:
    """Standard normal draws that are a function of the seed alone, compiled or not.

    (`keras.random` takes no tensor as seed. TensorFlow's Philox gives the same bits with XLA, but
    XLA makes other fractions of them, so fractions and normals are made here: Box and Muller.)
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        pairs = (-(-math.prod(shape) // 2),)
        seeds = [tf.stack([ops.cast(seed, "int32"), part]) for part in (0, 1)]
        radius, angle = (_fractions(pairs, both) for both in seeds)
        radius, angle = ops.sqrt(-2.0 * ops.log(radius)), 2.0 * math.pi * angle
        both = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=0)
        return ops.reshape(both[: math.prod(shape)], shape)
    import jax

    return jax.random.normal(jax.random.key(seed), shape)


def _fractions(shape: tuple[int, ...], seed: Any) -> Any:
    """Uniform draws in (0, 1): odd multiples of 2^-24, all of them exact in float32."""
    import tensorflow as tf

    whole = {"minval": None, "maxval": None, "dtype": tf.uint32}
    bits = tf.random.stateless_uniform(shape, seed, alg="philox", **whole)
    high = tf.cast(
        tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), "int32"), "float32"
    )
    return (high + 0.5) * 2.0**-23
