"""Pixels as a linear model sees them: features with an intercept, in blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

# Rows of a block in memory: large enough for BLAS, small enough for the cache.
BLOCK = 8192


class Design(NamedTuple):
    """Features x (n, F), dense or CSR, of a block, and whether a column of ones follows them.

    Coefficients are V (P, K), P = F + 1 with the intercept in the last row, or F without one.
    Everything per pixel has the pixels on its last axis, (K, n), where NumPy is fast.
    """

    x: Any
    intercept: bool

    @property
    def rows(self) -> int:
        """Number P of rows of the coefficients."""
        return self.x.shape[1] + self.intercept

    def scores(self, V: np.ndarray) -> np.ndarray:
        """Return V^T x of each pixel, (K, n)."""
        features = self.x.shape[1]
        if sparse.issparse(self.x):
            found = np.ascontiguousarray((self.x @ V[:features]).T)
        else:
            found = V[:features].T @ self.x.T
        if self.intercept:
            found += V[features][:, None]
        return found

    def pull(self, residual: np.ndarray) -> np.ndarray:
        """Return the sum over pixels of x residual^T, (P, K), from (K, n)."""
        found = self.x.T @ residual.T if sparse.issparse(self.x) else (residual @ self.x).T
        return np.vstack([found, residual.sum(axis=1)]) if self.intercept else found

    def gram(self, weight: np.ndarray) -> np.ndarray:
        """Return the sum over pixels of weight x x^T, (P, P), from (n,)."""
        weighted = sparse.diags_array(weight) @ self.x if sparse.issparse(self.x) else None
        if weighted is None:
            weighted = self.x * weight[:, None]
        square = self.x.T @ weighted
        square = square.toarray() if sparse.issparse(square) else square
        if not self.intercept:
            return square
        border = np.asarray(weighted.sum(axis=0)).reshape(-1, 1)
        return np.block([[square, border], [border.T, np.full((1, 1), weight.sum())]])


class Block(NamedTuple):
    """A design of n pixels and the masses (C, n) of their classes."""

    design: Design
    masses: np.ndarray


class Pixels(NamedTuple):
    """All pixels that count, as a re-iterable of blocks.

    Args:
        blocks: call it for a fresh pass over the blocks.
        size: number of pixels.
        class_masses: (C,) mass of each class.
        rows: P.
        intercept: whether the last row of the coefficients is an intercept.
    """

    blocks: Callable[[], Iterable[Block]]
    size: int
    class_masses: np.ndarray
    rows: int
    intercept: bool


def in_memory(x: Any, masses: np.ndarray, intercept: bool) -> Pixels:
    """Return pixels that are held in memory.

    Args:
        x: (n, F) dense or CSR, all of which counts.
        masses: (n, C).
        intercept: whether the model has one.

    Example:
        `in_memory(np.eye(3), np.eye(3), True).rows  # 4`
    """
    ends = range(0, x.shape[0], BLOCK)
    turned = [np.ascontiguousarray(masses[start : start + BLOCK].T) for start in ends]

    def blocks() -> Iterator[Block]:
        for start, block in zip(ends, turned, strict=True):
            part = x[start : start + BLOCK].astype(np.float64, copy=False)
            yield Block(Design(part, intercept), block)

    sums = masses.sum(axis=0)
    return Pixels(blocks, x.shape[0], sums, x.shape[1] + intercept, intercept)


def thinned(pixels: Pixels, wanted: int) -> Pixels:
    """Return about `wanted` random pixels, with masses that stand for all.

    Example:
        `thinned(pixels, 20_000)`
    """
    share = wanted / pixels.size
    rng = np.random.default_rng(0)
    parts, masses = [], []
    for block in pixels.blocks():
        kept = np.flatnonzero(rng.random(block.masses.shape[1]) < share)
        parts.append(block.design.x[kept])
        masses.append(block.masses[:, kept].T / share)
    x: Any = np.concatenate(parts) if not sparse.issparse(parts[0]) else sparse.vstack(parts, "csr")
    return in_memory(x, np.concatenate(masses), pixels.intercept)


def with_features(pixels: Pixels, features: np.ndarray) -> Pixels:
    """Return the pixels with some of their features alone.

    Example:
        `with_features(pixels, np.array([0, 3]))`
    """

    def blocks() -> Iterator[Block]:
        for block in pixels.blocks():
            yield Block(Design(block.design.x[:, features], pixels.intercept), block.masses)

    return pixels._replace(blocks=blocks, rows=len(features) + pixels.intercept)
