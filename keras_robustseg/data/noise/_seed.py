"""Random numbers that depend on a seed's value alone: not on the order, the machine or the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

Seed = int | str | tuple["Seed", ...]
"""A number, a name, or a tuple of seeds, such as `(0, "patient 12")`."""


def generator(*seed: Seed) -> np.random.Generator:
    """Returns a generator keyed by a hash of `seed`; equal seeds give equal numbers everywhere.

    The 128-bit key of the counter-based generator Philox is a BLAKE2 digest, since Python's own
    `hash` of a text changes from process to process.

    Args:
        seed: Whole numbers, texts, or tuples of them. `(1, "a")` differs from `("1", "a")`.

    Example:
        `generator(0, "patient 12").random()`
    """
    text = "\x1f".join(_tokens(seed)).encode()
    key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


def _tokens(seed: Seed) -> Iterable[str]:
    if isinstance(seed, tuple):
        yield "("
        for part in seed:
            yield from _tokens(part)
        yield ")"
    elif isinstance(seed, str):
        yield "s" + seed
    else:
        yield f"i{int(seed)}"
