"""One run in a directory at a time."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keras_robustseg.errors import StateError
from keras_robustseg.training._lock import RunLock

CHILD = str(Path(__file__).with_name("state_children.py"))


def test_a_second_run_is_told_who_holds_the_directory(tmp_path):
    with RunLock(tmp_path / "run"):
        with pytest.raises(StateError) as error, RunLock(tmp_path / "run"):
            pytest.fail("two runs hold the lock")
        assert f"process {os.getpid()} on {socket.gethostname()}, started 20" in str(error.value)
        assert str(tmp_path / "run") in str(error.value)
    with RunLock(tmp_path / "run") as lock:
        assert lock.note == ""
    assert not lock.path.exists()


def test_the_lock_is_released_after_an_error_in_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path) as lock:
        assert lock.note == ""


def test_two_processes_at_once_have_one_winner(tmp_path):
    command = [sys.executable, CHILD, "race", str(tmp_path), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    results = json.loads(done.stdout)
    assert len(results) == 20
    for pair in results:
        assert sorted(text == "won" for text in pair) == [False, True], pair
        loser = next(text for text in pair if text != "won")
        assert "in use by process" in loser


def test_two_threads_at_once_have_one_winner(tmp_path):
    for _ in range(20):
        barrier, results = threading.Barrier(2), []

        def compete(barrier=barrier, results=results):
            barrier.wait()
            try:
                with RunLock(tmp_path):
                    results.append("won")
                    barrier.wait()
            except StateError:
                results.append("lost")
                barrier.wait()

        threads = [threading.Thread(target=compete) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert sorted(results) == ["lost", "won"]


def test_the_lock_of_a_killed_run_is_taken_over_with_a_note(tmp_path):
    command = [sys.executable, CHILD, "hold", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        holder, worker = json.loads(process.stdout.readline())
        with pytest.raises(StateError, match=f"process {holder} "), RunLock(tmp_path):
            pytest.fail("two runs hold the lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            with RunLock(tmp_path) as lock:  # although a worker that it forked lives on
                assert f"taken over from process {holder}" in lock.note
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_lock_file_that_is_removed_while_it_is_being_locked_does_not_count(tmp_path, monkeypatch):
    first, real, calls = RunLock(tmp_path).__enter__(), fcntl.flock, []

    def flock(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:  # the other run ends between our open and our lock
            first.__exit__()
        real(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    with RunLock(tmp_path):
        assert len(calls) == 2
        with pytest.raises(StateError, match="in use by"), RunLock(tmp_path):
            pytest.fail("two runs hold the lock")


def test_without_file_locks_a_living_process_is_respected(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with RunLock(tmp_path) as first:
        text = first.path.read_text()
        with pytest.raises(StateError, match=f"process {os.getpid()}"), RunLock(tmp_path):
            pytest.fail("two runs hold the lock")
    first.path.write_text(text.replace(str(os.getpid()), str(2**22 + 1)))
    with RunLock(tmp_path) as lock:
        assert "no locks" in lock.note


def test_an_unwritable_directory_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/run: the run directory cannot be written"):
        RunLock(tmp_path / "file" / "run").__enter__()
