"""How far a prediction and a given mask agree, image by image, and what follows from it.

With no clean mask at hand, agreement with the network is the best sign of how good a given mask
is. It is only a sign: a network that does not see an object disagrees with a mask that is right.
So an image counts less where both show something and differ, and a label is never moved on the
word of a network that does not see its class in the image at all.
"""

from __future__ import annotations

from typing import Any

from keras import ops

# An image in which neither shows anything agrees; a class counts from about one pixel on.
_NEUTRAL = 0.05
_FLOOR = 0.02
_BINS = 64


def class_masses(p: Any, yhat: Any, weight: Any) -> tuple[Any, Any]:
    """Return sum_i w_i p_ik and sum_i w_i yhat_ik of each image and class, both (B, C).

    Args:
        p: (B, *S, C) predicted probabilities.
        yhat: (B, *S, C) given mask.
        weight: (B, *S), 0 at void pixels.
    """
    axes = tuple(range(1, len(p.shape) - 1))
    weight = weight[..., None]
    return ops.sum(weight * p, axis=axes), ops.sum(weight * yhat, axis=axes)


def image_agreement(p: Any, yhat: Any, weight: Any) -> Any:
    """Return the soft Dice of each image's prediction and given mask, (B,), in [0, 1].

        a = sum_k m_k d_k / sum_k m_k,   d_k = 2 <p_k, yhat_k> / (|p_k|^2 + |yhat_k|^2)

    over the foreground classes k >= 1; m_k = n / (n + 1) with n = |p_k|^2 + |yhat_k|^2 lets a
    class count from about one pixel on. Where neither shows anything, a is 1.

    Args:
        p: (B, *S, C) predicted probabilities.
        yhat: (B, *S, C) given mask.
        weight: (B, *S), 0 at void pixels.

    Example:
        `image_agreement(p, yhat, ops.ones_like(p[..., 0]))`
    """
    axes = tuple(range(1, len(p.shape) - 1))
    p, yhat = p[..., 1:], yhat[..., 1:]
    weight = ops.cast(weight > 0, p.dtype)[..., None]
    both = 2.0 * ops.sum(weight * p * yhat, axis=axes)
    size = ops.sum(weight * (p * p + yhat * yhat), axis=axes)
    # both <= size, and m_k d_k = both / (size + 1): nothing is divided by zero.
    agreed = ops.sum(both / (size + 1.0), axis=-1)
    counted = ops.sum(size / (size + 1.0), axis=-1)
    return (agreed + _NEUTRAL) / (counted + _NEUTRAL)


def unseen_classes(predicted: Any, given: Any, presence: float) -> Any:
    """Return which classes (B, C) of its mask the network does not see in an image.

    A class is unseen when its predicted mass is less than `presence` times its given mass. An
    object that a mask shows in the wrong place is seen elsewhere; one that the mask lacks has no
    given mass. Both can be corrected, and a class is never moved away to nothing.

    Args:
        predicted: (B, C) masses of the prediction.
        given: (B, C) masses of the given mask.
        presence: share in [0, 1); 0 calls every class seen.
    """
    return ops.less(predicted, presence * given)


def reference_agreement(agreements: Any, share: float = 0.8) -> Any:
    """Return the quantile of the known agreements, to 1/64: what a good image reaches here.

    Args:
        agreements: (N,) of all images, negative where an image was not seen yet.
        share: share of the images at or below the quantile.
    """
    grid = ops.cast(ops.arange(1, _BINS + 1), "float32") / _BINS
    known = ops.cast(agreements >= 0, "float32")
    below = ops.cast(agreements[:, None] <= grid, "float32") * known[:, None]
    enough = ops.sum(below, axis=0) >= share * ops.sum(known)
    return ops.take(grid, ops.argmax(ops.cast(enough, "int32"), axis=0))


def image_weights(agreements: Any, reference: Any, power: float) -> Any:
    """Return w = min(1, a / reference)^power + 0.02, (B,); 1 where an image was not seen yet.

    Args:
        agreements: (B,) moving agreements, negative for none yet.
        reference: agreement from which on an image counts fully.
        power: 0 weighs all images alike.
    """
    ratio = ops.minimum(ops.maximum(agreements, 0.0) / reference, 1.0)
    return ops.where(agreements < 0, 1.0, ratio**power) + _FLOOR
