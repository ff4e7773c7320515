"""How a label offset is kept in 32, 16 or 8 bits: the rounding that loses no label step.

A step of a label is often smaller than the distance of two numbers that 8 bits can hold. Rounded
to the nearest, it would be lost at every visit and labels would stand still short of their optimum
(by up to half a level times 1/label_rate in p_k - p_j). So the value is moved by a number u in
[0, 1) of levels before it is rounded down: with u spread evenly, the mean of what is kept is the
exact value. u is a Weyl sequence over visits and pixels, the fractional part of an irrational
multiple: it is spread more evenly than random numbers, needs no generator state beside the count of
visits, and gives the same bits again after a resume.

Everything here works on NumPy arrays and, with `xp=keras.ops`, on tensors of any backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STORAGES = ("float32", "float16", "uint8")
ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1}

LEVEL = 0.125  # distance of two uint8 offsets
ZERO = 127  # the level of offset 0
LIMIT = LEVEL * ZERO  # 15.875: softmax tells no more than e^-16 apart
_HALF_DIGITS, _HALF_LEAST = 10, -14  # of IEEE binary16

# 2^32 / golden ratio and 2^32 / plastic number squared, odd: a low-discrepancy pair.
_BY_PIXEL, _BY_VISIT = np.uint32(2654435769).astype("int32"), np.uint32(2447445413).astype("int32")


def empty_level(storage: str) -> int:
    """Return the stored number that means an offset of 0."""
    return ZERO if storage == "uint8" else 0


def decode(stored: Any, storage: str) -> Any:
    """Return offsets from stored numbers that were cast to float32."""
    return (stored - ZERO) * LEVEL if storage == "uint8" else stored


def encode(offsets: Any, dither: Any, storage: str, xp: Any = np) -> Any:
    """Return the numbers to store, as float32; casting them to the storage type changes nothing.

    Args:
        offsets: float32 array.
        dither: u in [0, 1), broadcastable to `offsets`; see `weyl`.
        storage: "float32", "float16" or "uint8".
        xp: numpy or keras.ops.
    """
    if storage == "uint8":
        return xp.clip(xp.floor(offsets / LEVEL + ZERO + dither), 0.0, 2.0 * ZERO)
    if storage == "float16":
        exponent = xp.floor(xp.log2(xp.maximum(xp.abs(offsets), 2.0**_HALF_LEAST)))
        level = xp.exp2(exponent - _HALF_DIGITS)
        return xp.floor(offsets / level + dither) * level
    return offsets


def weyl(rows: Any, visits: Any, xp: Any = np) -> Any:
    """Return u in [0, 1) for int32 row numbers and an int32 count of visits.

    Integers wrap around, which is the remainder that the sequence needs. 12 bits of it are kept,
    so that u plus a number of 11 bits stays exact in float32.
    """
    mixed = rows * _BY_PIXEL + visits * _BY_VISIT
    return xp.multiply(xp.bitwise_and(xp.right_shift(mixed, 20), 0xFFF), 2.0**-12)
