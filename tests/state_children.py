"""Child processes of the state and lock tests: no TensorFlow, one thread, so that they can fork.

Run as `python state_children.py MODE ARGUMENTS...`; every mode prints one JSON value.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from keras_robustseg.errors import StateError
from keras_robustseg.training import _files
from keras_robustseg.training._lock import RunLock
from keras_robustseg.training._state import StateStore

CALLS = ["create", "write", "sync", "close", "sync_directory", "make_directory", "rename"]
CALLS += ["remove", "remove_tree", "free_bytes"]


def arrays(step: int, size: int = 150_000) -> dict[str, np.ndarray]:
    """Arrays that tell their step in every element; one is large enough for a file of its own."""
    return {"small": np.full(7, step, "int32"), "large": np.full(size, step, "float64")}


class Crash:
    """Ends the process at the n-th file-system call, as a power failure would.

    Half of the bytes of an interrupted write and half of an interrupted removal are done; what was
    not synced is garbled, and renames whose directory was not synced are undone.
    """

    def __init__(self, at: int):
        self.at, self.count = at, 0
        self.names: dict[int, Path] = {}
        self.dirty: dict[int, Path] = {}
        self.renames: list[tuple[Path, Path]] = []
        self.real = {name: getattr(_files, name) for name in CALLS}
        for name in CALLS:
            setattr(_files, name, self.wrap(name))

    def wrap(self, name):
        def call(*args):
            self.count += 1
            if self.count == self.at:
                self.crash(name, args)
            result = self.real[name](*args)
            self.note(name, args, result)
            return result

        return call

    def note(self, name: str, args: tuple, result: object) -> None:
        if name == "create":
            self.names[result] = self.dirty[result] = args[0]
        elif name == "sync":
            self.dirty.pop(args[0], None)
        elif name == "close" and args[0] in self.dirty:  # closed, yet not on the disk
            self.dirty[-1 - len(self.dirty)] = self.dirty.pop(args[0])
        elif name == "rename":
            self.renames.append(args)
            self.move_dirty(*args)
        elif name == "sync_directory":
            self.renames = [pair for pair in self.renames if pair[1].parent != args[0]]

    def move_dirty(self, source: Path, target: Path) -> None:
        """Follow the files that are not synced when they, or their directory, are renamed."""
        for key, path in self.dirty.items():
            if path == source:
                self.dirty[key] = target
            elif path.parent == source:
                self.dirty[key] = target / path.name

    def crash(self, name: str, args: tuple) -> None:
        if name == "write":
            self.real["write"](args[0], args[1][: len(args[1]) // 2])
        if name == "remove_tree":
            next(iter(args[0].iterdir())).unlink()
        for source, target in reversed(self.renames):
            if target.is_dir():
                target.rename(source)
                self.move_dirty(target, source)
        for path in self.dirty.values():
            if path.exists():
                path.write_bytes(os.urandom(path.stat().st_size))
        os._exit(9)


def crash(directory: str) -> list[dict]:
    """Crash a save at every call; report what loads afterwards, and after one more save."""
    results = []
    for n in range(1, 1000):
        room = Path(directory) / str(n)
        StateStore(room, keep=1).save(arrays(1), {"at": 1}, step=1)
        child = os.fork()
        if not child:
            Crash(n)
            StateStore(room, keep=1).save(arrays(2), {"at": 2}, step=2)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        latest = room / "state" / (room / "state" / "LATEST").read_text().strip()
        results.append({"code": code, "loaded": loaded(room), "latest": latest.is_dir()})
        StateStore(room, keep=1).save(arrays(3), {"at": 3}, step=3)
        left = sorted(path.name for path in (room / "state").iterdir())
        results[-1] |= {"next": loaded(room), "left": left}
        shutil.rmtree(room)
        if code == 0:
            break
    return results


def loaded(room: Path) -> int:
    """The step that loads, or -1 where a warning is given or an element is not of that step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = StateStore(room).load()
    whole = state.meta == {"at": state.step} and all(
        (array == state.step).all() and array.shape == arrays(0)[name].shape
        for name, array in state.arrays.items()
    )
    return state.step if whole and not caught and len(state.arrays) == 2 else -1


def save_many(directory: str, count: str) -> int:
    """Save `count` states one after another."""
    store = StateStore(directory, keep=1)
    for step in range(1, int(count) + 1):
        store.save(arrays(step), {"at": step}, step=step)
    return int(count)


def quota(directory: str) -> str:
    """Save under a file-size limit and return the error's text."""
    store = StateStore(directory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        store.save(arrays(2), {"at": 2}, step=2)
    except StateError as error:
        return str(error)
    return ""


def race(directory: str, repetitions: str) -> list[list[str]]:
    """Let two processes take one lock at the same moment; every third time over a dead holder's."""
    results = []
    for repetition in range(int(repetitions)):
        room = Path(directory) / str(repetition)
        room.mkdir()
        if repetition % 3 == 0:
            (room / "run.lock").write_text(json.dumps({"pid": 2**22 + 1, "host": "gone"}))
        start, answers = time.monotonic() + 0.02, []
        wait, release = os.pipe()
        for _ in range(2):
            answer, into = os.pipe()
            if not os.fork():
                os.close(release)
                compete(room, start, into, wait)
            os.close(into)
            answers.append(answer)
        results.append([os.read(answer, 4096).decode() for answer in answers])
        for descriptor in (release, wait, *answers):
            os.close(descriptor)
        os.wait()
        os.wait()
    return results


def compete(room: Path, start: float, into: int, wait: int) -> None:
    """Try to take the lock at `start`; hold it until both competitors have answered."""
    while time.monotonic() < start:
        pass
    try:
        with RunLock(room):
            os.write(into, b"won")
            os.read(wait, 1)
    except StateError as error:
        os.write(into, str(error).encode())
    os._exit(0)


def hold(directory: str) -> None:
    """Hold a lock, with a forked worker that lives on and lets go late, until killed."""
    with RunLock(directory) as lock:
        copy = os.dup(lock._descriptor)
        worker = os.fork()
        if worker:
            print(json.dumps([os.getpid(), worker]), flush=True)
            time.sleep(60)
        time.sleep(0.5)
        os.close(copy)
        time.sleep(60)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    value = globals()[mode](*rest)
    print(json.dumps(value))
