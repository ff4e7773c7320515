"""STAPLE: the hidden true mask and the reliability of each reader, by EM (NumPy only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_robustseg.labels._fusion import VOID, VotePatterns, read_masks, vote_patterns

_TINY = 1e-300
_PRIORS = ("global", "estimated", "spatial")


@dataclass(frozen=True)
class StapleResult:
    """What `staple` found out.

    Attributes:
        confusion: float64 (R, C, C), `confusion[r, k, y]` = P(reader r gives y | truth is k).
            Rows sum to 1; for two classes `[r, 1, 1]` is the sensitivity, `[r, 0, 0]` the
            specificity. A row without evidence is uniform: nothing is known of it.
        evidence: float64 (R, C), expected number of pixels of class k that reader r labelled.
        prior: float64 (C,), mean prior probability of the classes over the labelled pixels.
        log_likelihood: of all votes, given confusion matrices and prior.
        iterations: EM steps that were run.
        converged: whether the last step changed no entry by more than the tolerance.
    """

    confusion: np.ndarray
    evidence: np.ndarray
    prior: np.ndarray
    log_likelihood: float
    iterations: int
    converged: bool
    _rows: np.ndarray
    _index: np.ndarray

    @property
    def posterior(self) -> np.ndarray:
        """P(truth | all votes), float32 (*S, C); 0 throughout where no reader gave a class."""
        return self._rows.astype("float32")[self._index]

    @property
    def labels(self) -> np.ndarray:
        """The most probable class, int32 (*S); ties go to the lowest, no vote is -1."""
        voted = self._rows.any(axis=-1)
        return np.where(voted, self._rows.argmax(axis=-1), VOID).astype("int32")[self._index]


class _Step(NamedTuple):
    """What one EM step leaves behind."""

    confusion: np.ndarray
    evidence: np.ndarray
    prior: np.ndarray
    posterior: np.ndarray
    log_likelihood: float


def staple(
    masks: Any,
    num_classes: int | None = None,
    *,
    prior: Any = "global",
    ignore_class: int | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-7,
) -> StapleResult:
    """Estimate the true mask, and how each reader confuses the classes, from the votes alone.

    Maximum likelihood in the model where readers err independently, given the true class k of
    the pixel: with theta_r[k, y] = P(reader r gives y | k) and prior pi,

        E   W_ik     proportional to  pi_ik prod_{r present at i} theta_r[k, y_ir]
        M   theta_r[k, y]  =  sum_{i : y_ir = y} W_ik  /  sum_{i : r present at i} W_ik

    The method of Warfield, Zou and Wells (IEEE TMI 2004), for any number of classes as in
    Rohlfing, Russakoff and Maurer (IPMI 2003), which is the EM of Dawid and Skene (1979), and
    without a Markov field. The start is W = the share of votes, so the result depends on the
    masks alone. Pixels with the same votes have the same W: each vote pattern is counted once.

    All leading axes are pixels of one problem. Of a batch (B, *S, R) the readers are one and the
    same throughout; call it once per image where they are not.

    What it cannot see: errors that most readers share, and who is who when readers are wrong more
    often than right.

    Args:
        masks: int (*S, R): class ids of R readers, negative where a reader gave none. An absent
            reader does not take part at that pixel.
        num_classes: C; by default one more than the largest id.
        prior: "global": the share of each class in all votes, fixed (Warfield's); "estimated":
            the mean of W, found with the rest; "spatial": each pixel's own share of votes (a
            class that nobody gave stays impossible there); or an array (C,) or (*S, C), such as
            a smoothed `soft_mean`.
        ignore_class: one more id that means void.
        max_iterations: EM steps at most.
        tolerance: largest change of an entry of the confusion matrices that ends the EM.

    Raises:
        ValueError: as `read_masks`; a prior of another form; or fewer than one iteration.

    Example:
        ```python
        found = staple(np.array([[0, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]]))
        found.labels                    # [0, 1, 1, 0]
        found.confusion[:, 1, 1]        # sensitivities
        ```
    """
    if max_iterations < 1:
        raise ValueError(f"`max_iterations` must be at least 1. Received: {max_iterations}")
    if not isinstance(prior, str) and np.ndim(prior) and num_classes is None:
        num_classes = np.shape(prior)[-1]
    ids, classes = read_masks(masks, num_classes, ignore_class=ignore_class)
    prior = _check_prior(prior, classes, ids.shape[:-1])
    seen = vote_patterns(ids, classes)
    if not isinstance(prior, str) and prior.ndim > 1:
        seen = _every_pixel(ids)
        prior = prior.reshape(-1, classes)
    step, iterations, change = _maximise(seen, classes, prior, max_iterations, tolerance)
    rows = np.where(np.any(seen.votes >= 0, axis=-1, keepdims=True), step.posterior, 0.0)
    return StapleResult(
        *step[:3], step.log_likelihood, iterations, change <= tolerance, rows, seen.index
    )


def _check_prior(prior: Any, num_classes: int, space: tuple[int, ...]) -> Any:
    if isinstance(prior, str) and prior in _PRIORS:
        return prior
    shapes = ((num_classes,), (*space, num_classes))
    table = None if isinstance(prior, str) else np.asarray(prior, "float64")
    if table is None or table.shape not in shapes or not _is_distribution(table):
        received = repr(prior) if table is None else f"shape={table.shape}"
        raise ValueError(
            f"`prior` must be one of {', '.join(_PRIORS)}, or an array of non-negative numbers "
            f"with a positive sum over the classes, of shape {shapes[0]} or {shapes[1]}. "
            f"Received: {received}"
        )
    return table / table.sum(axis=-1, keepdims=True)


def _is_distribution(table: np.ndarray) -> bool:
    total = table.sum(axis=-1)
    return bool((table >= 0).all() and (total > 0).all() and np.isfinite(total).all())


def _every_pixel(ids: np.ndarray) -> VotePatterns:
    """Each pixel by itself: with a prior of its own it shares its posterior with no other."""
    votes = ids.reshape(-1, ids.shape[-1])
    count = np.ones(len(votes), "int64")
    return VotePatterns(votes, np.arange(len(votes)).reshape(ids.shape[:-1]), count)


def _maximise(
    seen: VotePatterns, num_classes: int, prior: Any, max_iterations: int, tolerance: float
) -> tuple[_Step, int, float]:
    voted = (seen.votes >= 0).any(axis=-1)
    seen = seen._replace(count=np.where(voted, seen.count, 0))
    share = seen.shares(num_classes)
    fixed = _fixed_prior(prior, share, seen.count)
    confusion = np.full((seen.votes.shape[-1], num_classes, num_classes), np.inf)
    step = _Step(confusion, confusion, confusion, share, 0.0)
    iterations, change = 0, np.inf
    while change > tolerance and iterations < max_iterations:
        last, step = step, _em_step(seen, step.posterior, fixed)
        iterations += 1
        change = np.abs(step.confusion - last.confusion).max()
    return step, iterations, float(change)


def _fixed_prior(prior: Any, share: np.ndarray, count: np.ndarray) -> np.ndarray | None:
    """The prior as a table that broadcasts to (P, C); None where EM estimates it."""
    if not isinstance(prior, str):
        return np.atleast_2d(prior)
    if prior == "estimated":
        return None
    if prior == "global":
        return _mean(share, count)[None]
    return np.where(count[:, None] > 0, share, 1.0 / share.shape[-1])


def _mean(rows: np.ndarray, count: np.ndarray) -> np.ndarray:
    if not count.any():
        return np.full(rows.shape[-1], 1.0 / rows.shape[-1])
    return count @ rows / count.sum()


def _em_step(seen: VotePatterns, posterior: np.ndarray, fixed: np.ndarray | None) -> _Step:
    mass = posterior * seen.count[:, None]
    counts = np.stack([_votes_for(votes, mass) for votes in seen.votes.T])
    evidence = counts.sum(axis=-1)
    known = evidence[..., None] > 0
    uniform = 1.0 / counts.shape[-1]
    confusion = np.where(known, counts / np.where(known, evidence[..., None], 1.0), uniform)
    prior = _mean(posterior, seen.count)[None] if fixed is None else fixed
    posterior, log_likelihood = _expectation(seen, confusion, prior)
    mean_prior = _mean(np.broadcast_to(prior, posterior.shape), seen.count)
    return _Step(confusion, evidence, mean_prior, posterior, log_likelihood)


def _votes_for(votes: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Counts (C, C): how much mass of class k has the vote y of one reader."""
    classes = mass.shape[-1]
    columns = [np.bincount(votes + 1, weights=m, minlength=classes + 1) for m in mass.T]
    return np.stack(columns)[:, 1:]


def _expectation(
    seen: VotePatterns, confusion: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, float]:
    """Posterior (P, C) and the log-likelihood of all votes."""
    with np.errstate(divide="ignore"):
        scores = np.log(prior) + np.zeros((len(seen.count), 1))
    for votes, matrix in zip(seen.votes.T, confusion, strict=True):
        # An impossible vote must not rule out every class at once: log 0 is only very small.
        seen_as = np.pad(np.log(np.maximum(matrix, _TINY)), ((0, 0), (1, 0)))
        scores += seen_as.T[votes + 1]
    peak = scores.max(axis=-1, keepdims=True)
    odds = np.exp(scores - peak)
    total = odds.sum(axis=-1, keepdims=True)
    return odds / total, float(seen.count @ (peak + np.log(total))[:, 0])
