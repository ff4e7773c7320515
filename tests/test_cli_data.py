"""`robustseg check` and `robustseg noise` on small data sets made here."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_robustseg.cli import app


def _invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """Ten grey images with a square each, and a recipe for them; the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((32, 24), np.uint8)
        top, left = rng.integers(2, 10, 2)
        mask[top : top + 12, left : left + 10] = 1
        image = (80 * mask + rng.integers(0, 60, mask.shape)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"cells/images/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"cells/masks/{number}.png")
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "data:\n"
        "  source: {kind: folder, root: cells, classes: [background, cell]}\n"
        "  noise: [{kind: dilate, radius: [1, 3], probability: 0.5}]\n"
        "method: {kind: supervised}\n"
    )
    return tmp_path


def test_check_of_sound_data_is_quiet_and_says_what_it_holds(folder):
    for target in ("my.yaml", "cells"):
        result = _invoke("check", target, "--json", "report.json")
        report = json.loads((folder / "report.json").read_text())
        assert report["ok"]
        assert "10 samples" in result.stdout


def test_check_lists_damage_and_exits_with_2(folder):
    (folder / "cells/images/3.png").write_bytes(b"no picture")
    (folder / "cells/masks/5.png").unlink()
    result = _invoke("check", "my.yaml", "--json", "report.json", code=2)
    kinds = json.loads((folder / "report.json").read_text())["kinds"]
    assert {"unreadable", "missing_partner"} <= set(kinds)
    assert "3.png" in result.stdout
    assert "5.png" in result.stdout


def test_check_of_what_is_not_there_is_bad_input(folder):
    assert "no such recipe" in _invoke("check", "nowhere", code=2).stderr
    missing = _invoke("check", "my.yaml", "--set", "data.source.root=none", code=2)
    assert "none" in missing.stderr
    assert "--set" in _invoke("check", "cells", "--set", "seed=1", code=2).stderr
    unwritable = _invoke("check", "my.yaml", "--json", "no/such/report.json", code=2)
    assert unwritable.stderr == "error: no/such/report.json: No such file or directory\n"


def test_noise_draws_the_grid_of_a_recipe_and_its_manifest(folder):
    _invoke("noise", "my.yaml", "--out", "grid.png", "--samples", "2", "--manifest", "rows.jsonl")
    with Image.open(folder / "grid.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.getcolors(1 << 24)) > 20
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"dilate", "none"}
    assert all(row["dice"] == 1 for row in rows if row["kind"] == "none")
    assert all(0.3 < row["dice"] < 1 for row in rows if row["kind"] == "dilate")


def test_noise_shows_chosen_kinds_for_a_folder(folder):
    _invoke("noise", "cells", "--kind", "erode", "--kind", "shift", "--samples", "1")
    with Image.open(folder / "noise.png") as picture:
        two = picture.width
    _invoke("noise", "cells", "--kind", "erode", "--samples", "1")
    with Image.open(folder / "noise.png") as picture:
        assert picture.width < two


def test_noise_of_bad_input_is_one_line(folder):
    unknown = _invoke("noise", "cells", "--kind", "erod", code=2)
    assert "erod" in unknown.stderr
    empty = _invoke("noise", "cells", "--manifest", "rows.jsonl", code=2)
    assert "data.noise is empty" in empty.stderr
    assert not (folder / "noise.png").exists()
