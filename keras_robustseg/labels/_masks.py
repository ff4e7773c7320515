"""One reading of every form a mask can have: ids, several readers, soft labels; void apart."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def num_classes_of(y_pred: Any) -> int:
    """Return the number of classes C of predictions (B, *S, C); one channel means two classes.

    Raises:
        ValueError: the last axis has no static size.

    Example:
        `num_classes_of(keras.ops.zeros((1, 8, 8, 1)))  # 2`
    """
    channels = y_pred.shape[-1]
    if channels is None:
        raise ValueError(
            "The class axis of `y_pred` must have a static size. "
            f"Expected (batch, *space, classes). Received: shape={tuple(y_pred.shape)}"
        )
    return 2 if channels == 1 else int(channels)


def log_probabilities(y_pred: Any, *, from_logits: bool = True, where: Any = None) -> Any:
    """Return log p (B, *S, C) in float32 from logits or probabilities.

    One channel is a binary output z: log p = (log sigmoid(-z), log sigmoid(z)). Probabilities are
    floored at `keras.config.epsilon()`, as in Keras' own cross-entropies.

    Args:
        y_pred: (B, *S, C) logits or probabilities, any float type; C = 1 means two classes.
        from_logits: whether `y_pred` holds logits.
        where: bool (B, *S); elsewhere `y_pred` is not read: no gradient flows there, and NaN or
            infinite entries do no harm.

    Example:
        `log_probabilities(keras.ops.zeros((1, 4, 4, 3)))  # log(1/3) everywhere`
    """
    y_pred = ops.cast(y_pred, "float32")
    if from_logits and num_classes_of(y_pred) == 2:
        return _log_pair(y_pred, where)
    if y_pred.shape[-1] == 1:
        y_pred = ops.concatenate([1.0 - y_pred, y_pred], axis=-1)
    if where is not None:
        y_pred = ops.where(ops.expand_dims(where, -1), y_pred, 0.0)
    if from_logits:
        return ops.log_softmax(y_pred, axis=-1)
    return ops.log(ops.maximum(y_pred, keras.config.epsilon()))


def _log_pair(logits: Any, where: Any) -> Any:
    """Log-softmax of two classes: one softplus of the margin, a third of the time on a CPU."""
    margin = logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]
    if where is not None:
        margin = ops.where(where, margin, 0.0)
    return -ops.softplus(ops.expand_dims(margin, -1) * ops.array([1.0, -1.0]))


def label_distribution(
    y_true: Any,
    num_classes: int,
    *,
    rank: int,
    ignore_class: int | None = None,
    dtype: str = "float32",
) -> tuple[Any, Any]:
    """Return what was observed of a mask: (yhat (B, *S, C), valid (B, *S)), both of `dtype`.

    yhat is a distribution over the classes at valid pixels and 0 at void ones; valid is 1 or 0.
    The form of `y_true` is told by its type and its last axis:

    | type | shape | read as |
    |---|---|---|
    | int | (B, *S) | class ids |
    | int | (B, *S, R) | class ids of R readers; yhat is the share of the readers who answered |
    | float | (B, *S) | class ids stored as floats |
    | float | (B, *S, 1) | two classes: P(class 1); more classes: ids stored as floats |
    | float | (B, *S, C) | soft labels, normalised to sum 1 |

    Void is a negative id, or `ignore_class`, or a soft row with no mass (or none left once the
    column `ignore_class` is taken out), or a pixel that no reader answered. An id outside
    0..C-1 that is not void, or a negative entry in a soft row that has mass, has no meaning: its
    yhat is NaN, so that a finite guard sees it. Masks are checked when they are read from disk;
    an integer one-hot mask is not a form (it reads as C readers): cast it to float.

    Args:
        y_true: the mask, in one of the forms above.
        num_classes: C, at least 2.
        rank: number of axes of the predictions (B, *S, C).
        ignore_class: one more id that means void.
        dtype: type of the results.

    Raises:
        ValueError: the shape of `y_true` is none of the forms above.

    Example:
        `yhat, valid = label_distribution(np.array([[[0, 1], [-1, 1]]]), 2, rank=4)`
    """
    y_true = ops.convert_to_tensor(y_true)
    is_float = keras.backend.is_float_dtype(y_true.dtype)
    channels = _trailing_axis(y_true, num_classes, rank, is_float)
    if channels is not None and is_float and channels > 1:
        return _soft(ops.cast(y_true, dtype), num_classes, ignore_class)
    if channels is not None and is_float and num_classes == 2:
        return _soft(_pair(ops.cast(y_true, dtype)), num_classes, ignore_class)
    # int32 holds every id and every void value of the unsigned types; floats stay as they are,
    # so that an id of 0.5 matches no class instead of being truncated to one.
    ids = ops.cast(y_true, "float32" if is_float else "int32")
    if channels is None:
        return _one_hot(ids, num_classes, ignore_class, dtype)
    if channels == 1:
        return _one_hot(ops.squeeze(ids, axis=-1), num_classes, ignore_class, dtype)
    return _readers(ids, num_classes, ignore_class, dtype)


def has_one_id_per_pixel(y_true: Any, *, rank: int) -> bool:
    """Tell whether a mask is hard by its form: ids (B, *S), or integer ids (B, *S, 1).

    Example:
        `has_one_id_per_pixel(np.zeros((1, 8, 8, 3), "int32"), rank=4)  # False: three readers`
    """
    if len(y_true.shape) < rank:
        return True
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y_true.dtype))
    return y_true.shape[-1] == 1 and not is_float


def base_weights(valid: Any, sample_weight: Any) -> Any:
    """Return valid x sample_weight (B, *S), the weights of the pixels in every mean.

    Args:
        valid: (B, *S), 0 at void pixels.
        sample_weight: (), (B,), (B, *S), (B, *S, 1), or None for 1.

    Example:
        `base_weights(keras.ops.ones((2, 4, 4)), [1.0, 0.5])`
    """
    if sample_weight is None:
        return valid
    weight, rank = ops.cast(sample_weight, valid.dtype), len(valid.shape)
    if len(weight.shape) == rank + 1:
        return valid * ops.squeeze(weight, axis=-1)
    axes = tuple(range(len(weight.shape), rank))
    return valid * (ops.expand_dims(weight, axis=axes) if axes else weight)


def _trailing_axis(y_true: Any, num_classes: int, rank: int, is_float: bool) -> int | None:
    """Size of the axis of readers or of soft classes; None when there is no such axis."""
    shape = tuple(y_true.shape)
    if len(shape) == rank - 1:
        return None
    allowed = (1, num_classes) if is_float else None
    known = len(shape) == rank and shape[-1] is not None
    if not known or (allowed is not None and shape[-1] not in allowed):
        raise ValueError(
            f"`y_true` fits no form of a mask for {num_classes} classes. Expected {rank - 1} axes "
            f"of class ids, or {rank} axes: integer ids of several readers, or soft float labels "
            f"with {num_classes} entries on the last. Received: shape={shape}, "
            f"dtype={keras.backend.standardize_dtype(y_true.dtype)}"
        )
    return int(shape[-1])


def _one_hot(ids: Any, num_classes: int, ignore_class: int | None, dtype: str) -> tuple[Any, Any]:
    """Indicator (..., C) with NaN for ids that mean nothing, and valid (...)."""
    if ignore_class is not None:
        given = ops.not_equal(ids, ops.cast(ignore_class, ids.dtype))
        ids = ops.where(given, ids, ops.cast(-1, ids.dtype))
    # Not `<=`: a NaN id must count as meaningless.
    meaningless = ops.logical_not(ids < num_classes)
    if keras.backend.is_float_dtype(ids.dtype):
        meaningless = ops.logical_or(meaningless, ops.not_equal(ids, ops.floor(ids)))
    poison = ops.cast(ops.where(meaningless, float("nan"), 0.0), dtype)
    hits = ops.one_hot(ops.cast(ids, "int32"), num_classes, dtype=dtype)
    valid = ops.cast(ops.logical_not(ids < 0), dtype)
    return hits + ops.expand_dims(poison, -1), valid


def _readers(ids: Any, num_classes: int, ignore_class: int | None, dtype: str) -> tuple[Any, Any]:
    hits, answered = _one_hot(ids, num_classes, ignore_class, dtype)
    count = ops.sum(answered, axis=-1)
    share = ops.sum(hits, axis=-2) / ops.expand_dims(ops.maximum(count, 1.0), -1)
    return share, ops.cast(count > 0, dtype)


def _pair(foreground: Any) -> Any:
    """(P(0), P(1)) from P(1); a negative value, which means void, becomes an empty row."""
    pair = ops.concatenate([1.0 - foreground, foreground], axis=-1)
    return ops.where(foreground < 0, 0.0, pair)


def _soft(mass: Any, num_classes: int, ignore_class: int | None) -> tuple[Any, Any]:
    if ignore_class is not None and 0 <= ignore_class < num_classes:
        kept = ops.cast(ops.not_equal(ops.arange(num_classes), ignore_class), mass.dtype)
        mass = mass * kept
    total = ops.sum(mass, axis=-1, keepdims=True)
    void = ops.all(mass <= 0, axis=-1, keepdims=True)
    bad = ops.logical_and(ops.logical_not(void), ops.any(mass < 0, axis=-1, keepdims=True))
    share = ops.where(void, 0.0, mass / ops.where(void, 1.0, total))
    share = ops.where(bad, float("nan"), share)
    return share, ops.cast(ops.logical_not(ops.squeeze(void, axis=-1)), mass.dtype)
