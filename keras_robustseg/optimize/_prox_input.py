"""What the proximal operators and projections ask of their arguments."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg.optimize._info import is_concrete


def as_float(x: Any, name: str = "x") -> Any:
    """Return a tensor of the precision that is computed in: float64, or else float32.

    Raises:
        ValueError: complex or no numbers, or, where it can be read, NaN or infinite.
    """
    return finite(_floating(x, name), name)


def finite(tensor: Any, name: str) -> Any:
    """Return the tensor.

    Raises:
        ValueError: it can be read, and something in it is NaN or infinite.
    """
    _check(tensor, name, "finite", np.isfinite)
    return tensor


def parameter(value: Any, like: Any, name: str, *, positive: bool = False) -> Any:
    """Return a parameter that is not negative, as a tensor of the type of `like`.

    Args:
        value: a number, an array, or a tensor of the type of `like`.
        like: the tensor that it goes with; its shape is not looked at.
        name: what errors call it.
        positive: whether 0 is refused too.

    Raises:
        ValueError: negative, NaN or infinite, or a tensor of the other precision.
    """
    tensor = finite(matching(value, like, name), name)
    if positive:
        _check(tensor, name, "above 0", lambda v: v > 0)
    else:
        _check(tensor, name, "0 or above", lambda v: v >= 0)
    return tensor


def matching(value: Any, like: Any, name: str) -> Any:
    """Return `value` as a tensor of the type of `like`; numbers and arrays are converted.

    Raises:
        ValueError: a tensor of the other precision, which is a mistake more often than not.
    """
    if not isinstance(value, (np.ndarray, np.generic)) and hasattr(value, "dtype"):
        tensor, wanted = _floating(value, name), keras.backend.standardize_dtype(like.dtype)
        found = keras.backend.standardize_dtype(tensor.dtype)
        if found != wanted:
            raise ValueError(
                f"`{name}` must have the dtype of the tensor that it goes with, {wanted}; cast "
                f"one of them. Received: {name} of dtype {found}"
            )
        return tensor
    try:
        array = np.asarray(value, dtype="float64")
    except (TypeError, ValueError):  # a list that holds tensors
        return ops.cast(ops.convert_to_tensor(value), like.dtype)
    return ops.convert_to_tensor(array, dtype=like.dtype)


def per_group(value: Any, x: Any, axis: int | tuple[int, ...], name: str) -> Any:
    """Return a parameter for each group along `axis`, ready to be broadcast against x.

    Args:
        value: tensor: a number, one for each group (the shape of x without `axis`), or the same
            with `axis` kept as 1.
        x: the tensor of groups.
        axis: the axis or axes that make a group.
        name: what errors call it.

    Raises:
        ValueError: another shape.
    """
    rank = len(x.shape)
    axes = {axis % rank for axis in ((axis,) if isinstance(axis, int) else axis)}
    if len(value.shape) == rank:
        check_broadcast(value, tuple(1 if i in axes else n for i, n in enumerate(x.shape)), name)
        return value
    check_broadcast(value, tuple(n for i, n in enumerate(x.shape) if i not in axes), name)
    return ops.expand_dims(value, axis=tuple(sorted(axes))) if len(value.shape) else value


def check_broadcast(tensor: Any, shape: tuple[int | None, ...], name: str) -> None:
    """Raise unless a tensor can be broadcast to a shape; unknown sizes pass.

    Raises:
        ValueError: the shapes do not go together.
    """
    pairs = zip(reversed(tuple(tensor.shape)), reversed(tuple(shape)), strict=False)
    fits = all(own in (1, other) or own is None or other is None for own, other in pairs)
    if not fits or len(tensor.shape) > len(shape):
        raise ValueError(
            f"`{name}` must be a number or have a shape that broadcasts to {tuple(shape)}. "
            f"Received: {name} of shape {tuple(tensor.shape)}"
        )


def checked_axis(x: Any, axis: int | tuple[int, ...]) -> None:
    """Raise unless x has the axis or axes.

    Raises:
        ValueError: it has not.
    """
    rank = len(x.shape)
    for one in (axis,) if isinstance(axis, int) else axis:
        if not -rank <= one < rank:
            raise ValueError(f"x has no axis {one}. Received: axis={axis}, x of shape {x.shape}")


def check_symmetric(matrix: Any, name: str = "x") -> None:
    """Raise unless the last two axes are square and, where it can be read, symmetric.

    Raises:
        ValueError: not square, or off by more than rounding.
    """
    shape = tuple(matrix.shape)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(
            f"`{name}` must hold square matrices in its last two axes. "
            f"Received: {name} of shape {shape}"
        )
    if is_concrete(matrix):
        array = ops.convert_to_numpy(matrix)
        off = np.max(np.abs(array - np.swapaxes(array, -1, -2)), initial=0.0)
        bound = math.sqrt(np.finfo(array.dtype).eps) * np.max(np.abs(array), initial=0.0)
        if off > bound:
            raise ValueError(
                f"`{name}` must be symmetric; take (A + A^T) / 2 if it is only nearly so. "
                f"Received: a difference of {off:.3g} between {name} and its transpose"
            )


def check_where_read(holds: Any, message: str) -> None:
    """Raise with the message unless a boolean tensor is all true, where it can be read.

    Raises:
        ValueError: some element is false.
    """
    if is_concrete(holds) and not np.all(ops.convert_to_numpy(holds)):
        raise ValueError(message)


def _floating(x: Any, name: str) -> Any:
    if not hasattr(x, "dtype"):
        try:
            x = ops.convert_to_tensor(x, dtype="float32")
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must hold numbers. Received: {name}={x!r}") from error
    found = keras.backend.standardize_dtype(x.dtype)
    if "complex" in found or found in ("string", "object"):
        raise ValueError(f"`{name}` must hold real numbers. Received: {name} of dtype {found}")
    return ops.convert_to_tensor(x) if found == "float64" else ops.cast(x, "float32")


def _check(tensor: Any, name: str, what: str, holds: Any) -> None:
    if is_concrete(tensor):
        array = ops.convert_to_numpy(tensor)
        good = holds(array)
        if not np.all(good):
            worst = array[~np.broadcast_to(good, array.shape)].flat[0]
            raise ValueError(f"`{name}` must be {what}. Received: {name} with a value {worst}")
