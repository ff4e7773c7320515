"""One mask from the masks of several readers, without a model of who is right (NumPy only)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

VOID = -1
# Up to so many possible vote patterns a table is counted; beyond, the pixels are sorted.
_TABLE = 1 << 20
_CODES = 1 << 62


class VotePatterns(NamedTuple):
    """The different ways in which readers voted; pixels with the same votes are one row.

    Attributes:
        votes: int (P, R), the class each reader gave, -1 for none.
        index: int (*S), the pattern of each pixel.
        count: int (P,), how many pixels have it.
    """

    votes: np.ndarray
    index: np.ndarray  # type: ignore[assignment]
    count: np.ndarray  # type: ignore[assignment]

    def shares(self, num_classes: int) -> np.ndarray:
        """Return float64 (P, C), the share of the present readers for each class; 0 for none."""
        tally = np.stack([(self.votes == c).sum(axis=-1) for c in range(num_classes)], axis=-1)
        return tally / np.maximum(tally.sum(axis=-1, keepdims=True), 1)


def read_masks(
    masks: Any, num_classes: int | None = None, *, ignore_class: int | None = None
) -> tuple[np.ndarray, int]:
    """Return the masks with every void pixel as -1, and the number of classes C.

    Args:
        masks: int (*S, R): class ids of R readers on the last axis; negative where a reader gave
            none. Any leading axes will do: (H, W, R), (D, H, W, R), or (B, *S, R) of a batch.
        num_classes: C; by default one more than the largest id, and at least 2.
        ignore_class: one more id that means void.

    Raises:
        ValueError: masks that are no integers, have no axis of readers or no reader on it, or
            hold an id of C or more.

    Example:
        `read_masks(np.array([[0, 1], [1, -1]]))  # two pixels, two readers; C = 2`
    """
    masks = np.asarray(masks)
    if masks.ndim < 2 or masks.shape[-1] < 1 or masks.dtype.kind not in "iub":
        raise ValueError(
            "`masks` must hold the class ids of several readers. Expected integers of shape "
            f"(*space, readers), -1 for none. Received: shape={masks.shape}, dtype={masks.dtype}"
        )
    signed = masks.astype("int64" if masks.dtype.itemsize > 2 else "int32", copy=False)
    void = signed < 0 if ignore_class is None else (signed < 0) | (signed == ignore_class)
    signed = np.where(void, VOID, signed)
    largest = int(signed.max(initial=VOID))
    if num_classes is None:
        return signed, max(largest + 1, 2)
    if largest >= num_classes:
        raise ValueError(
            f"`masks` holds class {largest}. Expected ids from 0 to {num_classes - 1} for "
            f"num_classes={num_classes}, and negative ids for void."
        )
    return signed, num_classes


def vote_patterns(masks: np.ndarray, num_classes: int) -> VotePatterns:
    """Return the different rows of votes in masks (*S, R), as `read_masks` returns them.

    R readers of a volume agree almost everywhere, so a few rows stand for millions of pixels.

    Example:
        `vote_patterns(np.array([[0, 1], [0, 1], [1, 1]]), 2).count  # [2, 1]`
    """
    flat, base = masks.reshape(-1, masks.shape[-1]), num_classes + 1
    code, size = np.zeros(len(flat), "int64"), 1
    for votes in flat.T:
        if size * base > _CODES:
            different, code = np.unique(code, return_inverse=True)
            size = len(different)
        code = code * base + (votes + 1)
        size *= base
    first, index, count = _tabled(code, size) if size <= _TABLE else _sorted(code)
    return VotePatterns(flat[first], index.reshape(masks.shape[:-1]), count)


def _sorted(code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, *found = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    return found[0], found[1], found[2]


def _tabled(code: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by counting: no sorting of the pixels."""
    count = np.bincount(code, minlength=size)
    index = (np.cumsum(count > 0) - 1)[code]
    count = count[count > 0]
    first = np.zeros(len(count), "int64")
    first[index] = np.arange(len(code))  # any pixel of the pattern will do
    return first, index, count


def soft_mean(
    masks: Any, num_classes: int | None = None, *, ignore_class: int | None = None
) -> np.ndarray:
    """Return the share of the present readers for each class, a soft label per pixel.

        yhat_ik = |{r present at i : y_ir = k}| / |{r present at i}|

    Args:
        masks: int (*S, R), see `read_masks`.
        num_classes: C; by default one more than the largest id.
        ignore_class: one more id that means void.

    Returns:
        float32 (*S, C): sums to 1, or is 0 throughout where no reader gave a class, which the
        losses read as void.

    Raises:
        ValueError: as `read_masks`.

    Example:
        `soft_mean(np.array([[0, 1, 1], [2, -1, -1]]))  # [[1/3, 2/3, 0], [0, 0, 1]]`
    """
    ids, classes = read_masks(masks, num_classes, ignore_class=ignore_class)
    seen = vote_patterns(ids, classes)
    return seen.shares(classes).astype("float32")[seen.index]


def majority_vote(
    masks: Any,
    num_classes: int | None = None,
    *,
    ties: Any = "lowest",
    ignore_class: int | None = None,
) -> np.ndarray:
    """Return the class that most of the present readers gave; absent readers do not vote.

    Args:
        masks: int (*S, R), see `read_masks`.
        num_classes: C; by default one more than the largest id, or the length of `ties`.
        ties: what is made of a tie: "lowest", the lowest of the tied classes; "void", -1; or an
            array (C,) or (*S, C) of priors, the tied class with the largest one (the lowest of
            those that are equal).
        ignore_class: one more id that means void.

    Returns:
        int32 (*S), -1 where no reader gave a class.

    Raises:
        ValueError: as `read_masks`, or `ties` is none of the above.

    Example:
        `majority_vote(np.array([[0, 1, 1], [2, 0, -1], [-1, -1, -1]]))  # [1, 0, -1]`
    """
    prior = None if isinstance(ties, str) else np.asarray(ties, "float64")
    if prior is not None and prior.ndim and num_classes is None:
        num_classes = prior.shape[-1]
    ids, classes = read_masks(masks, num_classes, ignore_class=ignore_class)
    _check_ties(ties, prior, classes, ids.shape[:-1])
    seen = vote_patterns(ids, classes)
    share = seen.shares(classes)
    winners = share == share.max(axis=-1, keepdims=True)
    if prior is not None and prior.ndim > 1:
        winner = np.where(winners[seen.index], prior, -np.inf).argmax(axis=-1)
        return np.where(np.any(share, axis=-1)[seen.index], winner, VOID).astype("int32")
    winner = np.where(winners, 0.0 if prior is None else prior, -np.inf).argmax(axis=-1)
    if prior is None and ties == "void":
        winner[winners.sum(axis=-1) > 1] = VOID
    return np.where(share.any(axis=-1), winner, VOID).astype("int32")[seen.index]


def _check_ties(
    ties: Any, prior: np.ndarray | None, num_classes: int, space: tuple[int, ...]
) -> None:
    if prior is None and ties in ("lowest", "void"):
        return
    shapes = ((num_classes,), (*space, num_classes))
    if prior is None or prior.shape not in shapes or np.isnan(prior).any():
        received = repr(ties) if prior is None else f"shape={prior.shape}"
        raise ValueError(
            '`ties` must be "lowest", "void", or an array of priors without NaN of shape '
            f"{shapes[0]} or {shapes[1]}. Received: {received}"
        )
