"""Curves and overlays: what is drawn is where it should be, in the right colours."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from keras_robustseg import report
from keras_robustseg.errors import StateError
from keras_robustseg.report import _canvas, _figures, _overlays


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, to look into."""
    figures = []
    for module in (_figures, _overlays):
        real = module.save_png
        monkeypatch.setattr(module, "save_png", lambda f, p, r=real: (figures.append(f), r(f, p)))
    return figures


def _rows(count: int) -> list[dict]:
    return [
        {"epoch": e, "loss": 1 / (e + 1), "dice": e / count, "lr": 0.1, "phase": "ab"[e >= 3]}
        | ({"val_loss": 2.0, "val_dice": float("nan")} if e % 2 else {})
        for e in range(count)
    ]


def test_curves_show_the_history(tmp_path, drawn):
    report.curves(_rows(7), tmp_path / "curves.png")
    loss, dice = drawn[0].axes
    lines = {line.get_label(): line for axes in (loss, dice) for line in axes.get_lines()}
    assert sorted(lines) == ["dice", "loss", "val_dice", "val_loss"]
    assert np.array_equal(lines["loss"].get_xdata(), np.arange(1, 8))
    assert np.array_equal(lines["loss"].get_ydata(), 1 / np.arange(1, 8))
    assert np.array_equal(lines["val_loss"].get_xdata(), [2, 4, 6])
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in loss.patches]
    assert spans == [(0.5, 3.5), (3.5, 7.5)]
    assert [text.get_text() for text in loss.texts] == ["a", "b"]
    assert Image.open(tmp_path / "curves.png").size[0] > 800


@pytest.mark.parametrize("rows", [[], [{"epoch": 0, "loss": 1.0}], _rows(100)], ids=len)
def test_curves_of_any_length(tmp_path, rows):
    report.curves(rows, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").format == "PNG"


def test_equal_figures_are_equal_files_from_any_thread(tmp_path):
    names = [tmp_path / f"{index}.png" for index in range(3)]
    report.curves(_rows(5), names[0])
    threads = [threading.Thread(target=report.curves, args=(_rows(5), n)) for n in names[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len({name.read_bytes() for name in names}) == 1


def test_a_figure_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StateError, match=r"missing/curves\.png: cannot be written"):
        report.curves(_rows(2), tmp_path / "missing" / "curves.png")


def _item(rng, shape: tuple[int, ...], channels: int, classes: int) -> report.OverlayItem:
    truth = rng.integers(0, classes, shape)
    return report.OverlayItem(rng.normal(size=(*shape, channels)), truth, truth, truth, truth, "x")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "classes"), [((9, 13), 2), ((4, 9, 13), 4), ((1, 1), 2)])
def test_any_kind_of_image_is_drawn(tmp_path, rng, drawn, channels, shape, classes):
    items = [_item(rng, shape, channels, classes) for _ in range(2)]
    report.overlays(items, tmp_path / "overlays.png")
    picture = drawn[0].axes[0].images[0].get_array()
    assert picture.shape == ((*shape[-2:], 3) if channels == 3 else shape[-2:])
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert len(drawn[0].axes) == 10


def test_rendered_images_are_called_so(tmp_path, rng, drawn):
    for rendered in (True, False):
        report.overlays([_item(rng, (8, 8), 1, 2)], tmp_path / "o.png", rendered=rendered)
    titles = [[axes.get_title() for axes in figure.axes] for figure in drawn]
    assert titles[0] == ["rendered image", "given mask", "corrected mask", "prediction", "truth"]
    assert titles[1][0] == "image"


def test_columns_that_nobody_has_are_left_out_and_gaps_are_named(tmp_path, rng, drawn):
    image, mask = rng.random((8, 8, 1)), np.eye(8, dtype=int)
    items = [report.OverlayItem(image, mask, mask), report.OverlayItem(image, mask)]
    report.overlays(items, tmp_path / "overlays.png")
    axes = drawn[0].axes
    assert [a.get_title() for a in axes[:3]] == ["image", "given mask", "corrected mask"]
    assert [text.get_text() for text in axes[5].texts] == ["none"]


def test_outlines_run_along_the_pixels_of_their_class(tmp_path, drawn):
    mask = np.zeros((20, 30), int)
    mask[5:9, 0:12] = 1  # touches the border
    mask[12:18, 20:26] = 2
    mask[:, 28:] = -1
    truth = np.where(mask == 1, 1, 0)
    item = report.OverlayItem(np.zeros((20, 30, 1)), mask, prediction=mask[::-1], truth=truth)
    report.overlays([item], tmp_path / "overlays.png", classes=("none", "vein", "bone"))
    given = drawn[0].axes[1]
    boxes = {}
    for lines in given.collections:
        points = np.concatenate([path.vertices for path in lines.get_paths()])
        boxes[tuple(lines.get_edgecolor()[0])] = [*points.min(axis=0), *points.max(axis=0)]
    from matplotlib.colors import to_rgba

    assert boxes[to_rgba(_canvas.BRIGHT[0])] == [-0.5, 4.5, 11.5, 8.5]
    assert boxes[to_rgba(_canvas.BRIGHT[1])] == [19.5, 11.5, 25.5, 17.5]
    assert boxes[to_rgba("white")] == [-0.5, 4.5, 11.5, 8.5]  # the truth has class 1 only
    veil = np.asarray(given.images[1].get_array())[..., 3]
    assert np.array_equal(veil > 0, mask < 0)
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["vein", "bone", "truth"]


def test_the_slice_of_a_volume_is_the_middle_one_of_its_object(tmp_path, drawn):
    image = np.broadcast_to(np.arange(9)[:, None, None, None], (9, 6, 6, 1)) + np.eye(6)[..., None]
    mask = np.zeros((9, 6, 6), int)
    mask[5:8, 2:4, 2:4] = 1
    report.overlays([report.OverlayItem(image, mask, title="case")], tmp_path / "o.png")
    empty = report.OverlayItem(image, np.zeros_like(mask))
    report.overlays([empty], tmp_path / "o.png")
    assert [figure.axes[0].get_ylabel() for figure in drawn] == ["case, slice 6", "slice 4"]
    assert np.array_equal(drawn[0].axes[0].images[0].get_array(), np.eye(6))


def test_no_items_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        report.overlays([], tmp_path / "overlays.png")
