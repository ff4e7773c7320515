"""The preview of noise: a grid with one picture for each noise, the same every time."""

import numpy as np
import pytest
from PIL import Image

from keras_robustseg.data import noise
from keras_robustseg.data._source import Example
from keras_robustseg.report._noise_figure import preview


def example(shape, readers=1):
    rng = np.random.default_rng(0)
    mask = np.zeros((*shape, readers), np.int16)
    mask[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    mask[tuple(slice(0, 2) for _ in shape)] = -1
    image = rng.random((*shape, 1)).astype(np.float32) + mask[..., :1]
    return Example(image, mask, None, (1.0,) * len(shape))


def test_preview_has_a_column_for_each_noise_and_repeats(tmp_path):
    rows = [example((40, 40)), example((12, 40, 40), readers=2)]
    kinds = [noise.reader(), noise.dilate(3), noise.markov(40)]
    preview(rows, kinds, 0, tmp_path / "a.png", rendered=True, classes=("background", "disc"))
    preview(rows, kinds, 0, tmp_path / "b.png", rendered=True, classes=("background", "disc"))
    preview(rows, {"one": kinds[0]}, 0, tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    wide, narrow = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ac")
    assert wide.shape[1] / narrow.shape[1] == pytest.approx(5 / 3, rel=0.01)
    coloured = np.ptp(wide[..., :3].astype(int), axis=-1) > 60
    assert coloured[:, -wide.shape[1] // 5 :].any()


def test_preview_shows_void_and_empty_masks_and_refuses_nothing_at_all(tmp_path):
    empty = example((20, 30))
    empty = Example(empty.image, np.zeros_like(empty.mask), None, empty.spacing)
    preview([empty], [noise.dilate(2)], 0, tmp_path / "empty.png")
    assert Image.open(tmp_path / "empty.png").size[0] > 100
    with pytest.raises(ValueError, match="got no examples"):
        preview([], [noise.dilate(2)], 0, tmp_path / "none.png")
