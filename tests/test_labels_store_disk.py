"""Label rows on a disk: they equal those on the device, survive, and take no memory."""

import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustseg.errors import StateError
from keras_robustseg.labels import DiskLabelStore, LabelStore, Pencil, make_label_store
from keras_robustseg.labels import _store_blocks as blocks_module
from keras_robustseg.labels import _store_size as size_module
from keras_robustseg.labels._store_blocks import BlockFile

STORAGES = ["float32", "float16", "uint8"]


def rows_file(path, rows=5000, width=2, storage="float32"):
    return BlockFile(path / "rows.bin", rows, width, storage)


def visit(file, rng, count=400):
    rows = rng.integers(0, 5000, count)
    file.add(rows, rng.normal(size=(count, file.width)).astype("float32"))


def everything(file, rows=5000):
    return file.read(np.arange(rows))


@pytest.mark.parametrize("storage", STORAGES)
def test_is_the_store_on_the_device(rng, tmp_path, storage):
    shapes = [(5, 6)] * 7
    disk = DiskLabelStore(shapes, 3, directory=tmp_path, storage=storage)
    device = LabelStore(shapes, 3, storage=storage)
    for _ in range(5):
        ids = rng.choice(7, 3, replace=False)
        update = rng.normal(size=(3, 5, 6, 2)).astype("float32")
        update[0, :2] = 0.0
        for store in (disk, device):
            index = ops.convert_to_numpy(store.index(ids))[:, :, ::-1].copy()
            store.add(index, update)
            found = ops.convert_to_numpy(store.read(index))
            other = found if store is disk else other  # noqa: F821
        np.testing.assert_allclose(found, other, atol=1e-6)
    for number in range(7):
        np.testing.assert_allclose(disk.sample(number), device.sample(number), atol=1e-6)


def test_interpolated_rows_are_those_of_the_device(rng, tmp_path):
    index = rng.integers(-1, 32, (2, 4, 4, 4)).astype("int32")
    weight = rng.uniform(size=index.shape).astype("float32")
    update = rng.normal(size=(2, 4, 4, 1)).astype("float32")
    read = []
    for store in (LabelStore([(4, 4)] * 2, 2), DiskLabelStore([(4, 4)] * 2, 2, directory=tmp_path)):
        store.add(index, update, weight)
        read.append(ops.convert_to_numpy(store.read(index, weight)))
    np.testing.assert_allclose(read[1], read[0], atol=1e-5)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_snapshot_outlives_what_comes_after_it(rng, tmp_path, storage):
    file = rows_file(tmp_path, storage=storage)
    saved = []
    for _ in range(5):
        visit(file, rng)
        saved.append((file.snapshot(), everything(file)))
        file.committed()
    visit(file, rng)
    for arrays, rows in saved[-2:]:  # the two states that a run keeps
        again = rows_file(tmp_path, storage=storage)
        again.restore(arrays)
        np.testing.assert_array_equal(everything(again), rows)


def test_going_on_from_a_snapshot_gives_the_same_bits(rng, tmp_path):
    for storage in STORAGES:
        (tmp_path / storage).mkdir()
        file = rows_file(tmp_path / storage, storage=storage)
        visit(file, np.random.default_rng(1))
        arrays = file.snapshot()
        file.committed()
        visit(file, np.random.default_rng(2))
        straight = everything(file)
        again = rows_file(tmp_path / storage, storage=storage)
        again.restore(arrays)
        visit(again, np.random.default_rng(2))
        np.testing.assert_array_equal(everything(again), straight)


def test_a_snapshot_that_was_never_saved_costs_nothing(rng, tmp_path):
    """The save failed: the two states before are still whole, and room does not run out."""
    file = rows_file(tmp_path)
    kept = []
    for _ in range(2):
        visit(file, rng)
        kept.append((file.snapshot(), everything(file)))
        file.committed()
    for _ in range(6):
        visit(file, rng, 4000)
        file.snapshot()
    for arrays, rows in kept:
        again = rows_file(tmp_path)
        again.restore(arrays)
        np.testing.assert_array_equal(everything(again), rows)


def in_a_child(work):
    """Run a function in a forked process and return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_process_leaves_the_last_snapshot_whole(rng, tmp_path):
    def work():
        file = rows_file(tmp_path)
        visit(file, rng)
        np.savez(tmp_path / "saved.npz", rows=everything(file), **file.snapshot())
        file.committed()
        for _ in range(3):
            visit(file, rng)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(work) == -signal.SIGKILL
    saved = dict(np.load(tmp_path / "saved.npz"))
    file = rows_file(tmp_path)
    file.restore(saved)
    np.testing.assert_array_equal(everything(file), saved["rows"])


def test_changed_missing_or_foreign_rows_are_noticed(rng, tmp_path):
    file = rows_file(tmp_path)
    visit(file, rng)
    arrays = file.snapshot()
    slot = int(arrays["table"][0].max())
    with (tmp_path / "rows.bin").open("r+b") as raw:
        raw.seek(slot * file._block_bytes + 5)
        raw.write(b"\x7f")
    again = rows_file(tmp_path)
    again.restore(arrays)
    with pytest.raises(StateError, match="missing or were changed"):
        everything(again)
    os.unlink(tmp_path / "rows.bin")
    empty = rows_file(tmp_path)
    empty.restore(arrays)
    with pytest.raises(StateError, match="missing"):
        everything(empty)
    with pytest.raises(StateError, match="another training"):
        rows_file(tmp_path, rows=99_000)
    with pytest.raises(StateError, match="other label rows"):
        rows_file(tmp_path / "..", rows=400).restore(arrays)


def test_nothing_is_written_for_rows_that_do_not_move(tmp_path):
    file = rows_file(tmp_path, rows=10**9, width=1)
    file.add(np.arange(1000), np.zeros((1000, 1), "float32"))
    assert file.used_blocks() == []
    assert file.read(np.array([0, 10**9 - 1])).tolist() == [[0.0], [0.0]]
    assert (tmp_path / "rows.bin").stat().st_blocks * 512 < 1 << 20


def resident():
    """Peak memory of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_flat_in_the_number_of_samples(tmp_path):
    """192 MiB of rows are visited by a process that grows by less than half of that."""
    ones = np.ones((1 << 18, 1), "float32")

    def work():
        file = BlockFile(tmp_path / "rows.bin", 1 << 28, 1, "float32")
        file.add(np.arange(1 << 18), ones)
        before = resident()
        for k in range(1, 193):
            file.add(np.arange(1 << 18) + (k << 20), ones)
        os._exit(min(resident() - before, 255))

    assert in_a_child(work) < 90


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks_module.os, "posix_fallocate", full)
    store = DiskLabelStore([(4, 4)] * 2, 2, directory=tmp_path)
    index = ops.convert_to_numpy(store.index(np.array([1])))
    store.add(index, np.ones((1, 4, 4, 1), "float32"))
    with pytest.raises(StateError, match="no room for label rows"):
        store.snapshot()


def test_a_store_larger_than_the_disk_is_refused_with_a_way_out(monkeypatch, tmp_path):
    class Usage:
        free = 1000

    monkeypatch.setattr(size_module.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ValueError, match=r"on the disk of .*float16.*label_directory.*teacher"):
        DiskLabelStore([(64, 64)] * 10, 2, directory=tmp_path)


def test_rows_travel_with_a_saved_layer(rng, tmp_path):
    first = DiskLabelStore([(40, 50)] * 3, 3, directory=tmp_path / "a", storage="float16")
    index = ops.convert_to_numpy(first.index(np.array([1])))
    first.add(index, rng.normal(size=(1, 40, 50, 2)).astype("float32"))
    first.save_assets(str(tmp_path))
    again = DiskLabelStore.from_config(first.get_config())
    again.load_assets(str(tmp_path))
    for number in range(3):
        np.testing.assert_array_equal(again.sample(number), first.sample(number))


def test_the_label_model_says_which_store(tmp_path):
    shapes = [(4, 4)] * 2
    assert make_label_store(Pencil(store="none"), shapes, 2) is None
    assert make_label_store(Pencil(store="teacher"), shapes, 2) is None
    small = make_label_store(Pencil(storage="uint8"), shapes, 2)
    assert keras.backend.standardize_dtype(small.delta.dtype) == "uint8"
    disk = make_label_store(Pencil(store="disk", storage="float16"), shapes, 2, tmp_path)
    assert isinstance(disk, DiskLabelStore)
    assert disk.storage == "float16"
    assert (tmp_path / "label_rows.bin").exists()
