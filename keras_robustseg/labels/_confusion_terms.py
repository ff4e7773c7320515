"""The mathematics of per-annotator confusion matrices, on tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_robustseg.labels._masks import label_distribution

_TINY = 1e-37


class ReaderVotes(NamedTuple):
    """What each reader said: `hits` (B, *S, R, C) one-hot, 0 where absent; `present` (B, *S, R)."""

    hits: Any
    present: Any


def reader_votes(masks: Any, num_annotators: int, num_classes: int, *, rank: int) -> ReaderVotes:
    """Read int masks (B, *S, R), -1 where a reader gave none; of one reader also (B, *S).

    An id of C or more gives NaN hits, as in `label_distribution`.

    Args:
        masks: class ids.
        num_annotators: R.
        num_classes: C.
        rank: number of axes of the predictions (B, *S, C).

    Raises:
        ValueError: masks that are no integers, or of another number of readers.
    """
    masks = ops.convert_to_tensor(masks)
    kind = keras.backend.standardize_dtype(masks.dtype)
    if num_annotators == 1 and len(masks.shape) == rank - 1:
        masks = ops.expand_dims(masks, -1)
    if "int" not in kind or len(masks.shape) != rank or masks.shape[-1] != num_annotators:
        raise ValueError(
            "Confusion matrices need to know who said what. Expected integer masks of shape "
            f"(batch, *space, {num_annotators}), -1 where a reader gave none. "
            f"Received: shape={tuple(masks.shape)}, dtype={kind}"
        )
    return ReaderVotes(*label_distribution(masks, num_classes, rank=rank + 1))


def matrix_likelihood(log_matrices: Any, votes: ReaderVotes) -> Any:
    """Return log T_r[k, y_r] (B, *S, R, C) for each true class k; 0 where reader r is absent.

    Args:
        log_matrices: (R, C, C), log P(reader r gives y | truth is k) at [r, k, y].
        votes: what the readers said.
    """
    return ops.einsum("...ry,rky->...rk", votes.hits, log_matrices)


def low_rank_likelihood(
    gates: Any, profiles: Any, assignment: Any, votes: ReaderVotes
) -> tuple[Any, Any]:
    """Return log T_r[k, y_r] (B, *S, R, C) and tr T_r (B, *S, R) of the per-pixel matrices

        T_r[k, y]  =  (1 - g_rk) [k = y]  +  g_rk sum_l a_r[k, l] b_r[l, y]

    A row is a mixture of distributions, so it sums to 1 over the reader's label y. The product of
    a and b has rank L, and no C x C matrix is formed for a pixel.

    Args:
        gates: g (B, *S, R, C) in (0, 1), how often a pixel of class k is mislabelled.
        profiles: b (B, *S, R, L, C), rows sum to 1.
        assignment: a (R, C, L), rows sum to 1.
        votes: what the readers said.
    """
    said = ops.einsum("...ry,...rly->...rl", votes.hits, profiles)
    mistaken = ops.einsum("...rl,rkl->...rk", said, assignment)
    chance = (1.0 - gates) * votes.hits + gates * mistaken
    chance = ops.where(ops.expand_dims(votes.present > 0, -1), chance, 1.0)
    kept = ops.einsum("...rlk,rkl->...rk", profiles, assignment)
    trace = ops.sum(1.0 - gates + gates * kept, axis=-1)
    return ops.log(ops.maximum(chance, _TINY)), trace


def low_rank_matrices(gates: Any, profiles: Any, assignment: Any) -> Any:
    """Return the matrices of `low_rank_likelihood` in full, (B, *S, R, C, C)."""
    mistaken = ops.einsum("rkl,...rly->...rky", assignment, profiles)
    identity = ops.eye(gates.shape[-1], dtype="float32")
    gates = ops.expand_dims(gates, -1)
    return (1.0 - gates) * identity + gates * mistaken


def annotator_loss(
    log_p: Any, votes: ReaderVotes, likelihood: Any, trace: Any, *, trace_weight: float
) -> Any:
    """Return the loss of each pixel (B, *S), a mean over the readers who are present there:

        1/|R_i| sum_r ( -log sum_k T_r[k, y_ir] p_ik  +  trace_weight tr(T_r) / C )

    (Tanno et al., CVPR 2019, equation 5; Zhang et al., NeurIPS 2020, with T_r of the pixel). The
    mean, not the sum: a pixel weighs the same however many readers saw it. 0 where none did.

    Args:
        log_p: (B, *S, C) log-probabilities of the true class.
        votes: what the readers said.
        likelihood: log T_r[k, y_r] (B, *S, R, C).
        trace: tr T_r (B, *S, R), or (R,).
        trace_weight: the least trace that explains the labels is wanted: without it a network
            that imitates the readers' errors and exact readers fit as well as the truth.
    """
    seen_as = ops.logsumexp(ops.expand_dims(log_p, -2) + likelihood, axis=-1)
    cost = trace_weight / log_p.shape[-1] * trace - seen_as
    return mean_over_readers(cost, votes)


def identity_loss(log_p: Any, votes: ReaderVotes) -> Any:
    """Return the same for matrices that are the identity: -log p_y, a mean over the readers."""
    cost = -ops.sum(votes.hits * ops.expand_dims(log_p, -2), axis=-1)
    return mean_over_readers(cost, votes)


def mean_over_readers(cost: Any, votes: ReaderVotes) -> Any:
    """Return the mean (B, *S) of (B, *S, R) over the readers who are present."""
    total = ops.sum(ops.where(votes.present > 0, cost, 0.0), axis=-1)
    return total / ops.maximum(ops.sum(votes.present, axis=-1), 1.0)


def log_posterior(log_p: Any, likelihood: Any) -> Any:
    """Return log P(true class | image, labels of all readers) (B, *S, C).

        q_k  proportional to  p_k prod_{r present} T_r[k, y_r]

    Args:
        log_p: (B, *S, C).
        likelihood: log T_r[k, y_r] (B, *S, R, C), 0 where reader r is absent.
    """
    return ops.log_softmax(log_p + ops.sum(likelihood, axis=-2), axis=-1)
