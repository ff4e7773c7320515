"""One run in a directory at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import StateError
from ._leftovers import is_alive

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_PATIENCE = 200  # attempts, a hundredth of a second apart, at the lock of a run that has ended
_held: set[int] = set()


class RunLock:
    """Holds a run directory for this process, from `with` to the end of the block.

    The file `run.lock` is locked by the system (`flock`), so the lock ends with the process
    however that ends, and it says who holds it. On a file system without locks the process number
    in the file is all there is, and a second run on another machine is not noticed.

    Args:
        directory: the run directory; it is created.

    Attributes:
        note: what there is to tell about an earlier holder that did not end in order; else "".

    Raises:
        StateError: on entry, when another run holds the directory or it cannot be written.

    Example:
        >>> import tempfile
        >>> with RunLock(tempfile.mkdtemp()) as lock:
        ...     lock.path.name
        'run.lock'
    """

    def __init__(self, directory: str | Path):
        self.path = Path(directory) / "run.lock"
        self.note = ""
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._acquire()
            self._sign()
        except OSError as error:
            self._close()
            raise StateError(
                f"{self.path.parent}: the run directory cannot be written: "
                f"{error.strerror or error}. Choose another with --out, or change its permissions."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        # Removed while still locked: whoever waits for this file sees that its name has gone.
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._close()

    def _acquire(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                locks = self._flock(descriptor)
                if self._is_current(descriptor):
                    self._meet_earlier_holder(descriptor, locks)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # released and removed between open and lock: try again

    def _flock(self, descriptor: int) -> bool:
        """Lock, or raise when someone else holds the lock; False where there are no locks."""
        for attempt in range(_PATIENCE):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                holder = _wait_for_holder(descriptor)
                if not _has_ended(holder) or attempt + 1 == _PATIENCE:
                    raise _in_use(self.path, holder) from None
                # A worker that the holder forked as it was killed lets go in a moment.
                time.sleep(0.01)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        return False

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _meet_earlier_holder(self, descriptor: int, locks: bool) -> None:
        holder = _holder(descriptor)
        if not holder:
            return
        if not locks and _is_here(holder) and not _has_ended(holder):
            raise _in_use(self.path, holder)
        self.note = f"{self.path.parent}: taken over from {_words(holder)}, which did not end well."
        if not locks:
            self.note += " This file system has no locks: make sure that no other run uses it."

    def _sign(self) -> None:
        _held.add(self._descriptor)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": " ".join(sys.argv),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def _close(self) -> None:
        if self._descriptor >= 0:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _wait_for_holder(descriptor: int) -> dict[str, Any]:
    """Who holds the lock; a process that has just taken it signs within milliseconds."""
    for _ in range(50):
        holder = _holder(descriptor)
        if holder:
            return holder
        time.sleep(0.01)
    return {}


def _is_here(holder: dict[str, Any]) -> bool:
    return holder.get("host") == socket.gethostname()


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    return _is_here(holder) and not is_alive(int(holder.get("pid", 0)))


def _words(holder: dict[str, Any]) -> str:
    return "process {} on {}, started {} ({})".format(
        *(holder.get(key, "unknown") for key in ("pid", "host", "start", "command"))
    )


def _in_use(path: Path, holder: dict[str, Any]) -> StateError:
    return StateError(
        f"{path.parent}: in use by {_words(holder)}. Wait for that run to end, stop it, or choose "
        "another directory with --out."
    )


def _drop_in_child() -> None:
    # A forked worker must not keep the directory locked after the run itself was killed.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_in_child)
