"""Class-conditional label noise: its matrix, known or estimated, and what follows for a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

FloatArray = npt.NDArray[np.float64]

# log 0 that is still finite after large log-probabilities have been added to it.
_LOG_ZERO = -1e38
_ROUNDING = 1e-6


@keras.saving.register_keras_serializable(package="keras_robustseg")
class TransitionMatrix:
    """T[k, j] = P(given label j | true class k), the same for every pixel.

    Args:
        matrix: (C, C) rows of numbers; each row is at least 0 and sums to 1 (to 1e-6, and is then
            normalised).

    Attributes:
        matrix: T, a read-only float64 array.

    Raises:
        ValueError: the matrix is not square with C >= 2, or a row is no distribution.

    Example:
        `labels.TransitionMatrix([[0.9, 0.1], [0.2, 0.8]])`
    """

    def __init__(self, matrix: npt.ArrayLike) -> None:
        rows = np.array(matrix, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1] or len(rows) < 2:
            raise ValueError(
                "A transition matrix must be square, (classes, classes) with 2 classes or more. "
                f"Received: shape={rows.shape}"
            )
        if not (rows >= 0).all() or not np.allclose(rows.sum(axis=1), 1, rtol=0, atol=_ROUNDING):
            raise ValueError(
                "Each row of a transition matrix must be at least 0 and sum to 1: the row k is the "
                f"distribution of the given labels of true class k. Received: {rows.tolist()}"
            )
        self.matrix: FloatArray = rows / rows.sum(axis=1, keepdims=True)
        self.matrix.setflags(write=False)

    @classmethod
    def symmetric(cls, num_classes: int, rate: float) -> TransitionMatrix:
        """Return T with 1 - rate on the diagonal, the rest even: a share `rate` is wrong.

        Raises:
            ValueError: `rate` is not in [0, 1], or there are less than 2 classes.

        Example:
            `labels.TransitionMatrix.symmetric(4, rate=0.3)`
        """
        _check_rate(rate)
        wrong = np.full((num_classes, num_classes), rate / max(num_classes - 1, 1))
        np.fill_diagonal(wrong, 1.0 - rate)
        return cls(wrong)

    @classmethod
    def asymmetric(
        cls, num_classes: int, rate: float, flips: Mapping[int, int] | None = None
    ) -> TransitionMatrix:
        """Return T where class k is taken for class `flips[k]` with probability `rate`.

        Args:
            num_classes: C.
            rate: in [0, 1].
            flips: true class -> given class; by default each class -> the next, the last -> 0.
                Classes that are not keys are never wrong.

        Raises:
            ValueError: `rate` is not in [0, 1], or a class in `flips` does not exist.

        Example:
            `labels.TransitionMatrix.asymmetric(3, 0.2, flips={1: 0, 2: 0})  # objects missed`
        """
        _check_rate(rate)
        if flips is None:
            flips = {k: (k + 1) % num_classes for k in range(num_classes)}
        if not all(0 <= k < num_classes for pair in flips.items() for k in pair):
            raise ValueError(f"`flips` must hold classes below {num_classes}. Received: {flips}")
        matrix = np.eye(num_classes)
        for true, given in flips.items():
            matrix[true, true] -= rate
            matrix[true, given] += rate
        return cls(matrix)

    @classmethod
    def from_masks(
        cls, given: npt.ArrayLike, true: npt.ArrayLike, num_classes: int
    ) -> TransitionMatrix:
        """Return the T of masks whose truth is known: shares of pixels, class by class.

        A class that the truth lacks gets the row of the identity; void (negative) pixels of either
        mask do not count.

        Args:
            given: ids (...), or (..., R) of R readers, each reading counting on its own.
            true: ids (...).
            num_classes: C.

        Raises:
            ValueError: the shapes do not fit, or an id is C or more.

        Example:
            `labels.TransitionMatrix.from_masks([0, 1, 1, 1], [0, 0, 1, 1], 2)`
        """
        true = np.asarray(true)
        given, pixel = _readings(given, true.shape, num_classes)
        known = _ids(true, num_classes).ravel()[pixel]
        counts = np.zeros((num_classes, num_classes))
        np.add.at(counts, (known[known >= 0], given[known >= 0]), 1.0)
        return cls(_row_stochastic(counts))

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.matrix)

    def inverse(self) -> FloatArray:
        """Return T^-1 (C, C).

        Raises:
            ValueError: T has none, or only in theory (condition number above 1e6).

        Example:
            `labels.TransitionMatrix.symmetric(2, 0.25).inverse()  # [[1.5, -.5], [-.5, 1.5]]`
        """
        if not np.linalg.cond(self.matrix) < 1e6:
            raise ValueError(
                "The transition matrix has no usable inverse: given labels say too little about "
                f"true ones. Received: {self.matrix.tolist()}"
            )
        inverse: FloatArray = np.linalg.inv(self.matrix).astype(np.float64)
        return inverse

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"matrix": self.matrix.tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransitionMatrix:
        """Rebuild from `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"TransitionMatrix({self.matrix.tolist()})"


def noisy_log_probabilities(log_p: Any, transition: Any) -> Any:
    """Return log sum_k p_k T[k, j], the log-probabilities of the labels that are given.

    In log space, so a label that T and p together make all but impossible keeps its gradient.
    Needs C times the memory of `log_p`.

    Args:
        log_p: (B, *S, C) log-probabilities of the true class.
        transition: T (C, C), or `TransitionMatrix`.

    Returns:
        (B, *S, C).

    Example:
        `noisy_log_probabilities(log_p, labels.TransitionMatrix.symmetric(3, 0.2))`
    """
    return ops.logsumexp(ops.expand_dims(log_p, -1) + _log(transition), axis=-2)


def transition_posterior(log_p: Any, labels: Any, transition: Any, *, answers: Any = 1.0) -> Any:
    """Return P(true k | prediction, given labels) in proportion to p_k prod_r T[k, y_r].

    Bayes' rule with the prediction as prior and readers who err independently of each other.

    Args:
        log_p: (B, *S, C) log-probabilities of the true class.
        labels: (B, *S, C) mean of the one-hot labels that were given; 0 at void pixels, whose
            posterior is the prediction.
        transition: T (C, C), or `TransitionMatrix`. A label that T rules out under every class
            leaves the prediction without influence.
        answers: how many labels `labels` is the mean of, of a shape that broadcasts to (B, *S).

    Returns:
        (B, *S, C).

    Example:
        `transition_posterior(log_p, labels, labels.TransitionMatrix.symmetric(3, 0.2))`
    """
    answers = ops.expand_dims(ops.cast(answers, "float32"), -1)
    log_t = ops.maximum(_log(transition), -1e30)
    return ops.softmax(log_p + answers * (labels @ ops.transpose(log_t)), axis=-1)


def estimate_transition(
    probabilities: npt.ArrayLike,
    given: npt.ArrayLike,
    *,
    method: Literal["confident_joint", "anchor"] = "confident_joint",
    quantile: float = 0.97,
) -> TransitionMatrix:
    """Estimate T from predicted probabilities and given labels, without true ones.

    "confident_joint" (Northcutt et al., JAIR 2021): pixels given as j count as
    truly k when p_k is the largest among the classes whose probability reaches its mean over the
    pixels given as that class; the counts of each given class are scaled to their true number.
    "anchor" (Patrini et al., CVPR 2017): row k is the prediction at the pixel where
    p_k is at its `quantile`; 1 is the largest, the paper's; less guards against outliers.

    Both suppose that errors depend on the true class only. Wrong outlines do not: there T says how
    much is wrong, not where. Predictions must come from a network that has not memorised the given
    labels: out of fold for "confident_joint", early in training for "anchor".

    Args:
        probabilities: (..., C), one row a pixel.
        given: ids (...), or (..., R) of R readers, each reading counting on its own; negative ids
            are void.
        method: "confident_joint" or "anchor".
        quantile: in (0, 1], for "anchor".

    Returns:
        T; a class without any evidence gets the row of the identity.

    Raises:
        ValueError: an argument is out of its range, the shapes do not fit, or no pixel is given.

    Example:
        `labels.estimate_transition(out_of_fold_probabilities, masks)`
    """
    rows = np.asarray(probabilities)
    shape, num_classes = rows.shape[:-1], rows.shape[-1]
    labels, pixel = _readings(given, shape, num_classes)
    rows = rows.reshape(-1, num_classes)[pixel].astype(np.float64)
    if not len(rows) or not (rows >= -_ROUNDING).all() or not (rows <= 1 + _ROUNDING).all():
        raise ValueError(
            "`probabilities` must be in [0, 1], with at least one pixel that is not void. "
            f"Received: shape={(*shape, num_classes)}, {len(rows)} given labels"
        )
    if method == "confident_joint":
        return TransitionMatrix(_row_stochastic(_confident_joint(rows, labels).T))
    if method != "anchor" or not 0.0 < quantile <= 1.0:
        raise ValueError(
            "`method` must be 'confident_joint' or 'anchor', and `quantile` in (0, 1]. "
            f"Received: method={method!r}, quantile={quantile}"
        )
    place = int(np.ceil(quantile * (len(rows) - 1)))
    anchors = np.argpartition(rows, place, axis=0)[place]
    return TransitionMatrix(_row_stochastic(np.maximum(rows[anchors], 0.0)))


def _confident_joint(rows: FloatArray, labels: npt.NDArray[np.intp]) -> FloatArray:
    """Counts (C, C) of pixels by given and by true class, each row summing to its true number."""
    num_classes = rows.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    mean = np.array(
        [rows[labels == k, k].mean() if counts[k] else np.inf for k in range(len(counts))]
    )
    reached = rows >= mean - _ROUNDING
    sure = reached.any(axis=1)
    true = np.where(reached, rows, -1.0).argmax(axis=1)
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (labels[sure], true[sure]), 1.0)
    # A given class whose pixels are never sure stands for itself.
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1.0))
    return joint / joint.sum(axis=1, keepdims=True) * counts[:, None]


def _row_stochastic(counts: FloatArray) -> FloatArray:
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1.0), np.eye(len(counts)))


def _readings(
    given: npt.ArrayLike, shape: tuple[int, ...], num_classes: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Every label that was given, and the index of its pixel."""
    ids = _ids(np.asarray(given), num_classes)
    if ids.shape[: len(shape)] != shape or ids.ndim > len(shape) + 1:
        raise ValueError(
            f"`given` must have the shape of the pixels, {shape}, or one more axis of readers. "
            f"Received: shape={ids.shape}"
        )
    ids = ids.reshape(int(np.prod(shape)), -1)
    pixel, _ = np.nonzero(ids >= 0)
    return ids[ids >= 0], pixel


def _ids(ids: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.intp]:
    if ids.dtype.kind not in "iu" or (ids.size and ids.max() >= num_classes):
        raise ValueError(
            f"Labels must be integer class ids below {num_classes}, negative for void. "
            f"Received: {ids.dtype}" + (f" up to {ids.max()}" if ids.size else "")
        )
    return ids.astype(np.intp)


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"`rate` must be in [0, 1]. Received: rate={rate}")


def _log(transition: Any) -> Any:
    matrix = transition.matrix if isinstance(transition, TransitionMatrix) else transition
    matrix = np.asarray(matrix, dtype=np.float64)
    log_t = np.log(matrix, out=np.full(matrix.shape, _LOG_ZERO), where=matrix > 0)
    return ops.convert_to_tensor(log_t, dtype="float32")
