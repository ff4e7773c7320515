"""Temporary names that tell who made them, so that what a killed process left can be removed."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from . import _files

_TEMPORARY = re.compile(r"\.tmp-(?P<pid>\d+)-(?P<name>.+)")


def temporary(path: Path) -> Path:
    """The name under which `path` is prepared by this process, in the same directory."""
    return path.with_name(f".tmp-{os.getpid()}-{path.name}")


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number `pid`."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, and belongs to someone else
        return True
    return True


def remove_leftovers(directory: Path, name: str = "") -> None:
    """Delete temporary files and directories that nobody is writing any more.

    Those are of processes that have ended, and of this one, which does one write at a time: its
    own are of a failed removal, or of an earlier process that had the same number.

    Args:
        directory: where to look.
        name: only those that were to become a file of this name; empty for all.
    """
    for path in directory.glob(".tmp-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and name in ("", match["name"]) and _is_abandoned(int(match["pid"])):
            discard(path)


def discard(path: Path) -> None:
    """Delete a file or a directory if it is there; what cannot be deleted now is left for later."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            _files.remove_tree(path)
        elif os.path.lexists(path):
            _files.remove(path)


def _is_abandoned(pid: int) -> bool:
    return pid == os.getpid() or not is_alive(pid)
