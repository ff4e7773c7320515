"""Saved states: round trip, order, pruning, leftovers, and what the errors say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from keras_robustseg.errors import StateError
from keras_robustseg.training import _files, _state_arrays
from keras_robustseg.training._state import StateStore


def _equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """The same names, types, shapes and bits, in the same order."""
    return list(left) == list(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(left.values(), right.values(), strict=True)
    )


def _every_bit_pattern(dtype: str) -> np.ndarray:
    unsigned = {"bfloat16": np.uint16, "float16": np.uint16, "float8_e5m2": np.uint8}[dtype]
    words = np.arange(np.iinfo(unsigned).max + 1, dtype=unsigned)
    return words.view(getattr(ml_dtypes, dtype, dtype))


@pytest.mark.parametrize("large", [1, 1 << 20], ids=["own files", "shared file"])
def test_arrays_return_bit_for_bit(tmp_path, rng, monkeypatch, large):
    monkeypatch.setattr(_state_arrays, "LARGE", large)
    monkeypatch.setattr(_state_arrays, "_CHUNK", 1000)  # so that arrays need several pieces
    arrays = {
        "unet/conv_1/kernel": rng.normal(size=(3, 3, 4, 8)).astype("float32"),
        "../../escape": rng.integers(0, 255, 11, dtype="uint8"),
        "": np.array(2.5),
        "ünïcode \ud800": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "bfloat16": _every_bit_pattern("bfloat16"),
        "float16": _every_bit_pattern("float16"),
        "float8": _every_bit_pattern("float8_e5m2"),
        "bool": rng.random((5, 7)) < 0.5,
        "empty": np.zeros((4, 0, 3), "int16"),
        "empty bfloat16": np.zeros((0,), ml_dtypes.bfloat16),
        "complex": rng.normal(size=(2, 2)) + 1j,
        "int64": np.array([-(2**63), 2**63 - 1]),
    }
    StateStore(tmp_path).save(arrays, {}, step=3)
    assert _equal(StateStore(tmp_path).load(strict=True).arrays, arrays)
    assert not (tmp_path.parent / "escape").exists()


def test_layout_in_memory_does_not_matter(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(_state_arrays, "_CHUNK", 64)
    base = rng.normal(size=(6, 7, 5))
    views = {
        "transposed": base.T,
        "reversed": base[::-1, ::2],
        "fortran": np.asfortranarray(base),
        "broadcast": np.broadcast_to(base[0, 0], (3, 5)),
        "bfloat16 view": base.astype(ml_dtypes.bfloat16)[:, ::-1].T,
        "big endian": base.astype(">f4"),
    }
    StateStore(tmp_path).save(views, {}, step=0)
    native = {k: np.array(v, v.dtype.newbyteorder("=")) for k, v in views.items()}
    assert _equal(StateStore(tmp_path).load().arrays, native)


def test_meta_returns_exactly(tmp_path, rng):
    meta = {
        "z": 1,
        "a": [0.1, 1e-300, float(rng.normal())],
        "history": [{"epoch": 0, "loss": 1 / 3}, {"loss": float("inf"), "epoch": 1}],
        "text": "Größe\n\u2028",
        "nothing": None,
    }
    StateStore(tmp_path).save({}, meta | {"np": np.int64(4), "t": (1, 2)}, step=1)
    back = StateStore(tmp_path).load()
    assert back.meta == meta | {"np": 4, "t": [1, 2]}
    assert list(back.meta)[:3] == ["z", "a", "history"]
    assert list(back.meta["history"][1]) == ["loss", "epoch"]
    StateStore(tmp_path).save({}, {"nan": float("nan")}, step=2)
    assert np.isnan(StateStore(tmp_path).load().meta["nan"])


def test_newest_is_loaded_and_older_ones_are_pruned(tmp_path):
    store = StateStore(tmp_path, keep=2)
    assert store.load() is None
    paths = [store.save({"x": np.array(s)}, {}, step=s) for s in (0, 9, 10, 123_456_789, 10**9)]
    state = store.load()
    assert (state.step, int(state.arrays["x"]), state.path) == (10**9, 10**9, paths[-1])
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert left == {"step-123456789", "step-1000000000", "LATEST"}
    assert (tmp_path / "state" / "LATEST").read_text() == "step-1000000000\n"


def test_the_same_step_may_be_saved_again_but_not_an_earlier_one(tmp_path):
    store = StateStore(tmp_path, keep=3)
    for value in range(12):
        store.save({"x": np.array(value)}, {}, step=5)
    assert int(store.load().arrays["x"]) == 11
    assert len(list((tmp_path / "state").glob("step-*"))) == 3
    with pytest.raises(StateError, match=r"holds a state of step 5.*step 4"):
        store.save({}, {}, step=4)
    assert int(store.load().arrays["x"]) == 11


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    state = tmp_path / "state"
    for pid in (process.pid, os.getppid()):
        (state / f".tmp-{pid}-step-00000001").mkdir(parents=True)
        (state / f".tmp-{pid}-step-00000001" / "small.bin").write_bytes(b"x")
    StateStore(tmp_path).save({}, {}, step=1)
    assert [p.name for p in state.glob(".tmp-*")] == [f".tmp-{os.getppid()}-step-00000001"]


@pytest.mark.parametrize("bad", [np.array(["a"]), np.array([{}]), np.zeros(2, "i4,f4"), b"x"])
def test_what_is_not_numbers_is_refused_by_name(tmp_path, bad):
    with pytest.raises(StateError, match="state array 'names': type"):
        StateStore(tmp_path).save({"ok": np.ones(2), "names": bad}, {}, step=1)
    assert StateStore(tmp_path).load() is None


def test_meta_that_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        StateStore(tmp_path).save({"x": np.ones(2)}, {"f": print}, step=1)
    assert list((tmp_path / "state").iterdir()) == []


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    store = StateStore(tmp_path)
    store.save({"x": np.ones(2)}, {}, step=1)
    monkeypatch.setattr(_files, "free_bytes", lambda path: 5_000_000)
    monkeypatch.setattr(_files, "create", lambda path: pytest.fail("wrote"))
    with pytest.raises(StateError) as error:
        store.save({"x": np.zeros(10**6)}, {}, step=2)
    assert f"needs {8 * 10**6 + 2**20:,} bytes" in str(error.value)
    assert "5,000,000" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert store.load().step == 1


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/run/state: cannot be written"):
        StateStore(tmp_path / "file" / "run").save({}, {}, step=1)


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        StateStore(tmp_path, keep=0)


class _MadeOnDemand(Mapping):
    """Two arrays of 32 MB, of which only the one that was asked for exists."""

    def __getitem__(self, name: str) -> np.ndarray:
        return np.full(4_000_000, float(name))

    def __iter__(self) -> Iterator[str]:
        return iter(("1", "2"))

    def __len__(self) -> int:
        return 2


def test_large_arrays_are_written_without_a_second_copy(tmp_path):
    tracemalloc.start()
    StateStore(tmp_path).save(_MadeOnDemand(), {}, step=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    state = StateStore(tmp_path).load()
    peak_load = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.4 * 32e6 + 32e6  # the array at hand, the one before it until it is replaced
    assert peak_load < 1.05 * 64e6  # what is returned
    assert state.arrays["2"].sum() == 8e6


def test_transposed_arrays_are_not_copied_either(tmp_path, rng):
    array = rng.random((2000, 4000)).T  # 64 MB
    tracemalloc.start()
    StateStore(tmp_path).save({"x": array}, {}, step=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * array.nbytes
    assert np.array_equal(StateStore(tmp_path).load().arrays["x"], array)


def test_manifest_tells_where_everything_lies(tmp_path):
    path = StateStore(tmp_path).save({"a": np.arange(3), "b": np.ones(2**20)}, {}, step=8)
    manifest = json.loads((path / "manifest.json").read_text())["manifest"]
    assert (manifest["format"], manifest["step"]) == (1, 8)
    first, second = manifest["arrays"]
    raw = (path / second["file"]).read_bytes()
    assert first["file"] != second["file"]
    assert np.array_equal(np.frombuffer(raw, second["dtype"]), np.ones(2**20))


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from keras_robustseg.training import _state, _lock, _history;"
        "print([m for m in ('tensorflow', 'keras', 'jax', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (
        Path(_files.__file__).read_text().count("def ") == 10
    )  # all of them are in the fault tests
