"""The few file-system calls that saved states and atomic writes are made of.

Everything that must survive a crash goes through this module, one function a call, so that a test
can stop the process, or fail the disk, at any one of them. POSIX only (Linux, macOS, WSL).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def create(path: Path) -> int:
    """Open a new, empty file for writing and return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def write(descriptor: int, data: memoryview) -> int:
    """Write some of `data` and return how many bytes were taken (it may be fewer than all)."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    """Return when the file's content has reached the disk."""
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor."""
    os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Return when the names in a directory have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create one directory, which must not exist."""
    os.mkdir(path)


def rename(source: Path, target: Path) -> None:
    """Give a file or a directory another name; a file that has that name is replaced."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Delete a file."""
    os.unlink(path)


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it."""
    shutil.rmtree(path)


def free_bytes(path: Path) -> int:
    """How many bytes this user may still write on the disk that holds `path`."""
    return shutil.disk_usage(path).free
