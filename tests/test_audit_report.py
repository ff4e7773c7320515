"""What an audit leaves: tables, the page, the command, and a run that is audited."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import os
import re

import numpy as np
import pytest
from audit_cells import cells, predict, samples
from PIL import Image
from typer.testing import CliRunner

from keras_robustseg import report as report_room
from keras_robustseg.cli import app
from keras_robustseg.data import noise
from keras_robustseg.errors import DataError, StateError
from keras_robustseg.report import AuditSample, audit
from keras_robustseg.report._audit_data import MemoryData
from keras_robustseg.report._audit_write import AuditWriter

EVIL = '<script>alert("1")</script>&/../x\'.png'


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


class Rendered(MemoryData):
    """Samples of a source that says its images are rendered."""

    rendered = True
    notice = "Licence <b>&"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_json_and_page_tell_the_same(rng, tmp_path):
    made, _ = samples(rng, 6, noise.missing(1.0))
    report = audit(Rendered(made, ("none", "<i>", "two")), tmp_path / "out", overlays=4)
    out = tmp_path / "out"
    images, objects = rows_of(out / "images.csv"), rows_of(out / "objects.csv")
    body = json.loads((out / "audit.json").read_text())
    assert [row["id"] for row in images] == [row["id"] for row in body["images"]]
    assert {row["id"] for row in images[:3]} == {"case 1", "case 3", "case 5"}
    severities = [float(row["severity"]) for row in images]
    assert severities == sorted(severities, reverse=True)
    assert [int(row["rank"]) for row in images] == list(range(1, 7))
    assert {row["kind"] for row in objects[:6]} == {"missing"}
    assert sum(int(row["missing"]) for row in images) == sum(
        row["kind"] == "missing" for row in objects
    )
    changed = sum(int(row["pixels"]) for row in rows_of(out / "confusions.csv"))
    assert changed == body["summary"]["wrong_pixels"]
    assert changed == sum(int(row["wrong_pixels"]) for row in images)
    page = Page((out / "audit.html").read_text())
    shown = [card["data-name"] for card in page.all("article")]
    assert shown == [row["id"] for row in images[:4]]
    assert "rendered by software" in page.text
    assert all("Rendered image" in image["alt"] for image in page.all("img"))
    assert "Licence <b>&" in page.text
    assert report.summary["rendered_images"]


def test_corrected_masks_are_the_given_ones_but_for_what_is_marked(rng, tmp_path):
    made, _ = samples(rng, 4, noise.dilate(3))
    audit(made, tmp_path / "out", pixel_scores=True)
    rows = {row["id"]: row for row in rows_of(tmp_path / "out" / "images.csv")}
    for sample in made:
        name = tmp_path / "out" / "corrected_masks" / f"{sample.id}.png"
        corrected = np.asarray(Image.open(name))
        marked = int((corrected != sample.mask).sum())
        assert marked == int(rows[sample.id]["wrong_pixels"])
        scores = np.load(tmp_path / "out" / "pixel_scores" / f"{sample.id}.npy")
        assert scores.shape == sample.mask.shape
        assert 0 <= scores.min() <= scores.max() <= 1


def test_the_page_needs_nothing_else_and_escapes_names(rng, tmp_path):
    truth = cells(rng)
    made = [
        AuditSample(name, truth, predict(truth, 3, rng)) for name in (EVIL, "=cmd()", "é\udcff")
    ]
    audit(made, tmp_path / "out")
    text = (tmp_path / "out" / "audit.html").read_text()
    page = Page(text)
    assert EVIL not in text
    assert EVIL in [card["data-name"] for card in page.all("article")]
    assert len(page.all("script")) == 1
    assert "src" not in page.all("script")[0]
    assert page.all("link") == []
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'src="[^"]*"', "", text))
    policy = next(m["content"] for m in page.all("meta") if "content" in m and "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    names = sorted(p.name for p in (tmp_path / "out" / "corrected_masks").iterdir())
    assert len(names) == 3
    assert all("/" not in name and not name.startswith(".") for name in names)
    table = (tmp_path / "out" / "images.csv").read_text()
    assert "'=cmd()" in table


def test_the_page_can_be_used_without_eyes_or_mouse(rng, tmp_path):
    made, _ = samples(rng, 4, noise.missing(1.0))
    audit(made, tmp_path / "out")
    page = Page((tmp_path / "out" / "audit.html").read_text())
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("label")) == len(page.all("select")) + len(page.all("input"))
    assert all(cell.get("scope") == "col" for cell in page.all("th"))
    options = {o["value"] for o in page.all("option")}
    for card in page.all("article"):
        assert set(card["data-kinds"].split()) <= options
        assert set(card["data-classes"].split()) <= options
    assert any("missing" in card["data-kinds"] for card in page.all("article"))


def test_the_page_stays_small(rng, tmp_path):
    made, _ = samples(rng, 12, noise.shift(4), shape=(96, 80))
    audit(made, tmp_path / "out", overlays=5)
    text = (tmp_path / "out" / "audit.html").read_text()
    page = Page(text)
    assert len(page.all("article")) == 5
    assert len(text) < 5 * 80_000 + 30_000
    first = base64.b64decode(page.all("img")[0]["src"].partition(",")[2])
    width, height = Image.open(io.BytesIO(first)).size
    assert height <= 220
    assert width <= 3 * 220 + 8
    assert "5 that look worst of 12" in page.text


def test_volumes_show_the_slice_that_looks_worst(rng, tmp_path):
    truth = np.zeros((12, 24, 22), np.int16)
    truth[1:11, 6:16, 6:16] = 1
    given = truth.copy()
    given[4:6] = 0
    audit([AuditSample("volume", given, predict(truth, 3, rng, noise=0.2))], tmp_path / "out")
    text = Page((tmp_path / "out" / "audit.html").read_text()).text
    assert re.search(r"volume, slice [45]\D", text)


@pytest.mark.parametrize("fails", ["save_mask", "page", "rename"])
def test_a_failure_leaves_nothing_half_written(rng, tmp_path, monkeypatch, fails):
    made, _ = samples(rng, 2)

    def refuse(*unused, **also_unused):
        raise OSError(28, "No space left on device")

    if fails == "save_mask":
        monkeypatch.setattr(MemoryData, "save_mask", refuse)
    elif fails == "page":
        monkeypatch.setattr("keras_robustseg.report._audit_write.page", refuse)
    else:
        monkeypatch.setattr("keras_robustseg.report._audit_write._files.rename", refuse)
    with pytest.raises((OSError, StateError), match="No space left"):
        audit(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked_before_anything_is_read(tmp_path):
    for setting in ({"method": "x"}, {"min_region": 0}, {"overlays": -1}):
        with pytest.raises(ValueError, match="Received"):
            audit([], tmp_path / "out", **setting)
    with pytest.raises(DataError, match="no samples"):
        audit([])
    with pytest.raises(DataError, match="expected a sequence"):
        audit(iter([]))


def test_names_that_make_the_same_file_are_told_apart(tmp_path):
    writer = AuditWriter(
        tmp_path / "out", MemoryData([AuditSample("a", None, np.zeros((1, 2)))]), 0, False
    )
    names = [writer._name(sample_id) for sample_id in ("a/b", "a_b", "A_B", "..", "é" * 200)]
    assert names[:3] == ["a_b", "a_b-2", "A_B-3"]
    assert names[3] == "_"
    assert len(names[4].encode()) <= 150


def test_both_methods_are_offered(rng):
    made, _ = samples(rng, 6, noise.missing(1.0))
    report = audit(made, method="cleanlab")
    assert [row["severity"] for row in report.images] == pytest.approx(
        [1 - row["softmin"] for row in report.images]
    )
    assert report.summary["method"] == "cleanlab"
    assert hasattr(report_room, "open_predictions")


# The command --------------------------------------------------------------------


def saved(rng, path):
    made, _ = samples(rng, 4, noise.missing(1.0))
    np.savez(
        path,
        probabilities=np.stack([s.probabilities for s in made]),
        mask=np.stack([s.mask for s in made]),
        image=np.stack([s.image for s in made]),
    )


def test_the_command_prints_and_writes(rng, tmp_path):
    saved(rng, tmp_path / "p.npz")
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "p.npz"), "--overlays", "1"])
    assert result.exit_code == 0, result.output
    assert "worst masks" in result.output
    assert "not identifiable without clean masks" in " ".join(result.output.split())
    assert (tmp_path / "p-audit" / "audit.html").exists()
    again = CliRunner().invoke(app, ["audit", str(tmp_path / "p.npz")])
    assert again.exit_code == 2
    assert "is not empty" in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "not found"),
        (["p.npz", "--method", "magic"], "magic"),
        (["p.npz", "--out", "p.npz"], "is a file"),
        (["p.npz", "--data", "no.yaml"], "no.yaml"),
    ],
)
def test_the_command_refuses_bad_input_at_once(rng, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    saved(rng, tmp_path / "p.npz")
    result = CliRunner().invoke(app, ["audit", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert os.listdir(tmp_path) == ["p.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pencil", "supervised"])
def test_a_run_is_audited_with_its_network_and_its_label_rows(tmp_path, method):
    from test_run import PENCIL, write

    from keras_robustseg import run

    supervised = "{kind: supervised, loss: {kind: cross_entropy_dice}}"
    recipe = write(tmp_path, method=PENCIL if method == "pencil" else supervised)
    folder = tmp_path / "run"
    run.train(recipe, folder, verbose=0)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = CliRunner().invoke(app, ["audit", str(folder)])
    assert result.exit_code == 0, result.output
    rows = rows_of(folder / "audit" / "images.csv")
    assert len(rows) == len(list((folder / "audit" / "corrected_masks").iterdir())) > 0
    assert before == {p: p.read_bytes() for p in before}
    body = json.loads((folder / "audit" / "audit.json").read_text())
    assert ("label rows" in body["summary"]["origin"]) == (method == "pencil")
    unseen = CliRunner().invoke(
        app, ["audit", str(folder), "--split", "test", "--out", str(tmp_path / "test")]
    )
    assert unseen.exit_code == 0, unseen.output
    refused = CliRunner().invoke(
        app, ["audit", str(folder), "--data", "x", "--out", str(tmp_path / "b")]
    )
    assert refused.exit_code == 2
    (folder / "network.keras").unlink()
    unfinished = CliRunner().invoke(app, ["audit", str(folder), "--out", str(tmp_path / "c")])
    assert unfinished.exit_code == 2
    assert "resume" in unfinished.output
