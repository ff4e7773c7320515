"""What each kind of annotation noise does to a few masks, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ._canvas import new_figure, save_png
from ._overlays import _add_legend, _outline, _picture, _veil_void

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from keras_robustseg.data.noise import Mixture, Noise

_WIDTH = 2.1  # inches of one picture


class Masked(Protocol):
    """An image (*S, channels) with the masks (*S, R) of its readers, such as `data.Example`."""

    @property
    def image(self) -> np.ndarray: ...
    @property
    def mask(self) -> np.ndarray: ...
    @property
    def spacing(self) -> tuple[float, ...]: ...


def preview(
    examples: Sequence[Masked],
    noises: Mapping[str, Noise | Mixture] | Sequence[Noise],
    seed: int,
    path: str | Path,
    *,
    rendered: bool = False,
    classes: Sequence[str] = (),
) -> None:
    """Draw a grid: a row for each example, image | mask | the mask under each noise, with its Dice.

    Outlines have one colour a class; below a noisy one the mask it was made from is drawn in
    white. Of several readers the first who drew is shown. Volumes get their noise in 3-D; then
    one slice along the first axis is shown, the middle one of those with an object.

    Args:
        examples: the rows, at least one.
        noises: title -> noise, or noises, whose kinds are their titles; at least one.
        seed: example i gets the noise of the seed `(seed, i)`.
        path: the PNG file.
        rendered: say on the figure that the images are rendered, not photographed or scanned.
        classes: names of the classes, background first, for the legend.

    Raises:
        ValueError: there are no examples or no noises.
        StateError: the file cannot be written.

    Example:
        `preview([source.load(0)], [noise.reader(), noise.dilate(2)], 0, "noise.png")`
    """
    named = dict(noises) if isinstance(noises, Mapping) else {n.kind: n for n in noises}
    if not examples or not named:
        raise ValueError("noise preview: got no examples or no noises, expected one of each")
    shapes = [example.image.shape[-3:-1] for example in examples]
    heights = [_WIDTH * height / width for height, width in shapes]
    columns = len(named) + 2
    figure = new_figure(_WIDTH * columns, sum(heights) + 0.3 * len(examples) + 0.6)
    grid = figure.subplots(len(examples), columns, squeeze=False, height_ratios=heights)
    for number, (row, example) in enumerate(zip(grid, examples, strict=True)):
        _draw_row(row, example, named, (seed, number))
    titles = ("rendered image" if rendered else "image", "mask", *named)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    largest = max(int(example.mask.max(initial=0)) for example in examples)
    _add_legend(figure, largest, classes, truth=False)
    save_png(figure, path)


def _draw_row(
    row: Sequence[Axes],
    example: Masked,
    noises: Mapping[str, Noise | Mixture],
    seed: tuple[int, int],
) -> None:
    from keras_robustseg.data.noise import measure

    clean = _first_drawn(example.mask)
    cut = _middle(clean)
    picture = _picture(example.image if cut is None else example.image[cut])
    masks: list[np.ndarray | None] = [None, clean]
    masks += [noise(clean, seed=seed, spacing=example.spacing) for noise in noises.values()]
    for column, (axes, mask) in enumerate(zip(row, masks, strict=True)):
        axes.set(xticks=[], yticks=[])
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if mask is None:
            continue
        _draw_mask(axes, mask, clean if column > 1 else None, cut)
        if column > 1:
            row_dice = measure(mask, clean, num_classes=_classes(mask, clean))["dice"]
            axes.set_xlabel("no object" if row_dice is None else f"Dice {row_dice:.2f}", fontsize=8)


def _draw_mask(axes: Axes, mask: np.ndarray, clean: np.ndarray | None, cut: int | None) -> None:
    shown = mask if cut is None else mask[cut]
    _veil_void(axes, shown)
    if clean is not None:
        _outline(axes, clean if cut is None else clean[cut], reference=True)
    _outline(axes, shown)


def _first_drawn(masks: np.ndarray) -> np.ndarray:
    """The mask of the first reader who gave one."""
    given = (masks >= 0).any(axis=tuple(range(masks.ndim - 1)))
    return masks[..., int(np.argmax(given))]


def _middle(mask: np.ndarray) -> int | None:
    """The slice of a volume to show; None for an image."""
    if mask.ndim == 2:
        return None
    filled = np.flatnonzero((mask > 0).any(axis=(1, 2)))
    return int(filled[len(filled) // 2]) if len(filled) else len(mask) // 2


def _classes(*masks: np.ndarray) -> int:
    return max(2, *(int(mask.max(initial=0)) + 1 for mask in masks))
