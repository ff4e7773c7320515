"""What is tuned: named hyper-parameters, and their one vector of free variables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robustseg.tuning._transforms import Transform, make_transform

PER = ("class", "feature", "annotator", "sample")
SAMPLE_WEIGHT = "sample_weight"


@dataclasses.dataclass(frozen=True, eq=False)
class Hyperparameter:
    """A hyper-parameter of an estimator: a number, or an array with one entry per something.

    Args:
        name: argument of the estimator's constructor that `hypergradient` knows ("l2", "l1",
            "feature_penalty", "class_weight", "sigma2" ...), or "sample_weight", which goes to
            `fit`.
        transform: "log" for what is positive, "sigmoid" for what lies between bounds, "identity".
        initial: where the tuner starts, a number or an array; None for 1 ("log"), the middle of
            the bounds ("sigmoid") or 0 ("identity").
        per: None for one number (or the shape of `initial`), "class", "feature", "annotator" (the
            `groups` of `fit`: the weight of a sample is that of its annotator), or "sample". The
            last two are for "sample_weight" only.
        shape: shape of the array, where neither `per` nor `initial` says it.
        bounds: least and greatest value; None for the widest that the transform allows.
        search: least and greatest value that grid and random search try; None for a factor of
            1000 to both sides ("log"), 0.02 to 0.98 of the bounds ("sigmoid"), or 3 to both sides.
        pull: strength of pull/2 sum (free - initial free)^2, added to the validation loss. Many
            hyper-parameters and a small clean set need one above 0.

    Raises:
        ValueError: an unknown transform or place, bounds in the wrong order, or an initial value
            outside them.

    Example:
        ```python
        Hyperparameter("l2", transform="log", initial=0.1, per="class")
        Hyperparameter("sample_weight", transform="sigmoid", per="annotator")
        ```
    """

    name: str
    transform: str = "log"
    initial: Any = None
    per: str | None = None
    shape: tuple[int, ...] | None = None
    bounds: tuple[float, float] | None = None
    search: tuple[float, float] | None = None
    pull: float = 0.0

    def __post_init__(self) -> None:
        if self.per is not None and self.per not in PER:
            raise ValueError(f"Expected per to be None or one of {PER}. Received: per={self.per!r}")
        if self.per in ("annotator", "sample") and self.name != SAMPLE_WEIGHT:
            raise ValueError(
                f"Expected per={self.per!r} with name='sample_weight', since only weights differ "
                f"from sample to sample. Received: name={self.name!r}"
            )
        if self.name == SAMPLE_WEIGHT and self.per not in ("annotator", "sample"):
            raise ValueError(
                "Expected per='annotator' or per='sample' for 'sample_weight'. "
                f"Received: per={self.per!r}"
            )
        if not self.pull >= 0:
            raise ValueError(f"Expected pull not negative. Received: pull={self.pull!r}")
        self._check_initial()

    def _check_initial(self) -> None:
        start, low, high = self.start(), self.map.low, self.map.high
        inside = (start >= low) & (start <= high)
        if self.map.name == "log":
            inside &= start > 0
        if not np.all(np.isfinite(start)) or not np.all(inside):
            raise ValueError(
                f"Expected initial values of {self.name!r} between {low} and {high}"
                f"{', above 0' if self.map.name == 'log' else ''}. "
                f"Received: initial={self.initial!r}"
            )

    @property
    def map(self) -> Transform:
        """The transform with its bounds."""
        return make_transform(self.transform, self.bounds)

    def start(self) -> np.ndarray:
        """Return the initial value, a number or an array."""
        if self.initial is not None:
            return np.asarray(self.initial, dtype=np.float64)
        if self.transform == "sigmoid":
            return np.asarray((self.map.low + self.map.high) / 2)
        return np.clip(1.0 if self.transform == "log" else 0.0, self.map.low, self.map.high)

    def search_range(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and greatest free variable of a search around `free`."""
        if self.search is not None:
            low, high = self.map.free(np.asarray(self.search, dtype=np.float64))
            return np.full_like(free, low), np.full_like(free, high)
        if self.transform == "sigmoid":
            far = np.log(0.98 / 0.02)
            return np.full_like(free, -far), np.full_like(free, far)
        far = np.log(1000.0) if self.transform == "log" else 3.0
        return np.maximum(free - far, self.map.limits()[0]), np.minimum(
            free + far, self.map.limits()[1]
        )


class Vector:
    """Several hyper-parameters as one vector of free variables.

    Args:
        hyperparameters: the records.
        sizes: how many there are of each place: {"class": C, "feature": F, "annotator": A,
            "sample": shape of the ids}.

    Raises:
        ValueError: an initial value does not fit its place.
    """

    def __init__(self, hyperparameters: Sequence[Hyperparameter], sizes: Mapping[str, Any]) -> None:
        self.parts = tuple(hyperparameters)
        self.shapes = [_shape(part, sizes) for part in self.parts]
        counts = [int(np.prod(shape)) for shape in self.shapes]
        ends = np.cumsum([0, *counts])
        self.slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.size = int(ends[-1])

    def initial(self) -> np.ndarray:
        """Return the free variables at the initial values."""
        rows = [
            np.broadcast_to(part.map.free(part.start()), shape).ravel()
            for part, shape in zip(self.parts, self.shapes, strict=True)
        ]
        return np.concatenate(rows).astype(np.float64)

    def values(self, free: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> value, in its shape."""
        return {
            part.name: part.map.value(free[where]).reshape(shape)
            for part, where, shape in zip(self.parts, self.slices, self.shapes, strict=True)
        }

    def free(self, values: Mapping[str, Any]) -> np.ndarray:
        """Return the free variables of values."""
        rows = [part.map.free(np.asarray(values[part.name])).ravel() for part in self.parts]
        return np.concatenate(rows)

    def pull_back(self, free: np.ndarray, gradients: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the gradient to the free variables, from those to the values."""
        rows = [
            np.asarray(gradients[part.name]).reshape(-1) * part.map.slope(free[where])
            for part, where in zip(self.parts, self.slices, strict=True)
        ]
        return np.concatenate(rows)

    def limits(self) -> np.ndarray:
        """Return (size, 2) bounds of the free variables."""
        rows = [
            np.tile(part.map.limits(), (where.stop - where.start, 1))
            for part, where in zip(self.parts, self.slices, strict=True)
        ]
        return np.concatenate(rows)

    def search_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and greatest free variables of a search."""
        start = self.initial()
        ranges = [
            part.search_range(start[where])
            for part, where in zip(self.parts, self.slices, strict=True)
        ]
        return np.concatenate([low for low, _ in ranges]), np.concatenate([h for _, h in ranges])

    def pulls(self) -> np.ndarray:
        """Return the strength of the pull to the start for each free variable."""
        rows = [
            np.full(where.stop - where.start, part.pull)
            for part, where in zip(self.parts, self.slices, strict=True)
        ]
        return np.concatenate(rows)


def check_records(hyperparameters: Sequence[Hyperparameter]) -> None:
    """Refuse what is not a list of records with different names.

    Raises:
        TypeError: an entry is no `Hyperparameter`.
        ValueError: there is none, or a name comes twice.
    """
    for part in hyperparameters:
        if not isinstance(part, Hyperparameter):
            raise TypeError(f"Expected tuning.Hyperparameter. Received: {part!r}")
    names = [part.name for part in hyperparameters]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected at least one hyper-parameter, each name once. Received: {names}"
        )


def _shape(part: Hyperparameter, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    start = part.start()
    if part.per is None:
        return part.shape if part.shape is not None else start.shape
    size = sizes[part.per]
    if size is None:
        raise ValueError(
            f"Expected `groups` in fit, an annotator for each sample, for {part.name!r} "
            "per='annotator'. Received: groups=None"
        )
    shape = tuple(size) if isinstance(size, tuple) else (int(size),)
    if start.shape not in ((), shape):
        raise ValueError(
            f"Expected initial of {part.name!r} to be a number or of shape {shape}, one per "
            f"{part.per}. Received: shape={start.shape}"
        )
    return shape
