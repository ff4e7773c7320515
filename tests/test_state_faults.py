"""Saved states under crashes, full disks, damaged files and concurrent readers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from state_children import CALLS, arrays

from keras_robustseg.errors import StateError
from keras_robustseg.training import _atomic, _files, _state_arrays
from keras_robustseg.training._state import StateStore

CHILD = str(Path(__file__).with_name("state_children.py"))


def _start(*arguments: object) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(*arguments: object) -> object:
    with _start(*arguments) as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(out)


def _load_quietly(store: StateStore):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return store.load()


def _same(state, step: int) -> bool:
    expected = arrays(step)
    return (
        state.step == step
        and state.meta == {"at": step}
        and list(state.arrays) == list(expected)
        and all(np.array_equal(state.arrays[name], expected[name]) for name in expected)
    )


def test_a_crash_at_any_call_leaves_the_old_or_the_new_state(tmp_path):
    results = _answer("crash", tmp_path)
    assert len(results) > 15
    assert [row["code"] for row in results] == [9] * (len(results) - 1) + [0]
    loaded = [row["loaded"] for row in results]
    assert set(loaded) == {1, 2}
    assert loaded == sorted(loaded)  # once the new state is there, it stays
    assert all(row["latest"] for row in results)  # it never names what is not there
    assert {row["next"] for row in results} == {3}
    assert {tuple(row["left"]) for row in results} == {("LATEST", "step-00000003")}


class _Failing:
    """Makes the n-th file-system call fail, once or from then on."""

    def __init__(self, monkeypatch, at: int, code: int, lasting: bool):
        self.at, self.code, self.lasting, self.count = at, code, lasting, 0
        for name in CALLS:
            monkeypatch.setattr(_files, name, self.wrap(getattr(_files, name)))

    def wrap(self, real):
        def call(*args):
            self.count += 1
            if self.count == self.at or (self.lasting and self.count > self.at):
                if real.__name__ == "close":  # as on Linux: closed even when it reports an error
                    real(*args)
                raise OSError(self.code, os.strerror(self.code))
            return real(*args)

        return call


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_of_any_call_leaves_a_whole_state_and_says_so(tmp_path, code, lasting):
    for n in range(1, 1000):
        room = tmp_path / str(n)
        StateStore(room, keep=1).save(arrays(1), {"at": 1}, step=1)
        failed = ""
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            failing = _Failing(patch, n, code, lasting)
            try:
                StateStore(room, keep=1).save(arrays(2), {"at": 2}, step=2)
            except StateError as error:
                failed = str(error)
        state = StateStore(room).load(strict=True)
        assert _same(state, 2) or (failed and _same(state, 1)), n
        if failed:
            assert all(word in failed for word in (str(room), os.strerror(code), "bytes, free"))
        if not lasting:
            assert failed == "" or not list((room / "state").glob(".tmp-*")), n
        StateStore(room).save(arrays(3), {"at": 3}, step=3)
        assert not list((room / "state").glob(".tmp-*"))
        shutil.rmtree(room)
        if failing.count < n:
            break
    assert n > 15


def test_short_writes_are_completed(tmp_path, monkeypatch, rng):
    real = _files.write
    monkeypatch.setattr(_files, "write", lambda fd, data: real(fd, data[: rng.integers(1, 99_999)]))
    StateStore(tmp_path).save(arrays(4), {"at": 4}, step=4)
    assert _same(StateStore(tmp_path).load(strict=True), 4)


def test_a_file_size_quota_spares_the_state_before(tmp_path):
    StateStore(tmp_path).save(arrays(1), {"at": 1}, step=1)
    message = _answer("quota", tmp_path)
    assert os.strerror(errno.EFBIG) in message
    assert str(tmp_path) in message
    assert _same(StateStore(tmp_path).load(strict=True), 1)
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["LATEST", "step-00000001"]


@pytest.fixture
def two_states(tmp_path, rng, monkeypatch):
    """A store with states of random bits at steps 1 and 2, small enough to damage them often."""
    monkeypatch.setattr(_state_arrays, "LARGE", 512)
    store = StateStore(tmp_path / "run")
    truth = {}
    for step in (1, 2):
        truth[step] = {
            "w": rng.normal(size=(5, 7)),
            "rows": rng.normal(size=(9, 33)).astype("float32"),
            "flag": np.array(True),
        }
        store.save(truth[step], {"epoch": step, "loss": float(rng.normal())}, step=step)
    return store, truth


def _check_fallback(store: StateStore, truth: dict) -> int:
    """Load; assert that what came is exactly a state that was saved. Return its step."""
    state = _load_quietly(store)
    assert state.meta["epoch"] == state.step
    for name, array in truth[state.step].items():
        back = state.arrays[name]
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()
    return state.step


def _damaged_copies(store: StateStore, room: Path, rng, count: int):
    newest = max((store.directory).glob("step-*")).name
    for index in range(count):
        copy = StateStore(room / str(index))
        shutil.copytree(store.directory, copy.directory)
        files = sorted((copy.directory / newest).iterdir())
        sizes = np.array([path.stat().st_size for path in files], float)
        # Half of the hits by size, half file by file, so that the small files are hit as well.
        file = files[rng.choice(len(files), p=sizes / sizes.sum())]
        yield copy, file if index % 2 else files[index // 2 % len(files)]
        shutil.rmtree(room / str(index))


def test_flipped_bits_are_never_taken_for_the_state(two_states, tmp_path, rng):
    store, truth = two_states
    steps = []
    for copy, file in _damaged_copies(store, tmp_path / "copies", rng, 300):
        data = bytearray(file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        steps.append(_check_fallback(copy, truth))
    assert steps == [1] * 300


def test_truncated_files_are_never_taken_for_the_state(two_states, tmp_path, rng):
    store, truth = two_states
    for copy, file in _damaged_copies(store, tmp_path / "copies", rng, 64):
        with file.open("r+b") as stream:
            stream.truncate(rng.integers(file.stat().st_size))
        assert _check_fallback(copy, truth) == 1


def test_files_of_another_state_are_never_taken_for_the_state(two_states, tmp_path):
    store, truth = two_states
    names = [path.name for path in (store.directory / "step-00000002").iterdir()]
    for name in names:
        copy = StateStore(tmp_path / name)
        shutil.copytree(store.directory, copy.directory)
        old, new = (copy.directory / f"step-{step:08d}" / name for step in (1, 2))
        shutil.copy(old, new)
        assert _check_fallback(copy, truth) == 1
    assert len(names) == 4


def test_a_missing_file_and_a_whole_directory_under_a_wrong_name_are_damage(two_states, tmp_path):
    store, truth = two_states
    shutil.copytree(store.directory / "step-00000001", store.directory / "step-00000003")
    (store.directory / "step-00000002" / "meta.json").unlink()
    assert _check_fallback(store, truth) == 1
    left = {path.name for path in store.directory.iterdir()}
    assert left == {"LATEST", "step-00000001", "corrupt-step-00000002", "corrupt-step-00000003"}


def test_a_damaged_state_is_set_aside_with_a_warning_or_stops_a_strict_load(two_states):
    store, _ = two_states
    bad = store.directory / "step-00000002" / "small.bin"
    bad.write_bytes(b"\0" * bad.stat().st_size)
    with pytest.raises(StateError, match=r"step-00000002: array 'w' in small.bin has changed"):
        store.load(strict=True)
    with pytest.warns(RuntimeWarning, match=r"damaged \(array 'w'.*corrupt-step-00000002"):
        assert store.load().step == 1
    assert store.load(strict=True).step == 1


def test_when_every_state_is_damaged_it_is_an_error_each_time(two_states):
    store, _ = two_states
    for path in store.directory.glob("step-*/manifest.json"):
        path.write_text("<html>")
    for _ in range(2):
        with pytest.raises(StateError, match="No state to go on from") as error:
            store.load()
    assert all(
        f"step-0000000{step}: manifest.json is damaged" in str(error.value) for step in (1, 2)
    )


def test_a_state_that_may_not_be_read_is_not_given_up(two_states, monkeypatch):
    store, _ = two_states

    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(StateError, match="cannot be read"):
        store.load()
    assert not list(store.directory.glob("corrupt-*"))


def test_a_reader_sees_whole_states_while_they_are_saved(tmp_path):
    store = StateStore(tmp_path)
    seen = []
    with _start("save_many", tmp_path, 200) as writer:
        while writer.poll() is None:
            state = store.load(strict=True)
            if state is not None:
                seen.append(state.step)
                assert all((array == state.step).all() for array in state.arrays.values())
                assert state.meta == {"at": state.step}
    assert writer.returncode == 0
    assert len(set(seen)) > 20
    assert seen == sorted(seen)
    assert store.load().step == 200


def test_atomic_files_keep_their_content_when_a_call_fails(tmp_path):
    path = tmp_path / "metrics.json"
    for n in range(1, 100):
        _atomic.write_json_atomic(path, {"n": 0})
        with pytest.MonkeyPatch.context() as patch:
            failing = _Failing(patch, n, errno.ENOSPC, False)
            try:
                _atomic.write_json_atomic(path, {"n": n})
                complete = True
            except StateError as error:
                complete = str(path) not in str(error)
        assert json.loads(path.read_text())["n"] in ((n,) if complete else (0, n))
        assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
        if failing.count < n:
            break
    assert n > 5


def test_json_holds_no_nan(tmp_path):
    _atomic.write_json_atomic(
        tmp_path / "m.json",
        {"a": [np.float32(0.5), np.nan], "b": np.array([[1, 2]]), 3: (True, None), "p": tmp_path},
    )
    text = (tmp_path / "m.json").read_text()
    expected = {"a": [0.5, None], "b": [[1, 2]], "3": [True, None], "p": str(tmp_path)}
    assert json.loads(text, parse_constant=pytest.fail) == expected
