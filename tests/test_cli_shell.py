"""The command line: what it calls, its exit codes, its one-line errors, and what it never loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from keras_robustseg import __version__
from keras_robustseg.cli import app
from keras_robustseg.errors import DataError
from keras_robustseg.recipes import list_recipes, load_recipe, recipe_from_dict
from keras_robustseg.training._stop import StopRequested


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Stand-ins for the modules that compute; they note their arguments."""
    monkeypatch.chdir(tmp_path)
    noted = []

    def note(name):
        def function(*args, **kwargs):
            noted.append((name, args, kwargs))
            return {}

        return function

    run = types.ModuleType("keras_robustseg.run")
    run.train, run.resume, run.evaluate = note("train"), note("resume"), note("evaluate")
    export = types.ModuleType("keras_robustseg.export")
    export.export_run = note("export")
    for module in (run, export):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(f"keras_robustseg.{module.__name__[16:]}", module, raising=False)
    return noted


def _invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_train_hands_over_the_checked_recipe_and_a_free_directory(calls):
    _invoke("train", "quickstart", "--set", "training.epochs=3", "--set", "data.noise=[]")
    [(name, (recipe, out), _)] = calls
    assert name == "train"
    assert recipe == load_recipe("quickstart", overrides=["training.epochs=3"])
    assert out == Path("runs/quickstart")
    assert not Path("runs").exists()


def test_train_counts_on_where_a_run_directory_is_taken(calls):
    Path("runs/quickstart").mkdir(parents=True)
    _invoke("train", "quickstart")
    for folder in ("runs/quickstart", "runs/quickstart-2"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "recipe.yaml").touch()
    _invoke("train", "quickstart")
    assert [out.name for _, (_, out), _ in calls] == ["quickstart", "quickstart-3"]


def test_train_refuses_a_directory_in_use(calls):
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    result = _invoke("train", "quickstart", "--out", "mine", code=2)
    assert result.stderr.startswith("error: mine: not an empty directory")
    assert not calls
    assert os.listdir("mine") == ["notes.txt"]


def test_train_refuses_a_directory_that_cannot_be_made(calls):
    Path("file").touch()
    result = _invoke("train", "quickstart", "--out", "file/run", code=2)
    assert result.stderr.splitlines() == [
        f"error: file/run: cannot be created, since {Path.cwd() / 'file'} is not a directory"
    ]
    assert not calls


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_train_refuses_a_directory_without_permission(calls):
    Path("locked").mkdir(mode=0o500)
    result = _invoke("train", "quickstart", "--out", "locked/run", code=2)
    assert "is not writable" in result.stderr
    assert not calls


def test_other_commands_hand_over_their_arguments(calls):
    Path("run").mkdir()
    _invoke("resume", "run")
    _invoke("evaluate", "run")
    _invoke("export", "run")
    _invoke(
        "export",
        "run",
        "--format",
        "onnx",
        "--format",
        "litert",
        "--name",
        "mine",
        "--size",
        "64x48",
    )
    assert calls == [
        ("resume", (Path("run"),), {}),
        ("evaluate", (Path("run"),), {}),
        ("export", (Path("run"),), {"formats": ("saved_model",), "name": None, "size": None}),
        (
            "export",
            (Path("run"),),
            {"formats": ("onnx", "litert"), "name": "mine", "size": (64, 48)},
        ),
    ]


@pytest.mark.parametrize("size", ["64", "0x64", "axb", "1x2x3x4", ""])
def test_a_wrong_export_size_is_bad_input(calls, size):
    Path("run").mkdir()
    assert "--size: got" in _invoke("export", "run", "--size", size, code=2).stderr
    assert not calls


@pytest.mark.parametrize("command", ["resume", "evaluate", "export"])
def test_a_run_that_is_not_there_is_bad_input(calls, command):
    result = _invoke(command, "nowhere", code=2)
    assert result.stderr == "error: nowhere: no such run directory\n"
    assert not calls


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (DataError("a.png: truncated\nb.png: empty"), 2, "error: a.png: truncated\nerror: b.png"),
        (PermissionError(13, "Permission denied", "runs"), 2, "error: runs: Permission denied\n"),
        (StopRequested("stopped; continue with robustseg resume r"), 75, "stopped; continue"),
        (ZeroDivisionError("oh"), 1, "error: ZeroDivisionError: oh\nThis is not expected"),
        (KeyboardInterrupt(), 1, "error: stopped before a state could be saved\n"),
    ],
)
def test_what_goes_wrong_has_its_exit_code_and_no_traceback(calls, monkeypatch, raised, code, text):
    def fail(*args):
        raise raised

    monkeypatch.setattr("keras_robustseg.run.train", fail)
    result = _invoke("train", "quickstart", code=code)
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.output


def test_traceback_is_there_on_request(calls, monkeypatch):
    monkeypatch.setenv("ROBUSTSEG_TRACEBACK", "1")
    result = _invoke("train", "no_such_recipe", code=2)
    assert "Traceback" in result.stderr
    assert "error: no_such_recipe: no such recipe" in result.stderr


def test_recipe_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = _invoke("recipe", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(list_recipes())
    assert "properties" in json.loads(_invoke("recipe", "--schema").stdout)
    assert _invoke("recipe", "copy", "quickstart", "my.yaml").stdout == "written: my.yaml\n"
    assert _invoke("recipe", "show", "quickstart").stdout == Path("my.yaml").read_text()
    shown = yaml.safe_load(_invoke("recipe", "show", "my.yaml", "--set", "seed=5").stdout)
    assert recipe_from_dict(shown) == load_recipe("quickstart", overrides=["seed=5"])
    assert "exists already" in _invoke("recipe", "copy", "quickstart", "my.yaml", code=2).stderr
    assert "expected --list" in _invoke("recipe", code=2).stderr


def test_recipe_errors_are_listed_one_a_line_and_nothing_is_left(calls):
    Path("my.yaml").write_text(
        "name: x\nmethod: {kind: pencil, trust: 0.1, alpha: 0.1}\ntraining: {epochs: 0}\n"
    )
    result = _invoke("train", "my.yaml", code=2)
    assert result.stderr.splitlines() == [
        "error: my.yaml:2: method: got trust and alpha, expected one of flip_margin, trust, alpha",
        "error: my.yaml:3: training.epochs: got 0, expected a whole number from 1 to 1000000",
        "error: my.yaml: data: missing, and it has no default",
    ]
    assert not calls
    assert os.listdir(".") == ["my.yaml"]


# In a process of its own


def _process(*arguments, cwd):
    command = [sys.executable, "-c", "from keras_robustseg.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


_REPORT = """
import sys
from keras_robustseg.cli import main
try:
    main()
finally:
    heavy = {"tensorflow", "keras", "tensorflow_datasets", "matplotlib"} & set(sys.modules)
    print(f"HEAVY {sorted(heavy)}")
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["recipe", "--schema"], 0),
        (["train", "quickstart", "--set", "training.epochs=0"], 2),
        (["train", "no_such_recipe"], 2),
        (["check", "no_such_folder"], 2),
    ],
    ids=str,
)
def test_fast_commands_load_nothing_heavy(arguments, code, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _REPORT, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert result.stdout.splitlines()[-1] == "HEAVY []"
    assert "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == []


def test_version_comes_from_the_package(tmp_path):
    result = _process("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"keras-robustseg {__version__}\n")


def test_a_reader_that_hangs_up_ends_it_without_a_word(tmp_path):
    command = [sys.executable, "-c", "from keras_robustseg.cli import main; main()"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [*command, "recipe", "--schema"],
            cwd=tmp_path,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert result.stderr == ""
