"""The store of saved states of a run: whole or not at all, verified before use.

    state/.tmp-PID-step-00001234/  -> files synced -> directory synced
    state/step-00001234/           <- rename, parent synced
    state/LATEST                   <- replaced in one step (for people and other tools)
    older states                   <- removed only now
A process that is killed at any moment leaves the state before or the state after, never neither.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StateError
from . import _files
from ._atomic import storage_error, write_text_atomic
from ._leftovers import discard, remove_leftovers, temporary
from ._state_arrays import checked
from ._state_files import State, directory_name, read_state, saved_states, write_state

# What the system says when a file is damaged or gone; anything else (permissions, too many open
# files) says nothing about the state, which must then not be given up.
_DAMAGE = {errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
_MARGIN = 1 << 20  # bytes for the manifest and what the file system itself needs


class StateStore:
    """Saved states of one run, in `directory/state`.

    One process saves (see `RunLock`); any number may load meanwhile.

    Args:
        directory: the run directory; it is created with the first save.
        keep: how many states are kept, the newest ones.

    Example:
        >>> import tempfile
        >>> store = StateStore(tempfile.mkdtemp())
        >>> path = store.save({"w": np.arange(3.0)}, {"epoch": 2}, step=70)
        >>> state = store.load()
        >>> path.name, state.step, state.meta["epoch"], state.arrays["w"].tolist()
        ('step-00000070', 70, 2, [0.0, 1.0, 2.0])
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep: got {keep}, at least one state must be kept")
        self.directory = Path(directory) / "state"
        self.keep = keep

    def save(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], *, step: int) -> Path:
        """Save a state and return its directory.

        Args:
            arrays: numbers and booleans by name, any shape and layout, bfloat16 as well. The
                mapping is gone through twice (sizes, then contents), one array at a time, and
                nothing is copied whole.
            meta: what JSON can hold; NaN and infinity too. Tuples come back as lists.
            step: optimizer steps done; at least that of the newest state there is.

        Raises:
            StateError: no space, no permission, or a state of a later step is there. The states
                that were there before are intact and nothing half-written is left.
        """
        needed = sum(array.nbytes for _, array in checked(arrays)) + _MARGIN
        prepared: Path | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.directory)
            path = self._free_name(step)
            self._check_space(path, needed)
            prepared = temporary(path)
            write_state(prepared, arrays, dict(meta), step=step)
            _files.rename(prepared, path)
            _files.sync_directory(self.directory)
        except OSError as error:
            raise storage_error(self.directory, error, needed=needed) from error
        finally:
            if prepared is not None:
                discard(prepared)
        write_text_atomic(self.directory / "LATEST", path.name + "\n")
        self._prune()
        return path

    def load(self, strict: bool = False) -> State | None:
        """Read the newest state whose every byte is as it was written.

        A damaged state is set aside as `corrupt-*` with a warning, and the one before it is used.

        Args:
            strict: raise instead, and change nothing.

        Returns:
            The state, or None where none was ever saved.

        Raises:
            StateError: none of the saved states is whole, or the files cannot be opened.
        """
        while True:
            try:
                return self._newest(strict)
            except _RemovedMeanwhileError:
                continue  # a saving process pruned what was being read, so there is a newer one

    def _newest(self, strict: bool) -> State | None:
        damaged: list[tuple[Path, str]] = []
        for step, _, path in reversed(saved_states(self.directory)):
            try:
                state = _read(path, step)
            except ValueError as error:
                damaged.append((path, str(error)))
                if strict:
                    break
            else:
                for bad, reason in damaged:
                    _set_aside(bad, reason, used=path)
                return state
        if damaged:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in damaged)
            raise StateError(
                f"No state to go on from: {reasons}. Restore the files from a copy, or delete "
                f"{self.directory} to start this run again from the beginning."
            )
        return None

    def _free_name(self, step: int) -> Path:
        """A directory name that is not taken: a state is never replaced by one of its own step."""
        states = saved_states(self.directory)
        last, again = states[-1][:2] if states else (-1, -1)
        if step < last:
            raise StateError(
                f"{self.directory}: holds a state of step {last}, and now one of step {step} is to "
                "be saved. Resume the run that is there, or use another directory."
            )
        return self.directory / directory_name(step, again + 1 if step == last else 0)

    def _check_space(self, path: Path, needed: int) -> None:
        if _files.free_bytes(self.directory) < needed:
            full = OSError(errno.ENOSPC, "not enough space left on the disk")
            raise storage_error(path, full, needed=needed)

    def _prune(self) -> None:
        """Remove all but the newest states, each by one rename first so that none is seen half."""
        for _, _, path in saved_states(self.directory)[: -self.keep]:
            gone = temporary(path)
            try:
                _files.rename(path, gone)
            except OSError as error:
                warnings.warn(f"{path}: old state not removed: {error}", stacklevel=3)
            discard(gone)


class _RemovedMeanwhileError(Exception):
    """A state vanished while it was being read."""


def _read(path: Path, step: int) -> State:
    """`read_state`, with everything that means damage as a ValueError."""
    try:
        return read_state(path, step=step)
    except OSError as error:
        if not path.exists():
            raise _RemovedMeanwhileError from error
        if error.errno not in _DAMAGE:
            raise StateError(f"{path}: the saved state cannot be read: {error}") from error
        raise ValueError(str(error)) from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its manifest is not understood ({error!r})") from error


def _set_aside(path: Path, reason: str, *, used: Path) -> None:
    target = path.with_name(f"corrupt-{path.name}")
    try:
        discard(target)
        _files.rename(path, target)
        where = f"it is now {target.name}"
    except OSError as error:
        where = f"it could not be renamed: {error}"
    warnings.warn(
        f"{path}: this saved state is damaged ({reason}); {where}. Going on from {used.name}.",
        RuntimeWarning,
        stacklevel=4,
    )
